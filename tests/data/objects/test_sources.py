from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from loci.data.objects import mesh_files
from loci.data.objects.cleaning import LENGTH, UnusableObject, area_samples, check_name, normalized
from loci.data.objects.mesh_files import Submesh, read_mesh_file, triangles
from loci.data.objects.sources import catalog, find_sources, read_furniture
from loci.errors import LociError
from tests.data.small_meshes import box_obj, write_box, write_library


def bounds(parts: list[Submesh]) -> np.ndarray:
    corners = triangles(parts).reshape(-1, 3)
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def test_an_obj_is_read_upright_and_colored(tmp_path: Path) -> None:
    parts = read_mesh_file(write_box(tmp_path, "box", (1, 2, 3)))
    assert sum(len(part.faces) for part in parts) == 12
    np.testing.assert_allclose(bounds(parts), [[0, -3, 0], [1, 0, 2]], atol=1e-6)
    np.testing.assert_allclose(parts[0].color, [0.8, 0.2, 0.1], atol=0.01)
    assert parts[0].texture is None


def test_a_missing_material_leaves_the_shape(tmp_path: Path) -> None:
    path = write_box(tmp_path, "box")
    (tmp_path / "paint.mtl").unlink()
    assert sum(len(part.faces) for part in read_mesh_file(path)) == 12


def test_a_glb_is_read_as_its_obj(tmp_path: Path) -> None:
    path = write_box(tmp_path, "box", (1, 2, 3))
    trimesh.load_scene(path).export(tmp_path / "box.glb")
    np.testing.assert_allclose(
        bounds(read_mesh_file(tmp_path / "box.glb")), bounds(read_mesh_file(path)), atol=1e-5
    )


def test_colors_of_a_glb_are_linear(tmp_path: Path) -> None:
    """A dark green: read as sRGB it would be all but black."""
    box = trimesh.creation.box()
    material = PBRMaterial(baseColorFactor=[0.02, 0.2, 0.0, 1.0])
    box.visual = TextureVisuals(material=material)
    box.export(tmp_path / "tree.glb")
    (submesh,) = read_mesh_file(tmp_path / "tree.glb")
    np.testing.assert_allclose(submesh.color, [0.15, 0.48, 0.0], atol=0.01)


def test_a_gltf_is_read_with_the_files_beside_it(tmp_path: Path) -> None:
    box = trimesh.creation.box((1, 2, 3))
    uv = np.zeros((len(box.vertices), 2))
    picture = Image.new("RGB", (4, 4), (10, 200, 30))
    box.visual = TextureVisuals(uv, PBRMaterial(baseColorTexture=picture))
    files: Any = box.export(file_type="gltf")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (path,) = tmp_path.glob("*.gltf")
    (submesh,) = read_mesh_file(path)
    np.testing.assert_allclose(np.ptp(bounds([submesh]), axis=0), [1, 3, 2], atol=1e-5)
    assert submesh.texture is not None
    assert submesh.texture[0, 0, :3].tolist() == [10, 200, 30]
    assert [source.name for source in find_sources(tmp_path)] == [path.stem]


def test_draco_is_named_where_it_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_files, "find_spec", lambda name: None)
    (tmp_path / "ship.glb").write_bytes(b'glTF {"extensionsUsed":["KHR_draco_mesh_compression"]}')
    with pytest.raises(LociError, match=r"ship.glb: Draco-compressed; run: pip install"):
        read_mesh_file(tmp_path / "ship.glb")


def test_whose_a_mesh_is_stands_beside_it(tmp_path: Path) -> None:
    write_box(tmp_path / "toys" / "red", "duck")
    write_box(tmp_path, "brick")
    note = tmp_path / "toys" / "source.json"
    note.write_text('{"source": "Toy pack", "licence": "CC0-1.0", "author": "Ann"}')
    brick, duck = find_sources(tmp_path)
    assert (duck.origin, duck.licence, duck.author) == (
        "Toy pack: toys/red/duck.obj",
        "CC0-1.0",
        "Ann",
    )
    assert (brick.origin, brick.licence) == ("brick.obj", "unknown")
    note.write_text("[]")
    with pytest.raises(LociError, match="source.json: expected source, licence and author"):
        find_sources(tmp_path)


