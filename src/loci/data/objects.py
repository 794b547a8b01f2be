"""Reading rendered objects: views over any background, pointmaps, voxels and their features."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from loci.data.object_files import ARRAYS, HEADER, SUFFIX
from loci.data.voxelise import GRID, unpack
from loci.errors import LociError

Light = Literal["random", "even"]
FEATURES = 17
"""Channels of `ObjectSet.voxels`: mean colour, mean normal, mean offset, the eight sub-voxels."""


class View(NamedTuple):
    """One picture of an object.

    Attributes:
        image: RGB over the background.
        mask: covered by more than half.
        depth: z in the camera frame, inf where nothing is.
        fov: horizontal field of view in degrees.
        rotation, translation, scale: the pose, with row vectors:
            `p_camera = (p_object * scale) @ rotation + translation`; the camera's x points left,
            y up, z forward.
    """

    image: UInt8[Tensor, "s s 3"]
    mask: Bool[Tensor, "s s"]
    depth: Float[Tensor, "s s"]
    fov: float
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]
    scale: float

    def pointmap(self) -> Float[Tensor, "s s 3"]:
        """Where each pixel's surface is in the camera frame; NaN where nothing is."""
        return depth_pointmap(self.depth, self.fov)

    def place(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Points of the object in the camera frame."""
        return (points * self.scale) @ self.rotation + self.translation


class Voxels(NamedTuple):
    """What a surface is like in the voxels that it touches.

    `coords` are integer x, y, z; channels of `features`: 0-2 mean RGB in [0, 1], 3-5 mean normal
    (shorter where normals differ), 6-8 mean place from the voxel's middle in voxels, 9-16 which
    eighths are touched, in the order 4 x + 2 y + z.
    """

    coords: Int[Tensor, "n 3"]
    features: Float[Tensor, "n 17"]


@dataclass(frozen=True)
class ObjectRecord:
    """One object on disk; arrays are read when they are asked for."""

    path: Path
    name: str
    title: str
    category: str
    source: str
    licence: str
    author: str
    metres: float | None

    @cached_property
    def file(self) -> Any:
        """The open file; its arrays stay on disk until they are read."""
        return safe_open(self.path, "pt")

    def read(self, name: str) -> Tensor:
        """A whole array (see `object_files`)."""
        return self.file.get_tensor(name)

    def read_row(self, name: str, row: int) -> Tensor:
        """One view's part of an array."""
        return self.file.get_slice(name)[row]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "file"}


@dataclass(frozen=True)
class ObjectSet:
    """Objects of one folder ("train" or "test"), ordered by name."""

    records: Sequence[ObjectRecord]
    views: int
    size: int

    @classmethod
    def load(cls, folder: Path | str) -> "ObjectSet":
        """Open the objects in a folder that `loci data objects` has made.

        Raises:
            LociError: when there are none, or one is damaged or of another shape.
        """
        paths = sorted(Path(folder).glob("[!.]*" + SUFFIX))
        if not paths:
            message = f"{folder}: expected objects (make some: loci data objects)"
            raise LociError(message)
        opened = [_open(path) for path in paths]
        shapes = {shape for _, shape in opened}
        if len(shapes) > 1:
            raise LociError(f"{folder}: views of {sorted(shapes)}, expected one number and size")
        return cls([record for record, _ in opened], *shapes.pop())

    def __len__(self) -> int:
        return len(self.records)

    def view(
        self,
        index: int,
        view: int,
        background: UInt8[Tensor, "s s 3"] | tuple[int, int, int] = (255, 255, 255),
        light: Light = "random",
    ) -> View:
        """A picture of object `index` over a colour or a picture.

        Args:
            index: of the object.
            view: 0 to `views` - 1.
            background: an RGB colour, or a picture of the views' size.
            light: "random" as the view was drawn, or "even": the object's own look, the same from
                everywhere, as in `surface` and in the voxels' features.
        """
        record = self.records[index]
        rgba = record.read_row("rgba", view)
        color, alpha = rgba[..., :3], rgba[..., 3:]
        if light == "even":
            color = record.read_row("even", view)
        behind = torch.as_tensor(background, dtype=torch.uint8).expand(color.shape)
        return View(
            image=over(color, alpha, behind),
            mask=alpha[..., 0] > 127,
            depth=record.read_row("depth", view).float(),
            fov=float(record.read_row("fov", view)),
            rotation=record.read_row("rotation", view),
            translation=record.read_row("translation", view),
            scale=float(record.read_row("scale", view)),
        )

    def surface(self, index: int) -> Float[Tensor, "16384 9"]:
        """Samples spread evenly over what is seen from outside: position, outward normal, RGB."""
        return self.records[index].read("surface").float()

    def occupancy(self, index: int, resolution: int = 32) -> Bool[Tensor, "r r r"]:
        """The voxels that the surface touches, axes x, y, z; 64 and its divisors."""
        if GRID % resolution:
            raise ValueError(f"resolution {resolution}, expected a divisor of {GRID}")
        grid = torch.from_numpy(unpack(self.records[index].read("occupancy").numpy()))
        factor = GRID // resolution
        blocks = grid.reshape(resolution, factor, resolution, factor, resolution, factor)
        return blocks.any(dim=5).any(dim=3).any(dim=1)

    def sdf(self, index: int) -> Float[Tensor, "65 65 65"]:
        """Distance to the surface at the corners of the 64 grid, in the object's units, positive
        outside; cut at 4 voxels."""
        return self.records[index].read("sdf").float() / (32 * GRID)

    def voxels(self, index: int, resolution: int = 32) -> Voxels:
        """The touched voxels with what the surface is like there (input of the latent encoder).

        Args:
            index: of the object.
            resolution: a divisor of 32.
        """
        grid, fine = self.occupancy(index, resolution), self.occupancy(index, 2 * resolution)
        return voxel_features(self.surface(index), grid, fine)


