"""Cropping a picture with its mask and its points does not move the object in it."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from loci import Lifter
from loci.flow import State
from loci.geometry.camera import Camera
from loci.geometry.rotations import quaternion_to_matrix
from loci.io.images import read_pixels
from loci.io.models import SHIPPED
from loci.objects.asset import Asset
from loci.objects.inputs.masks import read_mask
from loci.objects.pipeline import LiftPipeline
from loci.objects.placement.pose import encode_pose
from loci.objects.placement.refinement import RefinementConfig
from tests.objects.lifters import example, example_pointmap, small_lifter

FOV = 40.0
BORDER = 3
"""Pixels that a crop leaves around the mask."""


class Crop(NamedTuple):
    """Columns left:right and rows top:bottom."""

    left: int
    top: int
    right: int
    bottom: int

    def of(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array[self.top : self.bottom, self.left : self.right])


def random_crops(mask: np.ndarray, count: int, seed: int) -> list[Crop]:
    """Crops around the mask; the first leaves as little as may be at the left and the top."""
    rows, columns = np.nonzero(mask)
    left, top = int(columns.min()) - BORDER, int(rows.min()) - BORDER
    height, width = mask.shape
    rng = np.random.default_rng(seed)
    right, bottom = (int(v.max()) + 1 + BORDER for v in (columns, rows))
    drawn = [
        Crop(
            int(rng.integers(0, left + 1)),
            int(rng.integers(0, top + 1)),
            int(rng.integers(min(right, width), width + 1)),
            int(rng.integers(min(bottom, height), height + 1)),
        )
        for _ in range(count - 1)
    ]
    return [Crop(left, top, width, height), *drawn]


def on_picture(asset: Asset, points: Tensor, crop: Crop) -> Tensor:
    """Where points of the object are seen, in pixels of the picture before it was cropped."""
    camera = Camera.identity(asset.fov, asset.principal)
    size = crop.bottom - crop.top, crop.right - crop.left
    seen = camera.project(asset.pose.place(points[None])[0], size)[:, :2]
    return seen + seen.new_tensor([crop.left, crop.top])


def cube() -> Tensor:
    """Corners of the object's space."""
    return torch.cartesian_prod(*(torch.tensor([-0.5, 0.5]),) * 3)


PIXELS, INSIDE = example(48, 64)
POINTS = example_pointmap(48, 64, FOV)
WHOLE = Crop(0, 0, 64, 48)


def intrinsics(crop: Crop) -> np.ndarray:
    focal = 32 / np.tan(np.radians(FOV / 2))
    return np.array([[focal, 0, 32 - crop.left], [0, focal, 24 - crop.top], [0, 0, 1]])


def given(crop: Crop, geometry: str) -> dict[str, Any]:
    """What is known of a crop's geometry."""
    if geometry == "points":
        return {"pointmap": crop.of(POINTS)}
    known = {"intrinsics": intrinsics(crop)}
    return known | ({"pointmap": crop.of(POINTS[..., 2])} if geometry == "depths" else {})


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("geometry", ["points", "depths"])
def test_what_a_perfect_model_sees_is_not_moved_by_a_crop(
    geometry: str, refined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By more than a pixel, by whatever is done before and after the networks."""
    lifter = small_lifter(refinement=RefinementConfig() if refined else None)
    sample = LiftPipeline._sample_structures
    whole = lifter(PIXELS, INSIDE, photo=False, **given(WHOLE, geometry))
    rotation, translation, scale = whole.pose
    shapes: list[Tensor] = []

    def perfect(self: LiftPipeline, conditions: Any) -> list[State]:
        """The first shape, at its place in the units of this crop."""
        (found,) = sample(self, conditions)
        shapes.append(found["shape"])
        units = (part[None] for part in self.requests[0].normalizer)
        pose = encode_pose(quaternion_to_matrix(rotation), translation, scale, *units)
        return [{**found, **pose, "shape": shapes[0]}]

    monkeypatch.setattr(LiftPipeline, "_sample_structures", perfect)
    expected = lifter(PIXELS, INSIDE, photo=False, **given(WHOLE, geometry))
    there = on_picture(expected, cube(), WHOLE)
    for crop in random_crops(INSIDE, 8, seed=0):
        found = lifter(crop.of(PIXELS), crop.of(INSIDE), photo=False, **given(crop, geometry))
        moved = (on_picture(found, cube(), crop) - there).norm(dim=1)
        assert moved.max() < 1, crop
        torch.testing.assert_close(
            found.pose.translation, expected.pose.translation, atol=0.02, rtol=0
        )


def test_home_leaves_its_example_in_its_place() -> None:
    """The shape changes with the crop, since the scene around it does, but not its place."""
    folder = SHIPPED / "home"
    pixels = read_pixels(folder / "example.png")
    inside = read_mask(str(folder / "example_mask.png"), "mask")
    height, width = inside.shape
    depths = torch.from_numpy(np.where(inside, 2.0, 3.0)).float()
    points = Camera.identity(FOV).unproject(depths).numpy()
    lifter = Lifter.from_pretrained("home", keep=True)

    def place(crop: Crop) -> Tensor:
        """The middle of the box of the voxels in the picture."""
        asset = lifter(
            *(crop.of(pixels), crop.of(inside), crop.of(points)),
            speed="faster",
            photo=False,
            open_mesh=True,
            decoders="mesh_decoder",
        )
        seen = on_picture(asset, asset.centers(), crop)
        return (seen.amin(0) + seen.amax(0)) / 2

    there = place(Crop(0, 0, width, height))
    for crop in random_crops(inside, 4, seed=1):
        assert (place(crop) - there).abs().max() < 1, crop
