"""Random pictures of rendered objects: backgrounds, occluders, light and imperfect masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from loci.errors import LociError
from loci.geometry.camera import Camera
from loci.objects.placement.pose import MatrixPose

Rng = torch.Generator
T = TypeVar("T")
TRIES = 8

Render = tuple[UInt8[Tensor, "s s 4"], Float[Tensor, "s s"]]
"""RGB and alpha, not multiplied, and z in the camera frame, not finite where nothing is."""


@dataclass(frozen=True)
class ObjectViews:
    """The renders of one object without background; see `loci.data.objects.dataset` for the units.

    `render` gives one of them by number; `floor` is the height of the object's lowest point in
    its own frame.
    """

    render: Callable[[int], Render]
    fov: Float[Tensor, "v"]
    placement: MatrixPose
    floor: float

    def __len__(self) -> int:
        return len(self.fov)

    def view(self, number: int) -> ObjectView:
        """One render, ready to be put before a background."""
        rgba, depth = self.render(number)
        pixels = rgba.permute(2, 0, 1).float() / 255
        placed = MatrixPose(*(part[number] for part in self.placement))
        fov = float(self.fov[number])
        return ObjectView(pixels[:3], pixels[3:], depth.float(), fov, placed, self.floor)


class ObjectView(NamedTuple):
    """An object as a camera sees it; the placement is without the batch axis."""

    color: Float[Tensor, "3 s s"]
    alpha: Float[Tensor, "1 s s"]
    depth: Float[Tensor, "s s"]
    fov: float
    placement: MatrixPose
    floor: float

    def mirrored(self) -> ObjectView:
        """Left and right exchanged, in the picture and in the object's own frame."""
        flip = torch.tensor([-1.0, 1.0, 1.0])
        r, t, s = self.placement
        placed = MatrixPose(flip[:, None] * r * flip, t * flip, s)
        color, alpha, depth = (part.flip(-1) for part in (self.color, self.alpha, self.depth))
        return self._replace(color=color, alpha=alpha, depth=depth, placement=placed)

    def rays(self) -> Float[Tensor, "3 s s"]:
        """For every pixel the point at depth 1, in the frame x left, y up, z forward."""
        unit = torch.ones_like(self.depth)
        return Camera.identity(self.fov).unproject(unit).permute(2, 0, 1)


class SyntheticScene(NamedTuple):
    """A whole picture with its mask and pointmap, as a user would give them."""

    rgb: Float[Tensor, "3 s s"]
    mask: Float[Tensor, "1 s s"]
    pointmap: Float[Tensor, "3 s s"]


@dataclass(frozen=True)
class SceneAugmentation:
    """Chances of what may happen to a picture.

    Attributes:
        mirrored: left and right exchanged, in the picture and in the object.
        recolored: the object in other colours.
        geometry: a floor and a wall in the pointmap, whose background is unknown (NaN) otherwise.
        other_behind: another object behind it.
        occluded: something before it.
        sloppy_mask: a border a pixel or two off.
        noisy_points: an inexact, incomplete pointmap.
    """

    mirrored: float = 0.5
    recolored: float = 0.5
    geometry: float = 0.6
    other_behind: float = 0.25
    occluded: float = 0.25
    sloppy_mask: float = 0.4
    noisy_points: float = 0.5


CLEAN = SceneAugmentation(0.0, 0.0, 0.6, 0.0, 0.0, 0.0, 0.0)
"""For evaluations: backgrounds only."""


