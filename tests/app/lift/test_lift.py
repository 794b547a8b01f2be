"""`loci lift` from end to end, on a tiny model with random weights."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from loci import cli
from loci.app.lift import lift as lift_module
from loci.app.lift.lift_request import CheckedLift
from loci.objects import scene as scene_module
from loci.objects.inputs import sam
from loci.objects.lifter import Lifter
from loci.objects.pipeline import LiftPipeline
from tests.objects.inputs.test_masks import run_lengths
from tests.objects.lifters import example, example_pointmap, save_small_lifter

PIXELS, INSIDE = example()
Run = Callable[..., int]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_lifter(tmp_path_factory.mktemp("lift") / "model")


@pytest.fixture
def run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `loci lift` in a folder with a picture, a mask and a pointmap."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PIXELS).save("p.png")
    Image.fromarray(INSIDE).save("m.png")
    np.save("points.npy", example_pointmap())

    def run(*argv: str) -> int:
        device = [] if "--device" in argv else ["--device", "cpu"]
        return cli.main(["lift", *argv, "--model", str(model), *device])

    return run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad input must be noticed before the model runs."""

    def never(self: LiftPipeline) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(LiftPipeline, "run", never)


def names(folder: str) -> list[str]:
    root = Path(folder)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


ONE = [
    "mesh.glb",
    "pose.json",
    "preview.png",
    "scene.glb",
    "scene.ply",
    "splat.ply",
    "turntable.mp4",
]


def test_an_object_is_written_whole(run: Run, capsys: pytest.CaptureFixture) -> None:
    assert run("p.png", "--mask", "m.png", "--pointmap", "points.npy", "--out", "chair") == 0
    assert names("chair") == ONE
    printed = capsys.readouterr().out
    assert "chair: mesh.glb, pose.json, preview.png, scene.glb, scene.ply, splat.ply" in printed
    assert "structure_flow" in printed
    assert json.loads(Path("chair/pose.json").read_text())["units"] == "the units of the pointmap"
    assert Image.open("chair/preview.png").width > 600
    with av.open("chair/turntable.mp4") as video:
        assert sum(1 for _ in video.decode(video=0)) == 48
    # Again: what was written before is replaced, what was not is kept.
    assert run("p.png", "--mask", "m.png", "--out", "chair") == 0
    assert "distance" in json.loads(Path("chair/pose.json").read_text())["units"]
    Path("chair/notes.txt").touch()
    assert run("p.png", "--mask", "m.png", "--out", "chair") == 2
    assert names("chair") == sorted([*ONE, "notes.txt"])
    assert "chair: holds notes.txt already" in capsys.readouterr().err


def test_a_mesh_is_finished_as_asked_for(run: Run, capsys: pytest.CaptureFixture) -> None:
    assert run("p.png", "--mask", "m.png", "--faces", "60", "--texture", "64") == 0
    (mesh,) = trimesh.load_scene("lifted/mesh.glb").geometry.values()
    assert 0 < len(mesh.faces) <= 200, len(mesh.faces)
    assert ("faces, more than 60" in capsys.readouterr().out) == (len(mesh.faces) > 66)
    picture = mesh.visual.material.baseColorTexture
    assert picture.size == (64, 64)
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 4


def test_decoders_are_chosen_and_checked(run: Run, capsys: pytest.CaptureFixture) -> None:
    mesh_only = ["--decoders", "mesh_decoder"]
    assert run("p.png", "--mask", "m.png", *mesh_only) == 0
    assert names("lifted") == sorted(set(ONE) - {"splat.ply", "scene.ply"})
    wrong = {
        "gaussian_decoder and gaussian_decoder_4, expected one": ["gaussian_decoder_4"],
        "no mesh_decoder, expected it with --faces": ["--faces", "60"],
    }
    for told, rest in wrong.items():
        assert run("p.png", "--mask", "m.png", "--decoders", "gaussian_decoder", *rest) == 2
        assert f"--decoders: {told}" in capsys.readouterr().err
    assert run("p.png", "--mask", "m.png", "--decoders", "gaussian_decoder_4") == 2
    assert "expected gaussian_decoder or mesh_decoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("--guesses", "0", "1"), ("--faces", "4", "12"), ("--texture", "15", "16")],
)
def test_counts_are_checked_before_any_work(
    run: Run, quick: None, capsys: pytest.CaptureFixture, option: str, value: str, least: str
) -> None:
    assert run("p.png", "--mask", "m.png", option, value) == 2
    assert f"{option}: {value}, expected at least {least}" in capsys.readouterr().err
    assert not Path("lifted").exists()


