"""`loci walk` from end to end, on a tiny world with random weights."""

import errno
import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from loci import cli
from loci.actions import parse_keys
from loci.app.walk.walk import generate_until_interrupted
from loci.app.walk.walk_writer import TILES
from loci.errors import LociError
from loci.io.frames import fit
from loci.io.images import read_pixels
from loci.io.video import VideoWriter, video_info
from loci.world import walk_file
from loci.world.world import World
from tests.world.models import small_world

KEYS = "w*3 wj*4 a*3 s l*3"  # 14 frames: three chunks of four, and two more


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world, saved, and a picture to walk into."""
    folder = tmp_path_factory.mktemp("walk")
    small_world().save_pretrained(folder / "model")
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((96, 72), Image.Resampling.BICUBIC).save(folder / "room.png")
    return folder


@pytest.fixture
def command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs `loci walk` in an empty folder with what is given."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> int:
        return cli.main(["walk", *argv, "--model", str(folder / "model")])

    return run


def in_step(monkeypatch: pytest.MonkeyPatch, number: int, happens: Any) -> None:
    """Something happens in the middle of step `number` of a walk."""
    step, calls = World.step, []

    def counted(self: World, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            happens()
        return step(self, *args)

    monkeypatch.setattr(World, "step", counted)


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def straight(folder: Path, keys: str) -> np.ndarray:
    """The picture and the frames that stepping by hand gives."""
    world, actions = small_world(), parse_keys(keys)
    state = world.start(folder / "room.png")
    frames = [fit(read_pixels(folder / "room.png"), (32, 32))[None]]
    for first in range(0, len(actions), world.chunk_frames):
        new, state = world.step(state, actions[first : first + world.chunk_frames])
        frames.append(new)
    return np.concatenate(frames)


def frames_of(path: str | Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def shows(video: np.ndarray, frames: np.ndarray) -> bool:
    """Whether an enlarged, compressed video is these frames, none of them in another's place."""
    if len(video) != len(frames):
        return False
    small = video[:, 6::12, 6::12].astype(int)
    return bool((np.abs(small - frames).mean((1, 2, 3)) < 14).all())


def here() -> set[str]:
    return {path.name for path in Path().iterdir()}


def test_a_walk_writes_its_video_and_its_sheet(command, folder: Path, capsys) -> None:
    assert command(str(folder / "room.png"), "--keys", KEYS) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("14 frames in ")
    assert "thread" in printed.out.splitlines()[0]
    assert "walk.mp4, walk.png" in printed.out
    assert here() == {"walk.mp4", "walk.png"}
    video = frames_of("walk.mp4")
    assert video.shape == (15, 384, 384, 3)
    assert shows(video, straight(folder, KEYS))
    assert not shows(video, straight(folder, KEYS)[::-1])
    # 15 tiles of 128 pixels in rows of eight, the picture first.
    sheet = Image.open("walk.png")
    assert sheet.size == (4 + 8 * 132, 4 + 2 * 146)
    first = np.asarray(sheet)[4 + 14 : 4 + 14 + 128, 4 : 4 + 128]
    picture = fit(read_pixels(folder / "room.png"), (32, 32))
    assert np.abs(first[2::4, 2::4].astype(int) - picture).mean() < 12


def test_the_shipped_model_walks_into_the_shipped_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["walk", "--frames", "9"]) == 0
    assert frames_of("walk.mp4").shape == (10, 384, 384, 3)


def test_an_action_file_leads_the_same_way(command, folder: Path) -> None:
    entry = {"move": "go forward and go left", "view": "turn right"}
    Path("a.json").write_text(json.dumps([entry] * 5), encoding="utf-8-sig")
    picture = str(folder / "room.png")
    assert command(picture, "--actions", "a.json", "--out", "a.mp4") == 0
    assert command(picture, "--keys", "wal-5", "--out", "b.mp4") == 0
    assert np.array_equal(frames_of("a.mp4"), frames_of("b.mp4"))


def test_the_transformer_may_compute_in_less(command, folder: Path) -> None:
    picture = str(folder / "room.png")
    assert command(picture, "--keys", "w*4", "--out", "whole.mp4") == 0
    for dtype in ("bfloat16", "float16"):
        assert command(picture, "--keys", "w*4", "--out", "half.mp4", "--dtype", dtype) == 0
        half, whole = (frames_of(name).astype(int) for name in ("half.mp4", "whole.mp4"))
        assert 0 < np.abs(half - whole).mean() < 8


def test_a_preset_ends_with_its_stats(command, folder: Path, capsys) -> None:
    assert command(str(folder / "room.png"), "--keys", "w*4", "--speed", "faster", "--verify") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("stage ")
    (sampling,) = (line.split() for line in lines if line.startswith("sampling"))
    assert int(sampling[1]) + int(sampling[2]) == 2


