"""Splat files read back, and OBJ files read by the format's definition."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.errors import LociError
from loci.geometry.gaussians import Gaussians
from loci.geometry.mesh import Mesh
from loci.geometry.obj import write_obj
from loci.geometry.ply import write_splat
from loci.geometry.splat_file import read_splat


def some(count: int) -> Gaussians:
    columns = torch.rand(count, 14, generator=torch.Generator().manual_seed(count)) + 0.01
    positions, harmonics, scales, quaternions, opacity = columns.split([3, 3, 3, 4, 1], dim=1)
    return Gaussians(positions, harmonics, scales, quaternions, opacity[:, 0])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 50))
def test_gaussians_come_back(count: int) -> None:
    gaussians = some(count)
    with TemporaryDirectory() as folder:
        write_splat(Path(folder) / "a.ply", gaussians)
        back = read_splat(Path(folder) / "a.ply")
    for name, part in vars(gaussians).items():
        assert torch.allclose(getattr(back, name), part, rtol=1e-6), name


def test_other_columns_and_types_are_read_too(tmp_path: Path) -> None:
    names = ["f_rest_0", "rot_3", "rot_2", "rot_1", "rot_0", "opacity", "x", "y", "z"]
    names += ["scale_0", "scale_1", "scale_2", "f_dc_0", "f_dc_1", "f_dc_2"]
    header = "ply\nformat binary_little_endian 1.0\ncomment by another\nelement vertex 2\n"
    header += "".join(f"property double {name}\n" for name in names)
    header += "element face 0\nproperty list uchar int vertex_indices\nend_header\n"
    table = np.arange(30, dtype="<f8").reshape(2, 15)
    (tmp_path / "b.ply").write_bytes(header.encode() + table.tobytes())
    back = read_splat(tmp_path / "b.ply")
    assert back.quaternions.tolist() == [[4, 3, 2, 1], [19, 18, 17, 16]]
    assert back.positions.tolist() == [[6, 7, 8], [21, 22, 23]]
    assert back.scales[0].log().tolist() == pytest.approx([9, 10, 11])


GOOD = "ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nend_header\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("solid", "binary, little endian"),
        (GOOD.replace("binary_little_endian", "ascii"), "binary, little endian"),
        (GOOD + "\0\0", "ends after 0 Gaussians, expected 1"),
        (GOOD + "\0\0\0\0", "no column y"),
        (GOOD.replace("vertex 1", "vertex x"), "plain vertices first"),
        (GOOD.replace("float x", "list uchar int x"), "plain vertices first"),
        (GOOD.replace("property float x", "comment"), "columns"),
    ],
)
def test_what_is_no_splat_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.ply").write_bytes(content.encode())
    with pytest.raises(LociError, match=message) as error:
        read_splat(tmp_path / "bad.ply")
    assert "bad.ply" in str(error.value)


def test_a_missing_splat_is_named(tmp_path: Path) -> None:
    with pytest.raises(LociError, match=r"none\.ply: cannot be read"):
        read_splat(tmp_path / "none.ply")


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