@pytest.mark.parametrize("content", [b"", b"glTF\x02\0\0\0 and no more"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.glb"
    path.write_bytes(content)
    with pytest.raises(LociError, match="broken.glb: damaged, expected a mesh"):
        read_mesh_file(path)


def test_a_library_is_read_with_its_textures_and_turns(tmp_path: Path) -> None:
    lamp, box, door, _ = catalog(write_library(tmp_path / "lib.sh3f"))
    assert (lamp.name, lamp.category, lamp.author) == ("Tall lamp", "Lights", "Somebody")
    assert (lamp.licence, lamp.size) == ("CC-BY-3.0", 1.2)
    assert (box.name, door.opening, box.opening) == ("Café box", True, False)
    parts = read_furniture(box)
    assert parts[0].texture is not None
    assert parts[0].texture[0, 0, :3].tolist() == [10, 20, 200]
    np.testing.assert_allclose(parts[0].color, 1)
    # In the file the lamp lies along z; its turn (x, y, z) -> (x, -z, y) stands it up side down.
    np.testing.assert_allclose(bounds(read_furniture(lamp)), [[0, -1, -3], [1, 0, 0]], atol=1e-6)


def test_a_file_that_is_no_library_is_named(tmp_path: Path) -> None:
    (tmp_path / "lib.sh3f").write_bytes(b"no zip")
    with pytest.raises(LociError, match="expected a furniture library"):
        find_sources(tmp_path)


def test_sources_are_named_by_their_place(tmp_path: Path) -> None:
    write_library(tmp_path / "lib.sh3f")
    write_box(tmp_path / "My Chairs", "Old Chair_2")
    names = {source.name: source for source in find_sources(tmp_path)}
    assert sorted(names) == [
        "lib-box",
        "lib-door",
        "lib-lamp1",
        "lib-socket",
        "my-chairs-old-chair_2",
    ]
    assert names["my-chairs-old-chair_2"].header()["category"] == "My Chairs"
    assert names["lib-box"].header()["metres"] == "1.2"
    assert len(names["lib-box"].read()) >= 1


def test_two_objects_of_one_name_are_refused(tmp_path: Path) -> None:
    write_box(tmp_path, "a b")
    write_box(tmp_path, "a-b")
    with pytest.raises(LociError, match=r"a b.obj and a-b.obj would both be called a-b"):
        find_sources(tmp_path)


def test_no_meshes_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(LociError, match="found none"):
        find_sources(tmp_path)
    with pytest.raises(LociError, match="expected a file or folder"):
        find_sources(tmp_path / "nowhere")


def test_doors_and_sockets_are_left_out() -> None:
    check_name("Sofa", opening=False)
    with pytest.raises(UnusableObject, match="door or window"):
        check_name("Glass door", opening=True)
    for name in ("Wall socket", "Rounded RJ45 plug", "Square double switch"):
        with pytest.raises(UnusableObject, match="wall socket"):
            check_name(name, opening=False)


def test_stray_geometry_does_not_shrink_the_object(tmp_path: Path) -> None:
    path = write_box(tmp_path, "box", (2, 1, 1))
    speck = path.with_name("speck.obj")
    speck.write_text(box_obj((0.01, 0.01, 0.01), at=(50, 0, 0)))
    parts = normalized([*read_mesh_file(path), *read_mesh_file(speck)])
    half = LENGTH / 2
    np.testing.assert_allclose(
        bounds(parts), [[-half, -half / 2, -half / 2], [half, half / 2, half / 2]], atol=1e-5
    )


def test_sheets_and_empty_meshes_are_left_out(tmp_path: Path) -> None:
    with pytest.raises(UnusableObject, match="flat"):
        normalized(read_mesh_file(write_box(tmp_path, "rug", (2, 0.01, 1))))
    with pytest.raises(UnusableObject, match="0 triangles"):
        normalized([])
    with pytest.raises(UnusableObject, match="no surface"):
        normalized(read_mesh_file(write_box(tmp_path, "point", (0, 0, 0))))


def test_samples_are_spread_by_area() -> None:
    corners = np.array(
        [[[0, 0, 0], [3, 0, 0], [0, 2, 0]], [[5, 0, 0], [6, 0, 0], [5, 2, 0]]], float
    )
    points = area_samples(corners, 4000, np.random.default_rng(0))
    assert np.mean(points[:, 0] < 4) == pytest.approx(0.75, abs=0.03)