def test_a_speed_ends_with_its_ledger(run: Run, capsys: pytest.CaptureFixture) -> None:
    argv = ["p.png", "--mask", "m.png", "--speed", "faster", "--tolerance", "0.5", "--verify"]
    assert run(*argv) == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(n for n, line in enumerate(lines) if line.startswith("stage "))
    assert "evaluations  saved" in lines[head]
    stages = {line.split()[0]: line.split() for line in lines[head + 1 :]}
    assert {row[-1] for name, row in stages.items() if name in ("structure", "slat")} == {"-"}
    line = next(line for line in lines if line.startswith("m.png against an exact run: "))
    numbers = [float(number) for number in re.findall(r"[-+]?\d+\.?\d*(?=%| degrees)", line)]
    share, moved, turned, _ = numbers
    assert 0 < share <= 100
    assert moved >= 0
    assert turned >= 0
    assert run("p.png", "--mask", "m.png", "--verify") == 0
    same = "100% of the voxels the same (IoU), moved by 0.0% of the object's size, turned by 0.0 "
    assert same + "degrees, size +0.0%" in capsys.readouterr().out


def test_the_networks_compute_in_what_is_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noted(self: LiftPipeline) -> None:
        seen.append(self.loader.dtype)
        raise KeyboardInterrupt

    monkeypatch.setattr(LiftPipeline, "run", noted)
    assert run("p.png", "--mask", "m.png", "--dtype", "bfloat16") == 130
    assert run("p.png", "--mask", "m.png") == 130
    assert seen == [torch.bfloat16, torch.float32]


def test_several_masks_make_a_scene(run: Run, capsys: pytest.CaptureFixture) -> None:
    half = INSIDE.copy()
    half[:, 30:] = True
    Image.fromarray(half).save("half.png")
    assert run("p.png", "--mask", "m.png", "--mask", "half.png", "--out", "scene") == 0
    objects = [f"object-{n}/{name}" for n in (1, 2) for name in ONE if "scene" not in name]
    assert names("scene") == sorted([*objects, "preview.png", "scene.glb", "scene.ply"])
    printed = capsys.readouterr().out.splitlines()
    assert "half.png: touches the picture's edge; what is cut off there is guessed" in printed
    assert "m.png and half.png: overlap in 100% of the smaller" in printed[1]
    assert "how far away the objects are is unknown" in printed[2]


