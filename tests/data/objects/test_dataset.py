from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from loci.data.objects.cameras import Lights, RenderCamera, look_along, random_camera
from loci.data.objects.cameras import ViewConfig as Views
from loci.data.objects.dataset import ObjectSet, RenderedView, training_folders
from loci.data.objects.make import ObjectsConfig, generate
from loci.data.objects.render import ObjectRenderer
from loci.errors import LociError
from tests.data.small_meshes import write_box, write_library

CONFIG = ObjectsConfig(views=3, size=48)
pytest.importorskip("scipy", reason="scipy is not installed (the extra `objects`)")


@pytest.fixture(scope="module")
def renderer() -> Iterator[ObjectRenderer]:
    try:
        renderer = ObjectRenderer()
    except LociError as error:
        pytest.skip(f"nothing can be drawn here: {error}")
    with renderer:
        yield renderer


@pytest.fixture(scope="module")
def made(renderer: ObjectRenderer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two objects: a library's box, blue, and one held-out box, red, of other sides."""
    folder = tmp_path_factory.mktemp("objects")
    write_box(folder / "in" / "scopia", "rabbit", (1.0, 0.5, 0.25))
    write_library(folder / "in" / "lib.sh3f")
    (folder / "in" / "broken.glb").write_bytes(b"glTF and no more")
    done = generate(folder / "in", folder / "out", CONFIG)
    assert (done.made, done.total) == (3, 3)
    assert done.dropped.pop("broken").startswith("damaged, ")
    assert done.dropped == {
        "lib-door": "door or window",
        "lib-socket": "wall socket, plug or switch",
    }
    return folder


@pytest.fixture(scope="module")
def rabbit(made: Path) -> ObjectSet:
    return ObjectSet.load(made / "out" / "test")


def pixels(view: RenderedView, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of points of the object, by the stored pose and field of view."""
    place = view.place(points)
    size = len(view.mask)
    focal = size / 2 / np.tan(np.radians(view.fov) / 2)
    column = size / 2 - focal * place[:, 0] / place[:, 2]
    row = size / 2 - focal * place[:, 1] / place[:, 2]
    return row, column


def test_the_held_out_object_is_kept_apart(made: Path, rabbit: ObjectSet) -> None:
    train = ObjectSet.load(made / "out" / "train")
    assert [record.name for record in train.records] == ["lib-box", "lib-lamp1"]
    assert [record.name for record in rabbit.records] == ["scopia-rabbit"]
    record = train.records[0]
    assert (record.title, record.licence, record.metres) == ("Café box", "CC-BY-3.0", 1.2)
    assert (rabbit.views, rabbit.size, len(rabbit)) == (3, 48, 1)


def test_surface_points_fall_onto_the_mask_by_the_stored_pose(rabbit: ObjectSet) -> None:
    points = rabbit.surface(0)[:, :3]
    for index in range(3):
        view = rabbit.view(0, index)
        row, column = pixels(view, points)
        alpha = rabbit.records[0].read_row("rgba", index)[..., 3]
        assert (alpha[row.long(), column.long()] > 0).float().mean() > 0.95
        # And they fill it: the picture is not mirrored, nor larger than its points.
        hit = torch.zeros_like(view.mask)
        hit[row.long(), column.long()] = True
        assert (hit[view.mask]).float().mean() > 0.97


def test_the_pointmap_lies_on_the_surface(rabbit: ObjectSet) -> None:
    for index in range(3):
        view = rabbit.view(0, index)
        pointmap = view.pointmap()
        known = pointmap.isfinite().all(dim=-1)
        assert (known == view.depth.isfinite()).all()
        assert (known ^ view.mask).float().mean() < 0.03
        back = (pointmap[known] - view.translation) @ view.rotation.T / view.scale
        half = 0.475 * torch.tensor([1.0, 0.25, 0.5])
        beyond = back.abs() / half
        assert beyond.amax(dim=1).sub(1).abs().max() < 0.02


def test_poses_are_rotations_and_sizes_are_in_metres(rabbit: ObjectSet) -> None:
    rotation = rabbit.records[0].read("rotation")
    torch.testing.assert_close(
        rotation @ rotation.mT, torch.eye(3).expand(3, 3, 3), atol=1e-5, rtol=0
    )
    assert (torch.linalg.det(rotation) > 0.99).all()
    scale, fov = rabbit.records[0].read("scale"), rabbit.records[0].read("fov")
    assert ((scale >= 0.3) & (scale <= 2)).all()
    assert ((fov >= 25) & (fov <= 75)).all()


def test_pictures_are_laid_over_their_background(rabbit: ObjectSet) -> None:
    behind = torch.arange(48 * 48 * 3).reshape(48, 48, 3).remainder(256).to(torch.uint8)
    view = rabbit.view(0, 0, background=behind)
    outside = rabbit.records[0].read_row("rgba", 0)[..., 3] == 0
    assert (view.image[outside] == behind[outside]).all()
    even = rabbit.view(0, 0, (0, 0, 0), light="even").image[view.depth.isfinite()].float() / 255
    red = even.mean(dim=0)
    assert red[0] > 3 * red[1] > 0


def test_surface_normals_point_outward_and_colors_are_the_look(rabbit: ObjectSet) -> None:
    surface = rabbit.surface(0)
    points, normals, colors = surface.split(3, dim=1)
    assert normals.norm(dim=1).sub(1).abs().max() < 0.01
    sides = points.abs() / (0.475 * torch.tensor([1.0, 0.25, 0.5]))
    axis = sides.argmax(dim=1, keepdim=True)
    outward = (normals * points.sign()).gather(1, axis)
    assert (outward > 0.99).float().mean() > 0.97
    torch.testing.assert_close(colors[:, 0].mean(), torch.tensor(0.66), atol=0.05, rtol=0)
    # Even over the area: two sides of 1 x 0.5, two of 1 x 0.25, two of 0.5 x 0.25.
    share = torch.bincount(axis[:, 0], minlength=3) / len(axis)
    torch.testing.assert_close(share, torch.tensor([1, 4, 2]) / 7, atol=0.04, rtol=0)


def test_voxels_are_those_that_the_surface_touches(rabbit: ObjectSet) -> None:
    points, fine = rabbit.surface(0)[:, :3], rabbit.occupancy(0, 64)
    for resolution in (16, 32, 64):
        grid = rabbit.occupancy(0, resolution)
        assert grid[((points + 0.5) * resolution).long().unbind(1)].float().mean() > 0.99
        assert grid.sum() <= fine.sum() <= grid.sum() * (64 // resolution) ** 3
    with pytest.raises(ValueError, match="expected a divisor"):
        rabbit.occupancy(0, 24)


def test_the_distance_is_negative_inside(rabbit: ObjectSet) -> None:
    sdf = rabbit.sdf(0)
    assert sdf[32, 32, 32] < 0 < sdf[32, 32, 60]
    assert sdf[32, 32, 32] == pytest.approx(-127 / 32 / 64, abs=1e-6)
    top = 0.475 * 0.5 * 64 + 32
    assert sdf[32, 32, int(top) + 2].item() * 64 == pytest.approx(int(top) + 2 - top, abs=0.15)


def test_a_second_call_makes_what_is_missing(made: Path) -> None:
    path = made / "out" / "train" / "lib-box.safetensors"
    lamp = path.with_name("lib-lamp1.safetensors")
    before = lamp.stat().st_mtime_ns
    content = load_file(path)
    path.unlink()
    # An object on the wrong side of the held-out list moves.
    rabbit = made / "out" / "test" / "scopia-rabbit.safetensors"
    rabbit.rename(made / "out" / "train" / rabbit.name)
    (made / "out" / "train" / ".lib-box.safetensors.1.part").touch()
    done = generate(made / "in", made / "out", CONFIG)
    assert (done.made, done.total) == (1, 3)
    assert rabbit.exists()
    again = load_file(path)
    assert all((again[name] == value).all() for name, value in content.items())
    assert lamp.stat().st_mtime_ns == before
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "lib-box.safetensors",
        "lib-lamp1.safetensors",
    ]


def test_other_settings_need_another_folder(made: Path) -> None:
    with pytest.raises(LociError, match="holds other data: views 3, expected 4"):
        generate(made / "in", made / "out", ObjectsConfig(views=4, size=48))
    with pytest.raises(LociError, match="workers 0, expected 1 to 1024"):
        generate(made / "in", made / "out", CONFIG, workers=0)


def test_more_objects_have_a_folder_of_their_own(made: Path, tmp_path: Path) -> None:
    config = ObjectsConfig(views=1, size=32, stretched=1, composed=2)
    generate(made / "in", tmp_path, config)
    more = ObjectSet.load(tmp_path / "more")
    names = [record.name for record in more.records]
    expected = ["composed-0001", "composed-0002", "lib-box--1", "lib-lamp1--1"]
    assert names == expected, "and nothing of what is held out"
    plain = ObjectSet.load(tmp_path / "train")
    sides = [np.ptp(one.surface(i)[:, :3].numpy(), axis=0) for one, i in ((plain, 0), (more, 2))]
    assert (np.abs(sides[0] - sides[1]) > 0.02).any()
    assert max(sides[1]) == pytest.approx(0.95, abs=0.01)
    both = training_folders(tmp_path)
    assert len(ObjectSet.load(*both)) == len(plain) + len(more) == 6
    assert training_folders(made / "out") == [made / "out" / "train"]
    with pytest.raises(LociError, match="composed 10000, expected 0 to 9999"):
        generate(made / "in", tmp_path, ObjectsConfig(composed=10_000))


def test_distances_may_be_left_out_and_tests_have_all(made: Path, tmp_path: Path) -> None:
    config = ObjectsConfig(views=1, size=32, turned=2, simple=1, test_views=3, distances=False)
    generate(made / "in", tmp_path, config)
    train, test, simple = (ObjectSet.load(tmp_path / p) for p in ("train", "test", "simple"))
    assert (train.views, test.views, simple.views) == (1, 3, 3)
    assert len(ObjectSet.load(*training_folders(tmp_path))) == 4
    with pytest.raises(LociError, match="no sdf, expected objects made with --distances"):
        train.sdf(0)
    whole = ObjectSet.load(made / "out" / "test")
    assert torch.equal(test.sdf(0), whole.sdf(0)), "the same object whatever else is made"
    assert torch.equal(train.occupancy(0), ObjectSet.load(made / "out" / "train").occupancy(0))


def test_simple_objects_need_no_meshes(tmp_path: Path) -> None:
    done = generate(None, tmp_path, ObjectsConfig(views=1, size=32, simple=1))
    assert (done.made, len(ObjectSet.load(tmp_path / "simple"))) == (1, 1)
    with pytest.raises(LociError, match="SOURCE: none, expected meshes, or --composed"):
        generate(None, tmp_path / "more", ObjectsConfig(stretched=1))


def test_what_is_no_object_is_named(tmp_path: Path, made: Path) -> None:
    with pytest.raises(LociError, match="make some: loci data objects"):
        ObjectSet.load(tmp_path)
    whole = (made / "out" / "train" / "lib-lamp1.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LociError, match="half.safetensors: damaged"):
        ObjectSet.load(tmp_path)


def test_views_show_the_whole_object_at_the_asked_size(renderer: ObjectRenderer) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 3)).clip(-1, 1) * [0.475, 0.2, 0.3]
    spans = []
    for _ in range(60):
        camera = random_camera(rng, points, 1.0, Views())
        seen = camera.place(points)
        screen = seen[:, :2] / seen[:, 2:] / np.tan(np.radians(camera.fov) / 2)
        assert np.abs(screen).max() < 1
        spans.append(np.ptp(screen, axis=0).max() / 2)
    assert 0.3 < min(spans) < 0.45
    assert 0.8 < max(spans) < 0.95


def test_lights_change_only_the_lit_picture(renderer: ObjectRenderer, tmp_path: Path) -> None:
    from loci.data.objects.cleaning import normalized
    from loci.data.objects.mesh_files import read_mesh_file

    renderer.load(normalized(read_mesh_file(write_box(tmp_path, "box"))))
    camera = RenderCamera(look_along(np.array([0.3, 1.0, -0.4])), np.array([0, 0, 2.5]), 1.0, 50.0)
    dark = renderer.draw(camera, 32, Lights(ambient=(0.5, 0.5, 0.5)))
    bright = renderer.draw(camera, 32, Lights())
    np.testing.assert_array_equal(dark.even, bright.even)
    np.testing.assert_array_equal(dark.depth, bright.depth)
    inside = np.isfinite(dark.depth) & (dark.lit[..., 3] == 255)
    ratio = dark.lit[inside, 0].astype(float) / bright.lit[inside, 0]
    assert ratio.mean() == pytest.approx(0.5, abs=0.02)


def test_no_context_to_draw_in_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    moderngl = pytest.importorskip("moderngl", reason="moderngl is not installed")

    def refuse(**settings: object) -> None:
        raise ValueError("no driver")

    monkeypatch.setattr(moderngl, "create_context", refuse)
    with pytest.raises(LociError, match=r"no OpenGL context.*expected EGL.*egl: no driver"):
        ObjectRenderer()


def test_the_header_can_be_read_by_any_reader(made: Path) -> None:
    with safe_open(made / "out" / "train" / "lib-lamp1.safetensors", "np") as file:
        assert file.metadata()["author"] == "Somebody"
        assert file.get_slice("surface").get_shape() == [16384, 9]