def test_a_resumed_walk_is_the_walk_gone_straight(command, folder: Path) -> None:
    picture = str(folder / "room.png")
    straight_walk = ("--save", "straight.loci", "--out", "straight.mp4")
    assert command(picture, "--keys", "w*8 wj*8", *straight_walk) == 0
    assert command(picture, "--keys", "w*8", "--save", "half.loci") == 0
    half, first = Path("half.loci").read_bytes(), frames_of("walk.mp4")
    assert command("--resume", "half.loci", "--keys", "wj*8", "--save", "whole.loci") == 0
    assert Path("half.loci").read_bytes() == half
    resumed, expected = load_file("whole.loci"), load_file("straight.loci")
    assert resumed.keys() == expected.keys()
    for name in expected:
        assert np.array_equal(resumed[name], expected[name]), name
    # The video has grown: nothing that it had was compressed again.
    video = frames_of("walk.mp4")
    assert shows(video, straight(folder, "w*8 wj*8"))
    assert np.array_equal(video[: len(first)], first)
    grown, whole = (np.asarray(Image.open(name)) for name in ("walk.png", "straight.png"))
    assert grown.shape == whole.shape
    assert np.abs(grown.astype(int) - whole).mean() < 6


def test_a_walk_that_went_on_is_not_overwritten(command, folder: Path, capsys) -> None:
    assert command(str(folder / "room.png"), "--keys", "w*8", "--save", "a.loci") == 0
    assert command("--resume", "a.loci", "--keys", "j*8") == 0
    whole = Path("walk.mp4").read_bytes()
    assert command("--resume", "a.loci", "--keys", "d*8", "--save", "b.loci") == 0
    assert Path("walk.mp4").read_bytes() == whole
    assert shows(frames_of("walk-2.mp4"), straight(folder, "w*8 d*8"))
    for name in ("walk.mp4", "walk-2.mp4"):
        assert command("--resume", "a.loci", "--keys", "d*8", "--out", name) == 2
        said = capsys.readouterr().err
        assert f"--out: {name} " in said
        assert "omit --out or choose a new name" in said
    # The other way has a video of its own now, which goes on in its turn.
    assert command("--resume", "b.loci", "--keys", "s*4") == 0
    assert shows(frames_of("walk-2.mp4"), straight(folder, "w*8 d*8 s*4"))
    assert here() == {"a.loci", "b.loci", "walk.mp4", "walk.png", "walk-2.mp4", "walk-2.png"}


def test_a_walk_may_go_on_in_a_video_elsewhere(command, folder: Path) -> None:
    Path("saved").mkdir()
    picture = str(folder / "room.png")
    assert command(picture, "--keys", "w*4", "--save", "saved/a.loci") == 0
    assert command("--resume", "saved/a.loci", "--keys", "j*4", "--out", "new.mp4") == 0
    assert shows(frames_of("new.mp4"), straight(folder, "w*4 j*4"))
    assert video_info("walk.mp4").frames == 5  # pyright: ignore[reportOptionalMemberAccess]
    Path("walk.mp4").rename("moved.mp4")
    assert command("--resume", "saved/a.loci", "--keys", "j*4", "--out", "moved.mp4") == 0
    assert shows(frames_of("moved.mp4"), straight(folder, "w*4 j*4"))