def test_objects_are_laid_out_on_the_ground_when_asked_to(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    left = INSIDE.copy()
    left[:, 36:] = False
    Image.fromarray(left).save("left.png")
    asked: list[int] = []

    def twice(poses: list, points: list) -> torch.Tensor:
        asked.extend(map(len, points))
        return torch.tensor([1.0, 2.0])

    argv = ("p.png", "--mask", "m.png", "--mask", "left.png", "--decoders", "gaussian_decoder")
    assert run(*argv, "--out", "alone") == 0
    assert "on one plane with --ground" in capsys.readouterr().out
    monkeypatch.setattr(scene_module, "ground_factors", twice)
    assert run(*argv, "--ground", "--out", "ground") == 0
    assert "as if all stood on one plane" in capsys.readouterr().out
    poses = {
        (folder, number): json.loads(Path(f"{folder}/object-{number}/pose.json").read_text())
        for folder in ("alone", "ground")
        for number in (1, 2)
    }
    for number, factor in ((1, 1), (2, 2)):
        before, after = poses["alone", number], poses["ground", number]
        for name in ("translation", "scale"):
            expected = [factor * value for value in before[name]]
            assert after[name] == pytest.approx(expected, rel=1e-5)
        assert after["units"].startswith("the distance of the first object")
    monkeypatch.setattr(scene_module, "ground_factors", lambda *_: torch.tensor([torch.nan, 1.0]))
    assert run(*argv, "--ground", "--out", "ground") == 0
    assert "object-1: stands on no ground that the camera looks down on" in capsys.readouterr().out
    assert run("p.png", "--mask", "m.png", "--ground", "--decoders", "gaussian_decoder") == 0
    assert "--ground: one object or a pointmap, nothing to lay out" in capsys.readouterr().out


def test_a_box_is_cut_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    Image.fromarray(np.where(INSIDE[:, :, None], (200, 40, 30), (40, 120, 60)).astype("u1")).save(
        "disc.png"
    )
    assert run("disc.png", "--box", "20", "4", "52", "36", "--out", "disc") == 0
    assert names("disc") == sorted([*ONE, "mask.png"])
    cut = np.asarray(Image.open("disc/mask.png"))
    assert (cut == INSIDE).mean() > 0.97


def test_boxes_and_points_are_cut_out_by_sam_where_it_is_given(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, tuple[int, ...]]] = []

    def cut(network: object, pixels: np.ndarray, prompt: tuple[int, ...]) -> np.ndarray:
        asked.append((network, prompt))
        return INSIDE

    seen = []
    monkeypatch.setattr(LiftPipeline, "run", lambda self: seen.extend(self.requests) or [])
    monkeypatch.setattr(sam, "load_sam", lambda folder: f"network of {folder}")
    monkeypatch.setattr(sam, "mask_from_box", cut)
    monkeypatch.setattr(sam, "mask_from_point", cut)
    run("p.png", "--box", "20", "4", "52", "36", "--point", "36", "20", "--sam", "vit")
    assert asked == [("network of vit", (20, 4, 52, 36)), ("network of vit", (36, 20))]
    assert all(np.array_equal(r.observation.mask.numpy(), INSIDE) for r in seen)
    assert len(seen) == 2


def other_pictures() -> dict[str, Image.Image]:
    gray = Image.fromarray(PIXELS[:, :, 0])
    return {
        "grey.png": gray,
        "deep.png": Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257),
        "cmyk.jpg": Image.fromarray(PIXELS).convert("CMYK"),
        "turned.png": Image.fromarray(np.ascontiguousarray(np.rot90(PIXELS))),
    }