def voxel_features(
    surface: Float[Tensor, "n 9"], grid: Bool[Tensor, "r r r"], fine: Bool[Tensor, "q q q"]
) -> Voxels:
    """Means of surface samples in each occupied voxel; `fine` is the grid at twice the resolution.

    A voxel that no sample fell into takes the means of its neighbours that have some.
    """
    resolution = len(grid)
    coords = grid.nonzero()
    row = torch.full((resolution**3,), -1)
    row[_flat(coords, resolution)] = torch.arange(len(coords))
    scaled = (surface[:, :3] + 0.5) * resolution
    cells = scaled.long().clamp(0, resolution - 1)
    rows = row[_flat(cells, resolution)]
    kept = rows >= 0
    offset = scaled - cells - 0.5
    values = torch.cat([surface[:, 6:9], surface[:, 3:6], offset, torch.ones(len(surface), 1)], 1)
    total = torch.zeros(len(coords), 10).index_add_(0, rows[kept], values[kept])
    bare = total[:, 9] == 0
    if bare.any():
        total[bare] = _around(total, coords, row, resolution)[bare]
    means = total[:, :9] / total[:, 9:].clamp(min=1)
    parts = fine.reshape(resolution, 2, resolution, 2, resolution, 2).permute(0, 2, 4, 1, 3, 5)
    eighths = parts.reshape(resolution, resolution, resolution, 8)[coords.unbind(1)]
    return Voxels(coords, torch.cat([means, eighths.float()], dim=1))


def depth_pointmap(depth: Float[Tensor, "h w"], fov: float) -> Float[Tensor, "h w 3"]:
    """Points in the camera frame (x left, y up, z forward) from z; NaN where depth is not finite.

    `fov` is horizontal, in degrees; pixels are square and their middles at i + 0.5.
    """
    height, width = depth.shape
    focal = width / 2 / torch.tan(torch.deg2rad(torch.tensor(fov) / 2))
    x = (width / 2 - (torch.arange(width) + 0.5)) / focal
    y = (height / 2 - (torch.arange(height) + 0.5)) / focal
    known = torch.where(depth.isfinite(), depth, torch.nan)
    return torch.stack([x[None] * known, y[:, None] * known, known], dim=-1)


def over(
    color: UInt8[Tensor, "h w 3"], alpha: UInt8[Tensor, "h w 1"], behind: UInt8[Tensor, "h w 3"]
) -> UInt8[Tensor, "h w 3"]:
    """A picture in front of another."""
    share = alpha.float() / 255
    return (color * share + behind * (1 - share)).round().to(torch.uint8)


def _around(total: Tensor, coords: Tensor, row: Tensor, resolution: int) -> Tensor:
    """Sums over the 3x3x3 voxels around each, with places left out: they say nothing here."""
    steps = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3)
    near = coords[:, None] + steps
    inside = ((near >= 0) & (near < resolution)).all(dim=-1)
    rows = row[_flat(near.clamp(0, resolution - 1), resolution)]
    rows = torch.where(inside, rows, -1)
    sums = torch.where((rows >= 0)[..., None], total[rows], 0.0).sum(dim=1)
    sums[:, 6:9] = 0
    return sums


def _flat(coords: Tensor, resolution: int) -> Tensor:
    x, y, z = coords.unbind(-1)
    return (x * resolution + y) * resolution + z


def _open(path: Path) -> tuple[ObjectRecord, tuple[int, int]]:
    """A record, and the number and size of its views."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            shapes = {name: file.get_slice(name).get_shape() for name in ARRAYS}
    except (OSError, SafetensorError) as error:
        raise LociError(f"{path}: damaged, expected an object of loci data objects") from error
    views, size = shapes["depth"][:2]
    sizes = {"v": views, "s": size}
    for name, (_, axes) in ARRAYS.items():
        expected = [sizes.get(str(axis), axis) for axis in axes]
        if shapes[name] != expected:
            raise LociError(f"{path}: {name} {shapes[name]}, expected {expected}")
    missing = [name for name in HEADER if name not in header]
    if missing:
        raise LociError(f"{path}: no {missing[0]} in its header")
    metres = float(header["metres"]) if "metres" in header else None
    described = {name: header[name] for name in HEADER}
    return ObjectRecord(path=path, metres=metres, **described), (views, size)
