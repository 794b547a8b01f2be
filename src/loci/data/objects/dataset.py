"""One object on disk: a .safetensors file with its views, surface and grids.

Arrays (V views of S x S pixels; frames and units: see `cameras`):

- `rgba` uint8 [V, S, S, 4]: under the random lights of each view; straight alpha.
- `even` uint8 [V, S, S, 3]: the same views under even light, nearly the albedo; alpha as `rgba`.
- `depth` float16 [V, S, S]: z in the camera frame, inf where nothing is.
- `fov` float32 [V]; `rotation` float32 [V, 3, 3], `translation` float32 [V, 3], `scale` float32
  [V]: the cameras.
- `surface` float16 [16384, 9]: position, outward normal, RGB under even light.
- `occupancy` uint8 [32768]: bits of a [64, 64, 64] grid (x, y, z): voxels the surface touches.
- `sdf` int8 [65, 65, 65]: distance at the corners of that grid in 1/32 voxel, positive outside;
  may be left out, only stage 2 needs it.

The header holds name, category, title, source, licence, author and, if known, metres: the length
of the longest side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from loci.data.objects.surface import GRID, unpack
from loci.errors import LociError
from loci.geometry.camera import Camera
from loci.io.files import replacing

SURFACE = 16384
SUFFIX = ".safetensors"
HEADER = ("name", "title", "category", "source", "licence", "author")
# Type and shape of every array; "v" is the number of views, "s" their side in pixels.
ARRAYS: dict[str, tuple[type[np.generic], tuple[str | int, ...]]] = {
    "rgba": (np.uint8, ("v", "s", "s", 4)),
    "even": (np.uint8, ("v", "s", "s", 3)),
    "depth": (np.float16, ("v", "s", "s")),
    "fov": (np.float32, ("v",)),
    "rotation": (np.float32, ("v", 3, 3)),
    "translation": (np.float32, ("v", 3)),
    "scale": (np.float32, ("v",)),
    "surface": (np.float16, (SURFACE, 9)),
    "occupancy": (np.uint8, (64**3 // 8,)),
    "sdf": (np.int8, (65, 65, 65)),
}
OPTIONAL = ("sdf",)


def write_object(path: Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, str]) -> None:
    """Writes one object, all or nothing.

    Raises:
        LociError: when the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            names = [name for name in ARRAYS if name in arrays or name not in OPTIONAL]
            content = {name: np.ascontiguousarray(arrays[name], ARRAYS[name][0]) for name in names}
            save_file(content, draft, dict(header))
    except OSError as error:
        raise LociError(f"{path}: cannot be written ({error.strerror})") from error


Lighting = Literal["random", "even"]


class RenderedView(NamedTuple):
    """One view of an object.

    Attributes:
        image: RGB over the background.
        mask: pixels with alpha above one half.
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
        """Points in the camera frame, NaN where nothing is."""
        known = torch.where(self.depth.isfinite(), self.depth, torch.nan)
        return Camera.identity(self.fov).unproject(known)

    def place(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Points of the object in the camera frame."""
        return (points * self.scale) @ self.rotation + self.translation


@dataclass(frozen=True)
class ObjectRecord:
    """One object on disk; arrays are read on demand."""

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
        """The open file."""
        return safe_open(self.path, "pt")

    def read(self, name: str) -> Tensor:
        """A whole array, by its name in `ARRAYS`.

        Raises:
            LociError: when the object was made without it.
        """
        if name in OPTIONAL and name not in set(self.file.keys()):
            raise LociError(f"{self.path}: no {name}, expected objects made with --distances")
        return self.file.get_tensor(name)

    def read_row(self, name: str, row: int) -> Tensor:
        """One view of an array."""
        return self.file.get_slice(name)[row]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "file"}


def training_folders(data: Path | str) -> list[Path]:
    """The folders of a data set to train on: "train" and, if there is one, "more" (synthetic)."""
    more = Path(data) / "more"
    return [Path(data) / "train", *([more] if more.is_dir() else [])]


