"""Reading splats back from PLY files."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loci.errors import LociError
from loci.geometry.gaussians import Gaussians

KINDS = {
    "char": "i1",
    "uchar": "u1",
    "short": "<i2",
    "ushort": "<u2",
    "int": "<i4",
    "uint": "<u4",
    "float": "<f4",
    "double": "<f8",
}
KINDS |= dict(
    zip(("int8", "uint8", "int16", "uint16", "int32", "uint32"), KINDS.values(), strict=False)
)
KINDS |= {"float32": "<f4", "float64": "<f8"}
"""PLY's names of number types, old and new, in numpy's."""


def read_splat(path: Path | str) -> Gaussians:
    """Reads the Gaussians of a binary PLY as `write_splat` and other tools write it.

    Columns may stand in any order; higher harmonics and other extra ones are left out.

    Raises:
        LociError: for a file that cannot be read, is not such a PLY, lacks a column, or ends
            before its last Gaussian.
    """
    path = Path(path)
    try:
        header, _, body = path.read_bytes().partition(b"end_header\n")
    except OSError as error:
        raise LociError(f"{path}: cannot be read ({error.strerror})") from error
    count, layout = _vertices(path, header.decode("ascii", "replace").replace("\r", ""))
    if len(body) < count * layout.itemsize:
        whole = len(body) // max(layout.itemsize, 1)
        raise LociError(f"{path}: ends after {whole} Gaussians, expected {count}")
    table = np.frombuffer(body, layout, count)

    def columns(*names: str) -> Tensor:
        missing = [name for name in names if name not in (layout.names or ())]
        if missing:
            raise LociError(f"{path}: has no column {missing[0]}, expected a file of Gaussians")
        return torch.from_numpy(np.stack([table[name] for name in names], axis=1).astype("<f4"))

    return Gaussians(
        columns("x", "y", "z"),
        columns("f_dc_0", "f_dc_1", "f_dc_2"),
        columns("scale_0", "scale_1", "scale_2").exp(),
        columns("rot_0", "rot_1", "rot_2", "rot_3"),
        columns("opacity")[:, 0],
    )


def _vertices(path: Path, header: str) -> tuple[int, np.dtype]:
    """How many vertices there are, and how one is stored."""
    lines = [line.split() for line in header.splitlines() if line]
    if lines[:1] != [["ply"]] or ["format", "binary_little_endian", "1.0"] not in lines:
        raise LociError(f"{path}: expected a binary, little endian PLY file")
    count, fields = -1, []
    for word, *rest in lines:
        if word == "element" and count >= 0:
            break
        if word == "element" and rest[:1] == ["vertex"] and rest[1:2] and rest[1].isdigit():
            count = int(rest[1])
        elif word == "property" and count >= 0 and len(rest) == 2 and rest[0] in KINDS:
            fields.append((rest[1], KINDS[rest[0]]))
        elif word in ("element", "property"):
            raise LociError(f"{path}: {' '.join([word, *rest])}, expected plain vertices first")
    if len({name for name, _ in fields}) < max(len(fields), 1):
        raise LociError(f"{path}: expected vertices with columns of different names")
    return count, np.dtype(fields)
