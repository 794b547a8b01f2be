"""What people give a lifter by mistake is named in one line, and what can be meant is taken."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from loci.errors import LociError
from loci.objects.inputs.masks import read_mask
from loci.objects.lifter import Lifter
from tests.objects.inputs.test_masks import run_lengths
from tests.objects.lifters import example, example_pointmap, small_lifter

PIXELS, INSIDE = example()
MASK = {"size": [*INSIDE.shape], "counts": run_lengths(INSIDE)}


@pytest.fixture(scope="module")
def lifter() -> Lifter:
    return small_lifter()


def bytes_of_a_picture() -> bytes:
    return b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((PIXELS, INSIDE.tolist()), {}, "mask: list, expected a file"),
        ((PIXELS, None), {}, "mask: None, expected a mask"),
        ((PIXELS, {"size": [40, 60], "counts": "x"}), {}, "mask: .*run lengths"),
        ((PIXELS, PIXELS), {}, "mask: array .*, expected"),
        ((PIXELS, np.eye(40, 60) > 0), {}, "mask: a line one pixel wide"),
        ((PIXELS, ~INSIDE), {}, "mask: covers the picture's edge all around"),
        ((PIXELS, INSIDE | True), {}, "mask: covers the whole picture"),
        ((bytes_of_a_picture(), INSIDE), {}, "picture: bytes, expected a file"),
        ((bytes_of_a_picture().decode("latin1"), INSIDE), {}, "expected"),
        ((PIXELS.tolist(), INSIDE), {}, "picture: list, expected a file"),
        ((None, INSIDE), {}, "picture: NoneType, expected a file"),
        ((PIXELS, INSIDE), {"pointmap": [[1.0]]}, "pointmap: list, expected a file"),
        ((PIXELS, INSIDE), {"pointmap": np.eye(3), "fov": 45}, "pointmap: a 3x3 camera matrix"),
        ((PIXELS, INSIDE), {"pointmap": np.eye(4)}, "pointmap: a 4x4 camera matrix"),
        ((PIXELS, INSIDE), {"frame": "opengl"}, "frame: no such option, expected one of decoders"),
        (
            (PIXELS, INSIDE),
            {"pointmap": example_pointmap(), "pointmap_frame": "opengl"},
            "pointmap frame: 'opengl', expected pytorch3d or opencv",
        ),
        ((PIXELS, INSIDE), {"seed": "a"}, "seed: 'a', expected a whole number"),
        ((PIXELS, INSIDE), {"seed": 2**63}, "seed: 9223372036854775808, expected a whole"),
        ((PIXELS, INSIDE), {"seed": 1.5}, "seed: 1.5, expected a whole number"),
        ((PIXELS, INSIDE), {"fov": "wide"}, "field of view: wide degrees, expected"),
        ((PIXELS, INSIDE), {"fov": 40, "intrinsics": (9, 9, 9, 9)}, "given with intrinsics"),
        ((PIXELS, INSIDE), {"intrinsics": "nowhere.txt"}, "nowhere.txt: cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_named_in_one_line(
    lifter: Lifter, arguments: tuple, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(LociError, match=message) as caught:
        lifter(*arguments, **options)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("masks", ["m.png", INSIDE[0, 0], None, MASK])
def test_a_scene_takes_a_list_of_masks(lifter: Lifter, masks: Any) -> None:
    with pytest.raises(LociError, match="masks: .*, expected a list"):
        lifter.scene(PIXELS, masks)


def test_what_can_be_meant_is_the_same_as_pixels_and_a_mask(lifter: Lifter) -> None:
    expected = lifter(PIXELS, INSIDE, decoders="mesh_decoder")
    picture = torch.from_numpy(PIXELS)
    clear = Image.fromarray(np.where(INSIDE[:, :, None], PIXELS, 255).astype(np.uint8))
    white = lifter(clear, INSIDE, decoders="mesh_decoder")
    clear.putalpha(Image.fromarray(INSIDE))
    logits = np.where(INSIDE, 4.0, -4.0)[None]
    same = [
        (lifter(picture.movedim(-1, 0), MASK, decoders="mesh_decoder"), expected),
        (
            lifter(picture / 255, logits, decoders="mesh_decoder"),
            expected,
        ),
        (lifter(clear, decoders="mesh_decoder"), white),
    ]
    for found, wanted in same:
        assert torch.equal(found.pose.translation, wanted.pose.translation)
        assert torch.equal(found.voxels, wanted.voxels)


def test_a_stray_pixel_changes_nothing_and_is_mentioned(lifter: Lifter) -> None:
    stray = INSIDE.copy()
    stray[0, 0] = True
    expected = lifter(PIXELS, INSIDE, decoders="mesh_decoder")
    with pytest.warns(UserWarning, match=r"^mask: dropped 1 island \(1 pixel\)$"):
        found = lifter(PIXELS, stray, decoders="mesh_decoder")
    assert torch.equal(found.pose.translation, expected.pose.translation)
    assert torch.equal(found.pose.scale, expected.pose.scale)


def test_masks_that_overlap_are_mentioned(lifter: Lifter) -> None:
    with pytest.warns(UserWarning, match="^mask 1 and mask 2: overlap in 100% of the smaller"):
        lifter.scene(PIXELS, [INSIDE, INSIDE], decoders="mesh_decoder")
    with warnings.catch_warnings(action="error"):
        lifter.scene(PIXELS, [INSIDE], decoders="mesh_decoder")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, and beside it files that are given as its mask or pointmap by mistake."""
    folder = tmp_path_factory.mktemp("files")
    line = np.zeros_like(INSIDE)
    line[20, 5:50] = True
    stray = INSIDE.copy()
    stray[0, 0] = True
    Image.fromarray(PIXELS).save(folder / "picture.png")
    for name, mask in (("clean", INSIDE), ("inverted", ~INSIDE), ("line", line), ("stray", stray)):
        Image.fromarray(mask).save(folder / f"{name}.png")
    Image.fromarray((7 * INSIDE).astype(np.uint8)).save(folder / "labels.png")
    np.save(folder / "eye.npy", np.eye(3))
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "inverted.png"}, "inverted.png: covers the picture's edge"),
        ({"mask": "line.png"}, "line.png: a line one pixel wide"),
        ({"mask": "labels.png"}, "labels.png: values up to 7, .* needs a label"),
        ({"mask": "picture.png"}, "picture.png: the picture itself"),
        ({"mask": "clean.png", "pointmap": "eye.npy", "fov": 45}, "a 3x3 camera matrix"),
    ],
)
def test_files_given_by_mistake_are_named(
    lifter: Lifter, files: Path, options: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {k: files / v if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(LociError, match=message):
        lifter(files / "picture.png", **given)


def test_a_label_file_and_one_with_a_stray_pixel_are_the_mask(lifter: Lifter, files: Path) -> None:
    expected = lifter(files / "picture.png", files / "clean.png", decoders="mesh_decoder")
    seven = read_mask(files / "labels.png", label=7)
    labelled = lifter(files / "picture.png", seven, decoders="mesh_decoder")
    with pytest.warns(UserWarning, match=r"stray\.png: dropped 1 island"):
        stray = lifter(files / "picture.png", files / "stray.png", decoders="mesh_decoder")
    for found in (labelled, stray):
        assert torch.equal(found.pose.translation, expected.pose.translation)
        assert torch.equal(found.voxels, expected.voxels)
