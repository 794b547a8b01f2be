"""OBJ files, read by the format's definition."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.errors import LociError
from loci.geometry.mesh import Mesh
from loci.geometry.obj import write_obj


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.booleans(), st.floats(1e-4, 1e4))
def test_an_obj_holds_the_mesh_with_y_up(
    vertices: int, faces: int, colored: bool, size: float
) -> None:
    generator = torch.Generator().manual_seed(vertices * 100 + faces)
    places, colors = torch.rand(2, vertices, 3, generator=generator).unbind(0)
    rows = torch.randint(vertices, (faces, 3), generator=generator)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mesh.obj"
        write_obj(path, Mesh(places * size, rows, colors if colored else None))
        lines = [line.split() for line in path.read_text().splitlines()]
    table = np.array([line[1:] for line in lines if line[0] == "v"], dtype=float)
    x, y, z = (places * size).numpy().T
    assert np.allclose(table[:, :3], np.stack([x, z, -y], axis=1), rtol=1e-5)
    assert table.shape == (vertices, 6 if colored else 3)
    if colored:
        assert np.allclose(table[:, 3:], colors.numpy(), atol=1e-5)
    written = np.array([line[1:] for line in lines if line[0] == "f"], dtype=int)
    assert np.array_equal(written - 1, rows.numpy())


def test_what_cannot_be_an_obj_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    faces = torch.tensor([[0, 1, 2]])
    for mesh, message in (
        (Mesh(torch.rand(3, 3), faces[:0]), "no faces"),
        (Mesh(torch.full((3, 3), torch.inf), faces), "not finite"),
    ):
        with pytest.raises(LociError, match=message):
            write_obj(tmp_path / "mesh.obj", mesh)
    assert list(tmp_path.iterdir()) == []