def test_a_video_that_is_gone_is_told(command, folder: Path, capsys) -> None:
    assert command(str(folder / "room.png"), "--keys", "w*8", "--save", "a.loci") == 0
    Path("walk.mp4").unlink()
    assert command("--resume", "a.loci", "--keys", "j*4", "--out", "b.mp4") == 0
    assert "b.mp4 begins with frame 9: the video of the earlier" in capsys.readouterr().err
    assert shows(frames_of("b.mp4"), straight(folder, "w*8 j*4")[9:])
    assert command(str(folder / "room.png"), "--keys", "d*12") == 0  # another walk's walk.mp4
    other = Path("walk.mp4").read_bytes()
    assert command("--resume", "a.loci", "--keys", "j*4") == 0
    assert Path("walk.mp4").read_bytes() == other
    assert shows(frames_of("walk-2.mp4"), straight(folder, "w*8 j*4")[9:])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_keeps_the_walk_and_says_how_to_go_on(
    number: int, command, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    with monkeypatch.context() as interrupted:
        in_step(interrupted, 3, lambda: send(number))
        assert command(str(folder / "room.png"), "--keys", KEYS) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("loci: stopped after 8 of 14 frames; continue with: loci walk ")
    assert here() == {"walk.mp4", "walk.png", "walk.stopped.loci"}
    assert shows(frames_of("walk.mp4"), straight(folder, KEYS)[:9])

    assert cli.main(shlex.split(said.partition("continue with: loci ")[2])) == 0
    assert here() == {"walk.mp4", "walk.png", "walk.stopped.loci"}
    assert shows(frames_of("walk.mp4"), straight(folder, KEYS))


def test_a_second_ctrl_c_costs_nothing(
    command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loci.app.walk import walk_writer

    save = walk_file.save_walk

    def interrupted_again(*args: Any) -> None:
        send()
        save(*args)

    monkeypatch.setattr(walk_writer, "save_walk", interrupted_again)
    in_step(monkeypatch, 3, send)
    assert command(str(folder / "room.png"), "--keys", KEYS) == 2
    assert here() == {"walk.mp4", "walk.png", "walk.stopped.loci"}


def test_a_stopped_walk_is_not_replaced_by_the_next(
    command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("walk.stopped.loci").write_text("kept")
    in_step(monkeypatch, 3, send)
    assert command(str(folder / "room.png"), "--keys", KEYS) == 2
    assert Path("walk.stopped.loci").read_text() == "kept"
    assert Path("walk.stopped-2.loci").is_file()


def test_ctrl_c_before_the_first_frame_leaves_nothing(
    command, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    in_step(monkeypatch, 1, send)
    assert command(str(folder / "room.png"), "--keys", KEYS, "--save", "a.loci") == 2
    assert "stopped before the first frame" in capsys.readouterr().err
    assert here() == set()


def test_a_crash_costs_only_what_came_after_the_last_save(
    command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash() -> None:
        raise RuntimeError("out of memory")

    argv = [str(folder / "room.png"), "--keys", KEYS, "--save", "a.loci", "--autosave", "2"]
    with monkeypatch.context() as crashing:
        in_step(crashing, 4, crash)
        with pytest.raises(RuntimeError):
            command(*argv)
    assert here() == {"a.loci"}
    state = walk_file.load_walk("a.loci", World.from_pretrained(folder / "model"))
    assert state.frame_count == 9


def full_disk(*args: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_in_the_video_does_not_lose_the_walk(
    command, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    with monkeypatch.context() as full:
        write, calls = VideoWriter.write, []

        def fills_up(self: VideoWriter, frames: np.ndarray) -> None:
            calls.append(len(frames))
            if len(calls) == 4:  # the picture, two chunks, and the third does not fit
                full_disk()
            write(self, frames)

        full.setattr(VideoWriter, "write", fills_up)
        assert command(str(folder / "room.png"), "--keys", KEYS, "--save", "a.loci") == 2
    printed = capsys.readouterr()
    said = printed.err.splitlines()[-1]
    assert said.startswith("loci: walk.mp4: cannot be written (No space left on device); continue")
    assert here() == {"a.loci", "walk.png"}
    assert "walk.png, a.loci" in printed.out
    assert cli.main(shlex.split(said.partition("continue with: loci ")[2])) == 0
    assert shows(frames_of("walk.mp4"), straight(folder, KEYS)[9:])


@pytest.mark.parametrize("autosave", ["2", "32"])
def test_a_full_disk_for_the_saved_walk_does_not_lose_the_video(
    autosave: str, command, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def fails(self: object, path: Path, state: object) -> None:
        raise LociError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr("loci.app.walk.walk_writer.WalkWriter.save_walk", fails)
    argv = [str(folder / "room.png"), "--keys", KEYS, "--save", "a.loci", "--autosave", autosave]
    assert command(*argv) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "loci: a.loci: cannot be written (No space left on device)"
    assert here() == {"walk.mp4", "walk.png"}
    frames = 9 if autosave == "2" else 15
    assert shows(frames_of("walk.mp4"), straight(folder, KEYS)[:frames])


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistakes must be noticed before a model is loaded."""

    def never(*args: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(World, "from_pretrained", never)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere.png"], "nowhere.png: cannot be read"),
        (["text.png"], "text.png: no picture, expected"),
        (["wide.png"], "wide.png: 99 x 2 pixels, expected at most 32 to 1"),
        (["--resume", "nowhere.loci"], "nowhere.loci: no such walk"),
        (["--resume", "text.png"], "text.png: damaged or no walk, expected"),
        (["--resume", "weights.loci"], "weights.loci: damaged or no walk, expected"),
        (["room", "--prompt", "a castle"], "trained without text"),
        (["--resume", "a.loci", "--prompt", "a castle"], "--prompt and --resume"),
        (["--resume", "a.loci", "--seed", "0"], "--seed and --resume: both given"),
        (["room", "--seed", "-1"], "--seed: -1, expected a whole number from 0 to"),
        (["room", "--seed", str(2**63)], f"--seed: {2**63}, expected a whole number from 0 to"),
        (["room", "--tolerance", "nan"], "tolerance: nan, expected a number from 0 on"),
        (["room", "--autosave", "0"], "--autosave: 0, expected at least 1"),
        (["room", "--device", "abacus"], "--device: abacus, expected auto"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    argv: list[str], said: str, command, folder: Path, capsys
) -> None:
    Path("text.png").write_text("a picture of a castle")
    Image.new("RGB", (99, 2)).save("wide.png")
    header = b'{"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [0], '
    header += b'"data_offsets": [0, 0]}}'
    Path("weights.loci").write_bytes(len(header).to_bytes(8, "little") + header)
    before = here()
    argv = [str(folder / "room.png") if word == "room" else word for word in argv]
    assert command(*argv, "--keys", KEYS) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("loci: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert here() == before


@pytest.mark.usefixtures("no_model")
def test_a_late_action_that_the_model_does_not_know_is_told_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    actions = [{"move": "go forward", "view": "no-op"}] * 16
    actions.append({"move": "uncertain", "view": "no-op"})
    Path("late.json").write_text(json.dumps(actions))
    picture = str(folder / "room.png")
    assert cli.main(["walk", picture, "--actions", "late.json", "--save", "x.loci"]) == 2
    said = capsys.readouterr().err
    assert "late.json: frame 17 has the move 'uncertain' (?), but the model knows only" in said
    assert "go forward (w)" in said
    assert cli.main(["walk", picture, "--keys", "w*16 i*8"]) == 2
    assert "--keys: frame 17 has the view 'turn up' (i)" in capsys.readouterr().err
    assert here() == {"late.json"}


def test_a_saved_walk_is_not_the_video(command, folder: Path, capsys) -> None:
    picture = str(folder / "room.png")
    assert command(picture, "--keys", "w*4", "--save", "s.mp4") == 0
    kept = Path("s.mp4").read_bytes()
    for out in ("s.mp4", "./s.mp4"):
        assert command("--resume", "s.mp4", "--keys", "w*4", "--out", out) == 2
        assert "s.mp4" in capsys.readouterr().err
    assert Path("s.mp4").read_bytes() == kept
    # But its continuation may take its place.
    assert command("--resume", "s.mp4", "--keys", "w*4", "--save", "s.mp4") == 0
    assert Path("s.mp4").read_bytes() != kept


@pytest.mark.parametrize("broken", ["nowhere", "empty", "half"])
def test_bad_models_are_named(
    broken: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    if broken == "empty":
        Path("empty").mkdir()
    if broken == "half":
        small_world().save_pretrained("half")
        Path("half/transformer/model.safetensors").unlink()
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["walk", str(folder / "room.png"), "--model", f"./{broken}"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("loci: ")
    assert printed.err.count("\n") == 1
    assert broken in printed.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("no_model")
def test_frames_come_in_the_codecs_groups(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "config.json").write_text('{"codec": "wan"}')
    argv = ["walk", str(folder / "room.png"), "--keys", KEYS, "--out", str(tmp_path / "a.mp4")]
    assert cli.main([*argv, "--model", str(tmp_path)]) == 2
    assert "14 frames" in (said := capsys.readouterr().err)
    assert "expected a multiple of 4" in said


@pytest.mark.parametrize("count", [3, 64, 70])
def test_the_sheet_shows_numbered_frames_and_stays_small(
    folder: Path, count: int, tmp_path: Path
) -> None:
    from loci.app.walk.walk_request import WalkOutputs
    from loci.app.walk.walk_writer import WalkWriter

    world = small_world()
    _, state = world.step(world.start(folder / "room.png"), parse_keys("w*4"))
    outputs = WalkOutputs(tmp_path / "a.mp4", None, "", None)
    writer = WalkWriter(outputs, world, state, state.frame_count + count)
    frames = []
    for new, reached in generate_until_interrupted(world, state, parse_keys(f"j*{count}")):
        writer.add_tiles(state.frame_count, new)
        state = reached
        frames.append(new)
    frames = np.concatenate(frames)
    assert len(frames) == count
    assert state.frame_count == 5 + count
    assert 1 <= len(writer.tiles) <= TILES + 1
    for number, tile in writer.tiles.items():
        assert np.array_equal(tile, frames[number - 5])


def test_ctrl_c_while_writing_keeps_what_is_written(folder: Path) -> None:
    world, reached = small_world(), []
    for _, state in generate_until_interrupted(
        world, world.start(folder / "room.png"), parse_keys("w*40")
    ):
        send()
        reached.append(state.frame_count)
    assert reached == [5]
