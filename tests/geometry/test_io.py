"""Files are read back by readers written here from the formats' definitions."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.errors import LociError
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.io import (
    from_gltf_frame,
    linear_to_srgb,
    srgb_to_linear,
    to_gltf_frame,
    write_glb,
    write_obj,
    write_ply,
)
from loci.geometry.mesh.mesh import Mesh

KINDS = {5126: "<f4", 5125: "<u4"}
WIDTHS = {"SCALAR": 1, "VEC3": 3}


def random_mesh(vertices: int, faces: int) -> Mesh:
    generator = torch.Generator().manual_seed(vertices * 100 + faces)
    places, colors = torch.rand(2, vertices, 3, generator=generator).unbind(0)
    rows = torch.randint(vertices, (faces, 3), generator=generator)
    return Mesh(places - 0.5, rows, colors)


def random_gaussians(count: int) -> Gaussians:
    columns = torch.rand(count, 14, generator=torch.Generator().manual_seed(count)) + 0.01
    positions, harmonics, scales, quaternions, opacity = columns.split([3, 3, 3, 4, 1], dim=1)
    return Gaussians(positions, harmonics, scales, quaternions, opacity[:, 0])


def read_glb(path: Path) -> tuple[dict, list[np.ndarray]]:
    content = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    size, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON"
    assert size % 4 == 0
    described = json.loads(content[20 : 20 + size])
    bin_size, kind = struct.unpack_from("<I4s", content, 20 + size)
    assert kind == b"BIN\0"
    data = content[28 + size :]
    assert len(data) == bin_size
    arrays = []
    for accessor in described["accessors"]:
        view = described["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        raw = data[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        values = np.frombuffer(raw, KINDS[accessor["componentType"]])
        arrays.append(values.reshape(accessor["count"], WIDTHS[accessor["type"]]))
    return described, arrays


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=3))
def test_a_glb_holds_every_mesh_in_its_frame(sizes: list[tuple[int, int]]) -> None:
    meshes = {f"object {i}": random_mesh(*size) for i, size in enumerate(sizes)}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scene.glb"
        write_glb(path, meshes)
        described, arrays = read_glb(path)
    assert [node["name"] for node in described["nodes"] if "mesh" in node] == list(meshes)
    assert not any("matrix" in node for node in described["nodes"]), "no node moves its mesh"
    for mesh, written in zip(meshes.values(), described["meshes"], strict=True):
        (primitive,) = written["primitives"]
        places, normals, colors = (
            arrays[primitive["attributes"][name]] for name in ("POSITION", "NORMAL", "COLOR_0")
        )
        x, y, z = places.T
        assert np.allclose(np.stack([x, -z, y], axis=1), mesh.vertices.numpy())
        accessor = described["accessors"][primitive["attributes"]["POSITION"]]
        assert np.allclose([accessor["min"], accessor["max"]], [places.min(0), places.max(0)])
        assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
        assert mesh.colors is not None
        assert np.allclose(colors, srgb_to_linear(mesh.colors.numpy()), atol=1e-6)
        assert np.array_equal(arrays[primitive["indices"]][:, 0], mesh.faces.flatten().numpy())


def test_the_gltf_frame_has_y_up_and_goes_back() -> None:
    up = torch.tensor([[0.0, 0.0, 1.0]])
    assert to_gltf_frame(up).tolist() == [[0, 1, 0]]
    points = torch.randn(5, 3)
    assert torch.equal(from_gltf_frame(to_gltf_frame(points)), points)
    # The matrix in SAM 3D Objects.
    back = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    assert torch.equal(from_gltf_frame(points), points @ back)


def test_colors_are_stored_linear() -> None:
    assert srgb_to_linear(np.array([0.0, 0.5, 1.0])) == pytest.approx([0, 0.21404, 1], abs=1e-5)
    values = np.linspace(0, 1, 101)
    assert linear_to_srgb(srgb_to_linear(values)) == pytest.approx(values, abs=1e-6)


def test_trimesh_reads_vertex_colors_back(tmp_path: Path) -> None:
    mesh = random_mesh(20, 30)
    write_glb(tmp_path / "mesh.glb", {"object": mesh})
    read: Any = trimesh.load(tmp_path / "mesh.glb", force="mesh", process=False)
    assert mesh.colors is not None
    assert read.visual.kind == "vertex"
    colors = linear_to_srgb(read.visual.vertex_colors[:, :3] / 255)
    assert np.abs(colors - mesh.colors.numpy()).max() < 0.03
    assert np.allclose(read.vertices, to_gltf_frame(mesh.vertices))
    assert np.array_equal(read.faces, mesh.faces)


def test_a_mesh_without_colors_is_matte(tmp_path: Path) -> None:
    write_glb(tmp_path / "mesh.glb", {"object": replace(random_mesh(20, 30), colors=None)})
    read: Any = trimesh.load_scene(tmp_path / "mesh.glb").geometry["object"]
    material = read.visual.material
    assert (material.metallicFactor, material.roughnessFactor, material.doubleSided) == (0, 1, True)


@pytest.mark.parametrize(
    ("meshes", "message"),
    [
        ({}, "at least one mesh"),
        ({"chair": random_mesh(3, 0)}, "chair has no faces"),
        ({"cup": Mesh(torch.full((3, 3), torch.nan), torch.tensor([[0, 1, 2]]))}, "not finite"),
    ],
)
def test_what_cannot_be_a_glb_is_refused_and_nothing_is_written(
    tmp_path: Path, meshes: dict[str, Mesh], message: str
) -> None:
    with pytest.raises(LociError, match=message):
        write_glb(tmp_path / "scene.glb", meshes)
    assert list(tmp_path.iterdir()) == []


def read_ply(path: Path) -> tuple[list[str], bytes]:
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    return lines[2:], body


def test_a_splat_has_the_columns_viewers_expect(tmp_path: Path) -> None:
    gaussians = random_gaussians(7)
    write_ply(tmp_path / "splat.ply", gaussians)
    lines, body = read_ply(tmp_path / "splat.ply")
    assert lines[0] == "element vertex 7"
    names = [line.split()[2] for line in lines[1:]]
    table = dict(zip(names, np.frombuffer(body, "<f4").reshape(7, len(names)).T, strict=True))
    assert np.allclose(table["z"], gaussians.positions[:, 2])
    assert (table["ny"] == 0).all()
    assert np.allclose(1 / (1 + np.exp(-table["opacity"])), gaussians.opacities, atol=1e-6)
    assert np.allclose(np.exp(table["scale_1"]), gaussians.scales[:, 1])
    assert np.allclose(table["rot_3"], gaussians.quaternions[:, 3])
    assert np.allclose(0.5 + 0.28209479 * table["f_dc_2"], gaussians.colors[:, 2], atol=1e-6)


def test_unit_rotations_and_vertex_normals() -> None:
    assert torch.allclose(random_gaussians(5).rotations.norm(dim=1), torch.ones(5))
    square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [5, 5, 5]])
    mesh = Mesh(square, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    assert mesh.face_normals.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert mesh.vertex_normals.tolist() == [[0, 0, 1]] * 4 + [[0, 0, 0]]


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