def compose(
    view: ObjectView, other: ObjectView, augmentation: SceneAugmentation, rng: Rng
) -> SyntheticScene:
    """A picture of `view`; `other` is an object that may stand behind it or before it."""
    view = recolor(view, rng) if _chance(augmentation.recolored, rng) else view
    rgb, depth = _background(view, _chance(augmentation.geometry, rng), rng)
    if _chance(augmentation.other_behind, rng):
        other_alpha, other_color = _shifted(other, 0.8, rng)
        rgb = torch.lerp(rgb, other_color, other_alpha)
    inside = view.alpha[0] > 0.5
    rgb = torch.lerp(rgb, view.color, view.alpha)
    depth = torch.where(inside, view.depth, depth)
    if _chance(augmentation.occluded, rng):
        alpha, color = _occluder(view, other, inside, rng)
        before = alpha[0] > 0.5
        if (inside & ~before).sum() >= 0.5 * inside.sum():
            rgb = torch.lerp(rgb, color, alpha)
            nearest = 0.9 * float(depth[inside].nan_to_num(torch.inf, posinf=torch.inf).amin())
            depth = torch.where(before, nearest, depth)
            inside = inside & ~before
    rgb = _camera_response(rgb, rng)
    mask = _sloppy_mask(inside, rng) if _chance(augmentation.sloppy_mask, rng) else inside
    if _chance(augmentation.noisy_points, rng):
        depth = _noisy_depth(depth, rng)
    known = depth.isfinite()
    points = torch.where(known, view.rays() * torch.where(known, depth, 0.0), torch.nan)
    return SyntheticScene(rgb, mask[None].float(), points)


def random_scene(
    view: ObjectView,
    other_view: Callable[[], ObjectView],
    augmentation: SceneAugmentation,
    rng: Rng,
    inputs: Callable[[SyntheticScene], T],
) -> tuple[SyntheticScene, T]:
    """A picture of `view`, and the inputs made of it as of a user's picture.

    Where too much is hidden for that, another object is tried beside it.

    Raises:
        LociError: after a few tries.
    """
    for _ in range(TRIES):
        scene = compose(view, other_view(), augmentation, rng)
        try:
            return scene, inputs(scene)
        except LociError:
            continue
    raise LociError("a render without an object, expected at least three pixels across")


def recolor(view: ObjectView, rng: Rng) -> ObjectView:
    """The object in other colours."""
    color = torch.einsum("ij,jhw->ihw", color_matrix(rng), view.color)
    return view._replace(color=color.clamp(0, 1))


def color_matrix(rng: Rng) -> Float[Tensor, "3 3"]:
    """A random rotation of the colour circle and a tint, to multiply colours (as columns) by."""
    angle = 2 * math.pi * float(torch.rand((), generator=rng))
    gray, turn = torch.full((3, 3), 1 / 3), math.sqrt(1 / 3) * math.sin(angle)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    matrix = math.cos(angle) * torch.eye(3) + (1 - math.cos(angle)) * gray + turn * cross
    tint = torch.exp(0.25 * torch.randn(3, generator=rng))
    return tint[:, None] * matrix


def _background(view: ObjectView, geometry: bool, rng: Rng) -> tuple[Tensor, Tensor]:
    """Colours and depths behind the object; without `geometry` the depths are NaN.

    With it the object stands on a floor, before a wall that faces the camera.
    """
    side = view.depth.shape[-1]
    wall = _pattern(side, rng)
    unknown = torch.full((side, side), torch.nan)
    if not geometry:
        return wall, unknown
    r, t, s = view.placement
    up = r[2]
    height = float(s) * view.floor + t @ up
    fall = torch.einsum("c,chw->hw", up, view.rays())
    depth = height / fall
    far = float(t[2]) + float(s) * (0.6 + 3 * float(torch.rand((), generator=rng)) ** 2)
    floor = (depth > 0) & (depth < far)
    rgb = torch.where(floor, _pattern(side, rng), wall)
    return rgb, torch.where(floor, depth, far)


def _pattern(side: int, rng: Rng) -> Float[Tensor, "3 s s"]:
    """A plain colour, a gradient, clouds or patches."""
    cells = (1, 2, 5, 12)[int(torch.randint(4, (), generator=rng))]
    colors = torch.rand(3, 1 + cells**2, generator=rng)
    gray = colors.mean(dim=0, keepdim=True)
    colors = torch.lerp(gray, colors, float(torch.rand((), generator=rng)))
    contrast = 0.6 * float(torch.rand((), generator=rng))
    coarse = colors[:, :1] + contrast * (colors[:, 1:] - 0.5)
    coarse = coarse.view(3, cells, cells)
    if cells > 2 and _chance(0.4, rng):
        fine = F.interpolate(coarse[None], (side, side), mode="nearest")[0]
    else:
        fine = F.interpolate(coarse[None], (side, side), mode="bilinear")[0]
    grain = 0.05 * float(torch.rand((), generator=rng))
    return (fine + grain * torch.randn(1, side, side, generator=rng)).clamp(0, 1)