@pytest.mark.parametrize("name", other_pictures())
def test_pictures_of_every_kind_are_taken(
    run: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6 if name == "turned.png" else 1
    other_pictures()[name].save(name, exif=exif)
    seen = []
    monkeypatch.setattr(LiftPipeline, "run", lambda self: seen.append(self.requests) or [])
    assert run(name, "--mask", "m.png") == 2  # nothing comes out of a model that does not run
    ((subject,),) = seen
    assert subject.tensors["rgb_image_mask"].sum() > 0
    assert not Path("lifted").exists()


def test_a_camera_and_a_depth_picture_are_taken(run: Run) -> None:
    depth = np.full(INSIDE.shape, 2500, np.uint16)
    depth[0] = 0
    Image.fromarray(depth).save("depth.png")
    np.savez("depth.npz", depth=depth / 1000, other=depth)
    np.savetxt("k.txt", [[50, 0, 20], [0, 50, 20], [0, 0, 1]])
    for pointmap in ("depth.png", "depth.npz"):
        camera = ["--intrinsics", "50", "50", "20", "20"], ["--intrinsics", "k.txt"]
        for given in camera:
            argv = ["p.png", "--mask", "m.png", "--pointmap", pointmap, *given]
            assert run(*argv, "--decoders", "gaussian_decoder") == 0
            record = json.loads(Path("lifted/pose.json").read_text())
            assert record["principal_point"] == pytest.approx([20 / 60, 20 / 40])
            assert record["horizontal_fov_degrees"] == pytest.approx(61.93, abs=0.01)
            assert record["translation"][2] == pytest.approx(2.5, abs=2)


def test_masks_of_other_kinds_are_taken(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    seen: list[np.ndarray] = []

    def noted(self: LiftPipeline) -> list:
        seen.extend(r.observation.mask.numpy() for r in self.requests if r.observation)
        return []

    monkeypatch.setattr(LiftPipeline, "run", noted)
    labels = np.where(INSIDE, 7, 0).astype(np.uint8)
    labels[2:6, 2:9] = 9
    Image.fromarray(labels).save("labels.png")
    clear = Image.fromarray(PIXELS)
    clear.putalpha(Image.fromarray(INSIDE))
    clear.save("clear.png")
    stray = INSIDE.copy()
    stray[0, 0] = True
    Image.fromarray(stray).save("stray.png")
    runs = run_lengths(INSIDE)
    Path("m.json").write_text(json.dumps({"size": [*INSIDE.shape], "counts": runs}))
    run("p.png", "--mask", "labels.png", "--label", "7", "--label", "9")
    run("clear.png")
    run("p.png", "--mask", "m.json")
    run("p.png", "--mask", "stray.png")
    assert "stray.png: dropped 1 island (1 pixel)\n" in capsys.readouterr().out
    first, second, *others = seen
    assert np.array_equal(first, INSIDE)
    assert second.sum() == 28
    assert len(others) == 3
    assert all(np.array_equal(mask, INSIDE) for mask in others)


def bad_inputs(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Arguments and what is said about them."""
    height, width = INSIDE.shape

    def saved(name: str, image: Image.Image, **options: object) -> str:
        image.save(folder / name, **options)  # type: ignore[arg-type]
        return name

    def array(name: str, values: np.ndarray) -> str:
        np.save(folder / name, values)
        return name

    empty = saved("empty.png", Image.new("L", (width, height)))
    larger = saved("larger.png", Image.new("L", (width + 1, height), 255))
    dot = Image.new("L", (width, height))
    dot.putpixel((9, 9), 255)
    frames = [Image.fromarray(np.roll(PIXELS, i, 1)) for i in range(3)]
    moving = saved("moving.gif", frames[0], save_all=True, append_images=frames[1:])
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    (folder / "cut.png").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "stranger").mkdir()
    (folder / "stranger" / "notes.txt").touch()
    saved("stranger/p.png", Image.fromarray(PIXELS))
    hidden = example_pointmap()
    hidden[INSIDE] = np.nan
    narrow = saved("narrow.png", Image.new("RGB", (40, 2)))
    (folder / "m.exr").touch()
    m, points = ["--mask", "m.png"], "--pointmap"
    return {
        "no mask": (["p.png"], "--mask: no object is selected, expected"),
        "empty mask": (["p.png", "--mask", empty], "empty.png: empty, expected an object"),
        "another size": (["p.png", "--mask", larger], "larger.png: 61 x 40, expected 60 x 40"),
        "a dot": (["p.png", "--mask", saved("dot.png", dot)], "dot.png: an object too small"),
        "no such mask": (["p.png", "--mask", "nowhere.png"], "nowhere.png: cannot be read"),
        "damaged mask": (["p.png", "--mask", "cut.png"], "cut.png: truncated or damaged"),
        "animated": ([moving, *m], "moving.gif: animated (3 frames), expected a single"),
        "truncated": (["cut.png", *m], "cut.png: truncated or damaged"),
        "mask without picture": (m, "PICTURE is required with --mask"),
        "no picture": (["text.png", *m], "text.png: no picture, expected"),
        "narrow": ([narrow, *m], "picture: 40 x 2 pixels, expected at most 16 to 1"),
        "all NaN": (
            ["p.png", *m, points, array("nan.npy", np.full((40, 60, 3), np.nan))],
            "pointmap: no point in front of the camera",
        ),
        "NaN on the object": (
            ["p.png", *m, points, array("hidden.npy", hidden)],
            "pointmap: every point inside m.png is unknown",
        ),
        "wrong shape": (
            ["p.png", *m, points, array("flat.npy", np.ones((40, 60, 4)))],
            "pointmap: shape [40, 60, 4], expected [height, width, 3]",
        ),
        "another frame": (
            ["p.png", *m, points, array("cv.npy", example_pointmap() * [-1, -1, 1])],
            "pointmap: x grows to the right, expected x left",
        ),
        "depth alone": (
            ["p.png", *m, points, array("depth.npy", np.ones((40, 60)))],
            "pointmap: depths [height, width], expected the field of view",
        ),
        "frame alone": (["p.png", *m, "--pointmap-frame", "opencv"], "given without --pointmap"),
        "wide": (["p.png", *m, "--fov", "180"], "--fov must be between 0 and 180 degrees, got 180"),
        "box outside": (["p.png", "--box", "0", "0", "99", "9"], "box 0 0 99 9: expected x0 < x1"),
        "point outside": (["p.png", "--point", "60", "0"], "point 60 0: expected inside"),
        "SAM without a folder": (
            ["p.png", "--box", "9", "9", "19", "19", "--segmentation", "sam"],
            "--segmentation: sam, expected --sam FOLDER too",
        ),
        "no SAM": (
            ["p.png", "--box", "9", "9", "19", "19", "--sam", "m.png"],
            "m.png: a file, expected the folder of a SAM",
        ),
        "box outside, with SAM": (
            ["p.png", "--box", "0", "0", "99", "9", "--sam", "m.png"],
            "box 0 0 99 9: expected x0 < x1",
        ),
        "someone's folder": (["p.png", *m, "--out", "stranger"], "stranger: holds"),
        "input in output": (["stranger/p.png", *m, "--out", "stranger"], "would be replaced"),
        "a file": (["p.png", *m, "--out", "m.png"], "m.png: is a file, expected"),
        "one file": (["p.png", *m, "--out", "chair.glb"], "chair.glb, expected the name of a fol"),
        "no tolerance": (["p.png", *m, "--tolerance", "-1"], "tolerance: -1, expected a number"),
        "large tolerance": (["p.png", *m, "--tolerance", "2"], "tolerance: 2, expected a number"),
        "large texture": (
            ["p.png", *m, "--texture", "100000"],
            "--texture: 100000, expected at most 8192",
        ),
        "a photograph as mask": (["p.png", "--mask", "p.png"], "p.png: the picture itself"),
        "another photograph": (
            ["p.png", "--mask", saved("q.png", Image.fromarray(PIXELS // 2 + 60))],
            "q.png: a photograph by its greys",
        ),
        "inverted": (
            ["p.png", "--mask", saved("inverted.png", Image.fromarray(~INSIDE))],
            "inverted.png: covers the picture's edge all around",
        ),
        "full": (
            ["p.png", "--mask", saved("full.png", Image.new("L", (width, height), 255))],
            "full.png: covers the whole picture",
        ),
        "a line": (
            ["p.png", "--mask", saved("line.png", Image.fromarray(np.eye(height, width) > 0))],
            "line.png: a line one pixel wide",
        ),
        "label without a mask": (["p.png", "--label", "3"], "--label: 0 masks, expected one"),
        "no such label": (["p.png", *m, "--label", "3"], "m.png: no label 3, expected one of"),
        "camera matrix": (
            ["p.png", *m, "--fov", "45", points, array("eye.npy", np.eye(3))],
            "pointmap: a 3x3 camera matrix, expected points or depths",
        ),
        "fov and intrinsics": (
            ["p.png", *m, "--fov", "45", "--intrinsics", "9", "9", "9", "9"],
            "--fov: given with --intrinsics, expected one of them",
        ),
        "three intrinsics": (
            ["p.png", *m, "--intrinsics", "9", "9", "9"],
            "--intrinsics: shape [3]",
        ),
        "no intrinsics": (["p.png", *m, "--intrinsics", "a", "b"], "--intrinsics: no numbers"),
        "depths of 8 bits": (
            ["p.png", *m, "--fov", "45", points, "m.png"],
            "m.png: pixels of 8 bits or colours, expected depths of 16 bits",
        ),
        "EXR": (
            ["p.png", *m, "--fov", "45", points, "m.exr"],
            "expected points or depths in .npy, .npz or a PNG",
        ),
        "splats without splats": (
            ["p.png", *m, "--web", "y-up", "--decoders", "mesh_decoder"],
            "--decoders: mesh_decoder alone makes no splats",
        ),
        "no depth scale": (["p.png", *m, "--depth-scale", "0"], "--depth-scale: 0, expected more"),
        "workers alone": (["p.png", *m, "--workers", "2"], "--workers: given without --batch"),
        "no workers": (["--batch", ".", "--workers", "0"], "--workers: 0, expected 1 to 256"),
        "no batch": (["--batch", "no"], "--batch: no: no such folder, expected one, or a list"),
        "no seed": (["p.png", *m, "--seed", str(2**64)], f"--seed: {2**64}, expected a whole"),
        "no device": (["p.png", *m, "--device", "abacus"], "--device: abacus, expected auto"),
    }


@pytest.mark.usefixtures("quick")
def test_bad_input_is_named_in_one_line_and_leaves_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cases = bad_inputs(tmp_path)
    before = names(".")
    for case, (argv, message) in cases.items():
        assert run(*argv) == 2, case
        printed = capsys.readouterr().err
        assert printed.startswith("loci: "), case
        assert message in printed, (case, printed)
        assert printed.count("\n") == 1, case
        assert names(".") == before, case


def test_a_model_that_is_incomplete_is_named(
    run: Run, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["lift", "p.png", "--mask", "m.png", "--model"]
    assert cli.main([*arguments, str(tmp_path / "none")]) == 2
    assert "none: no such model folder" in capsys.readouterr().err
    weights = model / "slat_flow" / "model.safetensors"
    weights.rename(model / "away")
    try:
        assert cli.main([*arguments, str(model)]) == 2
    finally:
        (model / "away").rename(weights)
    assert "missing slat_flow, expected for each a folder" in capsys.readouterr().err
    assert not Path("lifted").exists()


def test_nothing_found_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from loci.objects import pipeline as lifting

    monkeypatch.setattr(lifting, "occupied", lambda logits: logits.new_zeros(0, 4).int())
    assert run("p.png", "--mask", "m.png", "--out", "new/chair") == 2
    assert "m.png: no voxel above threshold, expected a mask" in capsys.readouterr().err
    assert not Path("new").exists()


def test_ctrl_c_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(self: LiftPipeline) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LiftPipeline, "run", pressed)
    assert run("p.png", "--mask", "m.png") == 130
    assert sorted(p.name for p in Path().iterdir()) == ["m.png", "p.png", "points.npy"]


def test_objects_are_there_before_their_pictures(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("loci.app.lift.lift_views.object_preview", stop)
    assert run("p.png", "--mask", "m.png", "--out", "out") == 130
    written = names("out")
    assert {"splat.ply", "mesh.glb", "pose.json"} <= set(written)
    assert not [name for name in written if name.endswith((".png", ".mp4", ".part"))]
    assert "splat.ply" in capsys.readouterr().out


def test_one_object_stands_before_the_camera_of_its_scene(run: Run) -> None:
    assert run("p.png", "--mask", "m.png", "--out", "chair", "--fov", "60") == 0
    content = Path("chair/scene.glb").read_bytes()
    length = int.from_bytes(content[12:16], "little")
    tree = json.loads(content[20 : 20 + length])
    (camera,) = tree["cameras"]
    assert camera["perspective"]["aspectRatio"] == pytest.approx(60 / 40)
    tangent = np.tan(camera["perspective"]["yfov"] / 2) * 1.5
    assert np.degrees(2 * np.arctan(tangent)) == pytest.approx(60)
    node = next(n for n in tree["scenes"][0]["nodes"] if tree["nodes"][n].get("camera") == 0)
    assert "matrix" not in tree["nodes"][node]
    pose = json.loads(Path("chair/pose.json").read_text())
    (one,) = trimesh.load_scene("chair/mesh.glb").geometry.values()
    (placed,) = trimesh.load_scene("chair/scene.glb").geometry.values()
    moved = trimesh.transform_points(one.vertices, np.array(pose["glb_to_opengl"]))
    np.testing.assert_allclose(moved, placed.vertices, atol=1e-5)


def test_meshes_are_closed_unless_they_are_to_be_open(run: Run) -> None:
    assert run("p.png", "--mask", "m.png", "--out", "closed") == 0
    assert run("p.png", "--mask", "m.png", "--out", "open", "--open") == 0
    (closed,) = trimesh.load_scene("closed/mesh.glb").geometry.values()
    (raw,) = trimesh.load_scene("open/mesh.glb").geometry.values()
    assert closed.is_watertight
    assert closed.is_winding_consistent
    assert not raw.is_watertight


def test_a_batch_goes_on_after_a_failure_and_takes_up_where_it_was(
    run: Run, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in").mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(PIXELS).save(f"in/{name}.png")
        Image.fromarray(INSIDE & (name != "b")).save(f"in/{name}_mask.png")
    Image.fromarray(PIXELS).save("in/alone.png")
    loaded = []
    load = lift_module.load_lifter
    monkeypatch.setattr(lift_module, "load_lifter", lambda r, keep: loaded.append(r) or load(r))
    assert run("--batch", "in", "--out", "all") == 2
    assert "1 of 3 failed: b\n" in capsys.readouterr().err
    assert names("all") == [f"{name}/{file}" for name in ("a", "c") for file in ONE]
    assert len(loaded) == 1
    Image.fromarray(INSIDE).save("in/b_mask.png")
    Path("all/c/turntable.mp4").unlink()  # as if stopped before it was drawn
    before = Path("all/a/mesh.glb").stat().st_mtime_ns
    assert run("--batch", "in", "--out", "all") == 0
    assert "all: 1 of 3 exist, left as they are" in capsys.readouterr().out
    assert names("all") == [f"{name}/{file}" for name in ("a", "b", "c") for file in ONE]
    assert Path("all/a/mesh.glb").stat().st_mtime_ns == before


def test_an_unexpected_error_does_not_end_a_batch(
    run: Run, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("list.csv").write_text("p.png,m.png\n./q.png, m.png\n")
    Image.fromarray(PIXELS).save("q.png")
    lift_one = lift_module.lift_one

    def fail_on_p(request: CheckedLift, lifter: Lifter) -> None:
        if request.options.picture == Path("p.png"):
            raise RuntimeError("out of\nmemory")
        lift_one(request, lifter)

    monkeypatch.setattr(lift_module, "lift_one", fail_on_p)
    assert run("--batch", "list.csv", "--out", "all") == 2
    assert "p.png: failed: RuntimeError: out of memory\n" in capsys.readouterr().out
    assert names("all") == [f"q/{file}" for file in ONE]


def test_workers_lift_what_one_process_lifts(run: Run, capsys: pytest.CaptureFixture) -> None:
    lines = [
        {"picture": "p.png", "mask": "m.png", "out": "first"},
        {"picture": "p.png", "mask": "no.png", "out": "second"},
        {"picture": "p.png", "mask": ["m.png", "m.png"]},
    ]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run("--batch", "list.jsonl", "--out", "all", "--workers", "2") == 2
    printed = capsys.readouterr()
    assert "p.png: failed: no.png: cannot be read" in printed.out
    assert printed.err.endswith("1 of 3 failed: second\n")
    assert {"first/mesh.glb", "p/object-2/turntable.mp4"} <= {*names("all")}
    assert run("p.png", "--mask", "m.png", "--out", "alone") == 0
    for file in ("mesh.glb", "pose.json"):
        assert Path("alone", file).read_bytes() == Path("all/first", file).read_bytes()