@dataclass(frozen=True)
class ObjectSet:
    """The objects of one or more folders, ordered by name within each."""

    records: Sequence[ObjectRecord]
    views: int
    size: int

    @classmethod
    def load(cls, *folders: Path | str) -> "ObjectSet":
        """Opens folders that `loci data objects` has made.

        Raises:
            LociError: for a folder without objects, or objects that are damaged or differ in shape.
        """
        paths = []
        for folder in folders:
            found = sorted(Path(folder).glob("[!.]*" + SUFFIX))
            if not found:
                message = f"{folder}: expected objects (make some: loci data objects)"
                raise LociError(message)
            paths += found
        opened = [_open(path) for path in paths]
        shapes = {shape for _, shape in opened}
        if len(shapes) > 1:
            raise LociError(
                f"{paths[0].parent}: views of {sorted(shapes)}, expected one number and size"
            )
        return cls([record for record, _ in opened], *shapes.pop())

    def __len__(self) -> int:
        return len(self.records)

    def view(
        self,
        index: int,
        view: int,
        background: UInt8[Tensor, "s s 3"] | tuple[int, int, int] = (255, 255, 255),
        light: Lighting = "random",
    ) -> RenderedView:
        """A view of object `index` over a background.

        Args:
            index: of the object.
            view: 0 to `views` - 1.
            background: an RGB colour, or an image of the views' size.
            light: "random", or "even" as the colours in `surface`.
        """
        record = self.records[index]
        rgba = record.read_row("rgba", view)
        color, alpha = rgba[..., :3], rgba[..., 3:]
        if light == "even":
            color = record.read_row("even", view)
        behind = torch.as_tensor(background, dtype=torch.uint8).expand(color.shape)
        return RenderedView(
            image=over(color, alpha, behind),
            mask=alpha[..., 0] > 127,
            depth=record.read_row("depth", view).float(),
            fov=float(record.read_row("fov", view)),
            rotation=record.read_row("rotation", view),
            translation=record.read_row("translation", view),
            scale=float(record.read_row("scale", view)),
        )

    def surface(self, index: int) -> Float[Tensor, "16384 9"]:
        """Uniform samples of the visible surface: position, outward normal, RGB in [0, 1]."""
        return self.records[index].read("surface").float()

    def occupancy(self, index: int, resolution: int = 32) -> Bool[Tensor, "r r r"]:
        """Voxels that the surface touches (x, y, z), at a resolution that divides 64."""
        if GRID % resolution:
            raise ValueError(f"resolution {resolution}, expected a divisor of {GRID}")
        grid = torch.from_numpy(unpack(self.records[index].read("occupancy").numpy()))
        factor = GRID // resolution
        blocks = grid.reshape(resolution, factor, resolution, factor, resolution, factor)
        return blocks.any(dim=5).any(dim=3).any(dim=1)

    def sdf(self, index: int) -> Float[Tensor, "65 65 65"]:
        """Signed distance at the corners of the 64 grid in the object's units, positive outside,
        clipped at 4 voxels.

        Raises:
            LociError: when the objects were made without it.
        """
        return self.records[index].read("sdf").float() / (32 * GRID)


def over(
    color: UInt8[Tensor, "h w 3"], alpha: UInt8[Tensor, "h w 1"], behind: UInt8[Tensor, "h w 3"]
) -> UInt8[Tensor, "h w 3"]:
    """Alpha compositing of `color` over `behind`."""
    share = alpha.float() / 255
    return (color * share + behind * (1 - share)).round().to(torch.uint8)


def _open(path: Path) -> tuple[ObjectRecord, tuple[int, int]]:
    """A record, and the number and size of its views."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            present = set(file.keys())
            names = [name for name in ARRAYS if name in present or name not in OPTIONAL]
            shapes = {name: file.get_slice(name).get_shape() for name in names}
    except (OSError, SafetensorError) as error:
        raise LociError(f"{path}: damaged, expected an object of loci data objects") from error
    views, size = shapes["depth"][:2]
    sizes = {"v": views, "s": size}
    for name in names:
        axes = ARRAYS[name][1]
        expected = [sizes.get(str(axis), axis) for axis in axes]
        if shapes[name] != expected:
            raise LociError(f"{path}: {name} {shapes[name]}, expected {expected}")
    missing = [name for name in HEADER if name not in header]
    if missing:
        raise LociError(f"{path}: no {missing[0]} in its header")
    metres = float(header["metres"]) if "metres" in header else None
    described = {name: header[name] for name in HEADER}
    return ObjectRecord(path=path, metres=metres, **described), (views, size)
