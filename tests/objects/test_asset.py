"""What is written: files that others can read, in the frames they are said to be in."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.errors import LociError
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.io import from_gltf_frame
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.rotations import quaternion_to_matrix
from loci.objects.asset import Asset
from loci.objects.placement.pose import Pose
from loci.objects.scene import Scene

trimesh = pytest.importorskip("trimesh")

CORNERS = torch.tensor([[0.1, 0.2, 0.3], [-0.4, 0.0, 0.1], [0.0, 0.5, -0.2], [0.3, -0.3, 0.4]])
FACES = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])


def made(seed: int = 0, distance_assumed: bool = False) -> Asset:
    rng = torch.Generator().manual_seed(seed)
    quaternion = torch.nn.functional.normalize(torch.randn(1, 4, generator=rng), dim=1)
    translation = torch.randn(1, 3, generator=rng) + torch.tensor([0.0, 0, 5])
    scale = torch.rand(1, 1, generator=rng).expand(1, 3) + 0.2
    gaussians = Gaussians(
        CORNERS.clone(),
        torch.randn(4, 3, generator=rng),
        torch.full((4, 3), 0.02),
        torch.randn(4, 4, generator=rng),
        torch.zeros(4),
    )
    return Asset(
        pose=Pose(quaternion * quaternion[:, :1].sign(), translation, scale),
        voxels=torch.tensor([[0, 0, 0], [3, 2, 1]]),
        resolution=4,
        downsample_factor=1,
        gaussians=gaussians,
        mesh=Mesh(CORNERS.clone(), FACES, torch.rand(4, 3, generator=rng)),
        fov=40.0,
        distance_assumed=distance_assumed,
    )


def ply_positions(path: Path) -> np.ndarray:
    vertices = trimesh.load(path, process=False).vertices
    return np.asarray(vertices, np.float32)


def test_a_texture_is_painted_from_the_mesh_where_there_are_no_splats(tmp_path: Path) -> None:
    asset = replace(made(), gaussians=None)
    assert asset.mesh is not None
    red = replace(asset.mesh, colors=torch.tensor([[0.9, 0.1, 0.2]]).expand(4, 3))
    textured = replace(asset, mesh=red).textured(32)
    assert textured.mesh is not None
    assert textured.mesh.texture is not None
    assert textured.mesh.texture.image.float().mean(dim=(0, 1)).tolist() == pytest.approx(
        [229.5, 25.5, 51], abs=6
    )
    scene = Scene((textured, textured))
    scene.export(tmp_path / "scene")
    read = trimesh.load_scene(tmp_path / "scene" / "scene.glb")
    assert [mesh.visual.kind for mesh in read.geometry.values()] == ["texture", "texture"]
    for again in (lambda: textured.simplified(10), lambda: textured.textured(32)):
        with pytest.raises(LociError, match="texture already"):
            again()
    textured.export(tmp_path / "red.obj")
    first = (tmp_path / "red.obj").read_text().splitlines()[1].split()
    assert [float(x) for x in first[4:]] == pytest.approx([0.9, 0.1, 0.2], abs=0.03)


def test_what_is_not_there_cannot_be_finished() -> None:
    asset = replace(made(), mesh=None)
    with pytest.raises(LociError, match="no mesh"):
        asset.textured(32)
    with pytest.raises(LociError, match="no mesh"):
        asset.simplified(10)
    with pytest.raises(LociError, match="15 pixels"):
        made().textured(15)


def test_an_exported_object_can_be_read_by_others(tmp_path: Path) -> None:
    asset = made()
    written = asset.export(tmp_path / "chair")
    assert [path.name for path in written] == ["splat.ply", "mesh.glb", "pose.json"]
    assert np.allclose(ply_positions(tmp_path / "chair" / "splat.ply"), CORNERS)
    mesh = trimesh.load(tmp_path / "chair" / "mesh.glb", force="mesh", process=False)
    vertices = torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32)
    assert torch.allclose(from_gltf_frame(vertices), CORNERS, atol=1e-6)


def test_one_file_holds_one_part(tmp_path: Path) -> None:
    asset = made()
    for name in ("chair.ply", "chair.glb", "new/chair.OBJ"):
        assert asset.export(tmp_path / name) == [tmp_path / name]
        assert (tmp_path / name).is_file()
    assert np.allclose(ply_positions(tmp_path / "chair.ply"), CORNERS)
    for name in ("chair.glb", "new/chair.OBJ"):
        mesh = trimesh.load(tmp_path / name, force="mesh", process=False)
        vertices = torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32)
        assert torch.allclose(from_gltf_frame(vertices), CORNERS, atol=1e-6)
    for name, part, message in (
        ("a.ply", "gaussians", "has no splats"),
        ("a.obj", "mesh", "has no mesh"),
    ):
        with pytest.raises(LociError, match=rf"{name}: the object {message}"):
            replace(asset, **{part: None}).export(tmp_path / name)
        assert not (tmp_path / name).exists()


def test_the_pose_file_places_the_object_by_its_own_words(tmp_path: Path) -> None:
    asset = made(3)
    asset.export(tmp_path)
    pose = json.loads((tmp_path / "pose.json").read_text())
    assert pose["convention"].startswith("row vectors: p_camera = (p_object * scale) @ rotation_m")
    placed = (CORNERS.numpy() * pose["scale"]) @ np.array(pose["rotation_matrix"])
    placed = placed + np.array(pose["translation"])
    assert np.allclose(placed, asset.pose.place(CORNERS[None])[0], atol=1e-5)
    matrix = quaternion_to_matrix(torch.tensor([pose["rotation"]]))[0]
    assert np.allclose(matrix, pose["rotation_matrix"], atol=1e-5)
    assert pose["units"] == "the units of the pointmap"
    assert "distance" in made(distance_assumed=True).pose_record()["units"]
    assert pose["horizontal_fov_degrees"] == 40


@given(st.integers(0, 2**20))
@settings(max_examples=20, deadline=None)
def test_trap_a_scene_turns_row_vectors(seed: int) -> None:
    """A Gaussian's own axes and the mesh turn the way its place does."""
    asset = made(seed)
    scene = Scene((asset,))
    assert asset.gaussians is not None
    assert scene.gaussians is not None
    matrix = quaternion_to_matrix(asset.pose.rotation)[0]
    expected = (CORNERS * asset.pose.scale) @ matrix + asset.pose.translation
    assert torch.allclose(scene.gaussians.positions, expected, atol=1e-4)
    assert torch.allclose(scene.meshes["object-1"].vertices, expected, atol=1e-4)
    axes = quaternion_to_matrix(asset.gaussians.rotations).transpose(1, 2)  # rows: each axis
    turned = quaternion_to_matrix(scene.gaussians.rotations).transpose(1, 2)
    assert torch.allclose(turned, axes @ matrix, atol=1e-4)
    assert torch.allclose(scene.gaussians.scales, 0.02 * asset.pose.scale.expand(4, 3))


