"""The model that ships lifts the picture that ships with it."""

import numpy as np
import torch

from loci import Lifter
from loci.geometry.camera import Camera
from loci.io.models import SHIPPED
from loci.objects.inputs.masks import read_mask


def test_home_lifts_its_example_into_its_mask() -> None:
    folder = SHIPPED / "home"
    lifter = Lifter.from_pretrained("home")
    asset = lifter(folder / "example.png", folder / "example_mask.png", speed="fast")
    assert asset.gaussians is not None
    assert asset.mesh is not None
    assert len(asset.voxels) > 300
    assert len(asset.mesh.faces) > 1000
    inside = read_mask(str(folder / "example_mask.png"), "mask")
    placed = asset.pose.place((asset.gaussians.positions)[None])[0]
    at = Camera.identity(asset.fov).project(placed, inside.shape)
    covered = np.zeros_like(inside)
    row, column = (at[:, i].long().clamp(0, inside.shape[i - 1] - 1) for i in (1, 0))
    covered[row.numpy(), column.numpy()] = True
    assert inside[covered].mean() > 0.6, "most of it falls where the picture shows it"
    rows, columns = np.nonzero(inside)
    assert abs(float(torch.median(at[:, 1])) - rows.mean()) < 0.15 * inside.shape[0]
    assert abs(float(torch.median(at[:, 0])) - columns.mean()) < 0.15 * inside.shape[1]
