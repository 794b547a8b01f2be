"""PLY files of splats, as every Gaussian viewer reads them."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.gaussians import Gaussians
from loci.layers.weights import write_whole


def gaussian_columns(gaussians: Gaussians) -> dict[str, Float[Tensor, "n"]]:
    """What a splat file stores, before activation, by column name in file order.

    Opacity as its logit, scale as its logarithm, rotation w, x, y, z of any length.
    """
    zeros = torch.zeros_like(gaussians.positions)
    columns: dict[str, Tensor] = {}
    for names, values in (
        (("x", "y", "z"), gaussians.positions),
        (("nx", "ny", "nz"), zeros),
        (("f_dc_0", "f_dc_1", "f_dc_2"), gaussians.harmonics),
        (("opacity",), gaussians.opacity_logits[:, None]),
        (("scale_0", "scale_1", "scale_2"), gaussians.scales.log()),
        (("rot_0", "rot_1", "rot_2", "rot_3"), gaussians.quaternions),
    ):
        columns |= zip(names, values.unbind(1), strict=True)
    return columns


def write_splat(path: Path | str, gaussians: Gaussians) -> None:
    """Writes a binary PLY of Gaussians, all or nothing. Raises LociError if it cannot."""
    columns = {name: _numpy(column) for name, column in gaussian_columns(gaussians).items()}
    vertices = np.empty(len(gaussians), dtype=[(name, "<f4") for name in columns])
    for name, column in columns.items():
        vertices[name] = column
    properties = [f"property float {name}" for name in columns]
    form = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    header = "\n".join([*form, *properties, "end_header\n"])
    write_whole(Path(path), header.encode() + vertices.tobytes())


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