def test_the_files_of_a_scene_agree_with_each_other(tmp_path: Path) -> None:
    scene = Scene((made(1), made(2)))
    scene.export(tmp_path)
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")}
    parts = {
        f"object-{n}/{file}" for n in (1, 2) for file in ("splat.ply", "mesh.glb", "pose.json")
    }
    assert names == parts | {"scene.ply", "scene.glb"}
    placed = torch.cat([asset.pose.place(CORNERS[None])[0] for asset in scene.objects])
    assert np.allclose(ply_positions(tmp_path / "scene.ply"), placed, atol=1e-5)
    loaded = trimesh.load(tmp_path / "scene.glb", process=False)
    assert list(loaded.geometry) == ["object-1", "object-2"]
    vertices = np.concatenate([mesh.vertices for mesh in loaded.geometry.values()])
    # x right, y up, z towards the viewer.
    assert np.allclose(vertices * [-1, 1, -1], placed, atol=1e-5)


def broken(asset: Asset, field: str) -> Asset:
    assert asset.gaussians is not None
    assert asset.mesh is not None
    if field == "pose":
        return replace(asset, pose=asset.pose._replace(scale=torch.full((1, 3), torch.nan)))
    if field == "gaussians":
        wrong = asset.gaussians.scales / 0
        return replace(asset, gaussians=replace(asset.gaussians, scales=wrong))
    return replace(asset, mesh=replace(asset.mesh, faces=FACES[:0]))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("pose", "its pose is not finite"),
        ("gaussians", "Gaussians that are not finite"),
        ("mesh", "its mesh has no faces, expected a surface"),
    ],
)
def test_what_cannot_be_written_is_named_and_nothing_is(
    tmp_path: Path, field: str, message: str
) -> None:
    with pytest.raises(LociError, match=f"^object: {message}"):
        broken(made(), field).export(tmp_path / "out")
    with pytest.raises(LociError, match=f"^object-2: {message}"):
        Scene((made(), broken(made(), field))).export(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_matrices_lead_from_the_glb_to_cameras() -> None:
    """As pose and frame by the words of pose.json."""
    generator = torch.Generator().manual_seed(2)
    rotation = torch.nn.functional.normalize(torch.randn(1, 4, generator=generator), dim=1)
    pose = Pose(rotation, torch.tensor([[0.3, -0.2, 2.0]]), torch.full((1, 3), 0.7))
    asset = Asset(pose, torch.zeros(0, 3).long(), 32, 1.0, None, None, 40.0, True)
    record = asset.pose_record()
    in_glb = torch.randn(5, 3, generator=generator)
    in_object = from_gltf_frame(in_glb)
    in_camera = in_object * 0.7 @ quaternion_to_matrix(rotation)[0] + pose.translation[0]
    for name, signs in (("glb_to_opencv", (-1, -1, 1)), ("glb_to_opengl", (-1, 1, -1))):
        matrix = torch.tensor(record[name])
        found = torch.cat([in_glb, torch.ones(5, 1)], dim=1) @ matrix.T
        torch.testing.assert_close(found[:, :3], in_camera * torch.tensor(signs))


def splat_rows(path: Path) -> np.ndarray:
    kinds = [("at", "<f4", 3), ("size", "<f4", 3), ("rgba", "u1", 4), ("turn", "u1", 4)]
    return np.frombuffer(path.read_bytes(), kinds)


def test_splats_for_web_viewers_are_where_the_mesh_is_and_turned_with_it(tmp_path: Path) -> None:
    asset = made(3)
    gaussians = asset.gaussians
    assert gaussians is not None
    wide = torch.tensor(
        [[0.01, 0.02, 0.09], [0.03, 0.01, 0.02], [0.01, 0.01, 0.01], [0.2, 0.1, 0.1]]
    )
    gaussians = replace(gaussians, scales=wide, opacity_logits=torch.tensor([0.0, 1, 2, 3]))
    asset = replace(asset, gaussians=gaussians)
    asset.export_web(tmp_path / "up")
    asset.export_web(tmp_path / "down", "y-down")
    asset.export(tmp_path / "one.splat")
    assert (tmp_path / "one.splat").read_bytes() == (tmp_path / "up/web.splat").read_bytes()
    rows = splat_rows(tmp_path / "up/web.splat")
    assert rows["size"][:, 2].tolist() == pytest.approx([0.1, 0.09, 0.02, 0.01])  # largest first
    order = [3, 0, 1, 2]
    (mesh,) = trimesh.load_scene(asset.export(tmp_path / "o.glb")[0]).geometry.values()
    np.testing.assert_allclose(rows["at"], mesh.vertices[order], atol=1e-6)
    np.testing.assert_allclose(ply_positions(tmp_path / "up/web.ply"), mesh.vertices, atol=1e-6)
    down = splat_rows(tmp_path / "down/web.splat")["at"]
    np.testing.assert_allclose(down, rows["at"] * [1, -1, -1], atol=1e-6)
    colors = torch.cat([gaussians.colors, gaussians.opacities[:, None]], dim=1).clamp(0, 1) * 255
    np.testing.assert_allclose(rows["rgba"], colors[order], atol=0.51)
    # The long axes of the ellipsoids are the object's, in the other frame.
    for name, signs in (("up", [1, 1, 1]), ("down", [1, -1, -1])):
        turns = torch.from_numpy(splat_rows(tmp_path / name / "web.splat")["turn"].copy()).float()
        found = quaternion_to_matrix(torch.nn.functional.normalize((turns - 128) / 128, dim=1))
        axes = quaternion_to_matrix(gaussians.rotations[order])
        x, y, z = axes.unbind(1)
        expected = torch.stack([x, z, -y], dim=1) * torch.tensor(signs)[:, None]
        torch.testing.assert_close(found, expected, atol=0.03, rtol=0)
    with pytest.raises(LociError, match="no splats"):
        replace(asset, gaussians=None).export_web(tmp_path)