def _shifted(other: ObjectView, most: float, rng: Rng) -> tuple[Tensor, Tensor]:
    """Alpha and colour of other_view object, shifted by up to `most` of the picture's side."""
    side = other.depth.shape[-1]
    dx, dy = ((2 * torch.rand(2, generator=rng) - 1) * most * side).long().tolist()
    pixels = torch.cat([other.alpha, other.color])
    moved = torch.zeros_like(pixels)
    to_x, from_x = slice(max(dx, 0), side + min(dx, 0)), slice(max(-dx, 0), side - max(dx, 0))
    to_y, from_y = slice(max(dy, 0), side + min(dy, 0)), slice(max(-dy, 0), side - max(dy, 0))
    moved[:, to_y, to_x] = pixels[:, from_y, from_x]
    return moved[:1], moved[1:]


def _occluder(
    view: ObjectView, other: ObjectView, inside: Bool[Tensor, "s s"], rng: Rng
) -> tuple[Tensor, Tensor]:
    """Alpha and colour of something before the object: other_view object, or a slab."""
    if _chance(0.5, rng):
        return _shifted(other, 0.6, rng)
    side = view.depth.shape[-1]
    rows, columns = (torch.nonzero(inside.any(dim=d))[:, 0] for d in (1, 0))
    alpha = torch.zeros(1, side, side)
    if len(rows):
        places, edges = (rows, columns), []
        for place in places:
            low, high = float(place[0]), float(place[-1] + 1)
            middle = low + (high - low) * float(torch.rand((), generator=rng))
            half = (high - low) * (0.05 + 0.25 * float(torch.rand((), generator=rng)))
            edges.append((max(int(middle - half), 0), int(middle + half) + 1))
        if _chance(0.5, rng):  # All the way down, as a table's edge or a pole
            edges[0] = (edges[0][0], side)
        alpha[:, slice(*edges[0]), slice(*edges[1])] = 1
    return alpha, _pattern(side, rng)


def _camera_response(rgb: Float[Tensor, "3 s s"], rng: Rng) -> Float[Tensor, "3 s s"]:
    """Exposure, white balance and contrast of a camera."""
    gain = torch.exp(0.2 * torch.randn((), generator=rng) + 0.06 * torch.randn(3, generator=rng))
    curve = float(torch.exp(0.2 * torch.randn((), generator=rng)))
    return (gain[:, None, None] * rgb).clamp(1e-4, 1) ** curve


def _sloppy_mask(inside: Bool[Tensor, "s s"], rng: Rng) -> Bool[Tensor, "s s"]:
    """A border drawn a pixel or two too wide or too narrow."""
    reach = int(torch.randint(1, 3, (), generator=rng))
    wide = _chance(0.5, rng)
    source = inside if wide else ~inside
    grown = F.max_pool2d(source[None, None].float(), 2 * reach + 1, 1, reach)[0, 0] > 0
    result = grown if wide else ~grown
    return result if result.sum() >= 0.5 * inside.sum() else inside


def _noisy_depth(depth: Float[Tensor, "s s"], rng: Rng) -> Float[Tensor, "s s"]:
    """Depths as an estimate gives them: bent by a few hundredths, here and there unknown."""
    strength = 0.03 * float(torch.rand((), generator=rng))
    coarse = torch.randn(1, 1, 6, 6, generator=rng)
    bend = F.interpolate(coarse, depth.shape, mode="bicubic")[0, 0]
    lost = F.interpolate(torch.rand(1, 1, 12, 12, generator=rng), depth.shape)[0, 0] < 0.04
    return torch.where(lost, torch.nan, depth * (1 + strength * bend))


def _chance(probability: float, rng: Rng) -> bool:
    return float(torch.rand((), generator=rng)) < probability
