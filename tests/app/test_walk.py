"""`loci walk` from end to end, on a tiny world with random weights."""

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
from loci.actions import describe, parse_keys
from loci.app.walk import SCRIPT, Walk, choose_actions, chosen_device, generate
from loci.errors import LociError
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


def press_in_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C in the middle of step `number` of a walk."""
    whole, calls = World.step, []

    def step(self: World, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(self, *args)

    monkeypatch.setattr(World, "step", step)


def straight(folder: Path, keys: str) -> np.ndarray:
    """The frames that stepping by hand gives."""
    world, actions = small_world(), parse_keys(keys)
    state, made = world.start(folder / "room.png"), []
    for first in range(0, len(actions), world.chunk):
        frames, state = world.step(state, actions[first : first + world.chunk])
        made.append(frames)
    return np.concatenate(made)


def frames_of(path: str | Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_a_walk_writes_its_video_and_its_sheet(command, folder: Path, capsys) -> None:
    assert command(str(folder / "room.png"), "--keys", KEYS) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("14 frames in ")
    assert "walk.mp4, walk.png" in printed.out
    assert sorted(p.name for p in Path().iterdir()) == ["walk.mp4", "walk.png"]
    video = frames_of("walk.mp4")
    assert video.shape == (14, 384, 384, 3)
    expected = straight(folder, KEYS).astype(int)
    assert np.abs(video[:, 6::12, 6::12] - expected).mean() < 12
    # 14 tiles of 128 pixels in rows of eight.
    assert Image.open("walk.png").size == (4 + 8 * 132, 4 + 2 * 146)


def test_the_shipped_model_walks_into_the_shipped_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["walk", "--frames", "9"]) == 0
    assert frames_of("walk.mp4").shape == (9, 384, 384, 3)


def test_an_action_file_leads_the_same_way(command, folder: Path) -> None:
    entry = {"move": "go forward and go left", "view": "turn right"}
    Path("a.json").write_text(json.dumps([entry] * 5))
    picture = str(folder / "room.png")
    assert command(picture, "--actions", "a.json", "--out", "a.mp4") == 0
    assert command(picture, "--keys", "wal*5", "--out", "b.mp4") == 0
    assert np.array_equal(frames_of("a.mp4"), frames_of("b.mp4"))


def test_the_transformer_may_compute_in_less(command, folder: Path) -> None:
    picture = str(folder / "room.png")
    assert command(picture, "--keys", "w*4", "--out", "whole.mp4") == 0
    for dtype in ("bfloat16", "float16"):
        assert command(picture, "--keys", "w*4", "--out", "half.mp4", "--dtype", dtype) == 0
        half, whole = (frames_of(name).astype(int) for name in ("half.mp4", "whole.mp4"))
        assert 0 < np.abs(half - whole).mean() < 8


def test_a_speed_ends_with_its_ledger(command, folder: Path, capsys) -> None:
    assert command(str(folder / "room.png"), "--keys", "w*4", "--speed", "faster", "--verify") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("stage ")
    (chunks,) = (line.split() for line in lines if line.startswith("chunks"))
    assert int(chunks[1]) + int(chunks[2]) == 2


def test_a_resumed_walk_is_the_walk_gone_straight(command, folder: Path) -> None:
    picture = str(folder / "room.png")
    assert command(picture, "--keys", "w*8 wj*8", "--save", "straight.loci") == 0
    assert command(picture, "--keys", "w*8", "--save", "half.loci") == 0
    kept = Path("half.loci").read_bytes()
    assert command("--resume", "half.loci", "--keys", "wj*8", "--save", "whole.loci") == 0
    assert Path("half.loci").read_bytes() == kept
    resumed, expected = load_file("whole.loci"), load_file("straight.loci")
    assert resumed.keys() == expected.keys()
    for name in expected:
        assert np.array_equal(resumed[name], expected[name]), name


def test_ctrl_c_keeps_the_walk_and_says_how_to_go_on(
    command, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    with monkeypatch.context() as pressed:
        press_in_step(pressed, 3)
        assert command(str(folder / "room.png"), "--keys", KEYS) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("loci: stopped after 8 of 14 frames; go on with: loci walk ")
    written = {"walk.mp4", "walk.png", "walk.stopped.loci"}
    assert {p.name for p in Path().iterdir()} == written
    assert len(frames_of("walk.mp4")) == 8

    assert cli.main(shlex.split(said.partition("go on with: loci ")[2])) == 0
    assert {p.name for p in Path().iterdir()} == written | {"walk.rest.mp4", "walk.rest.png"}
    rest = frames_of("walk.rest.mp4")
    assert len(rest) == 6
    expected = straight(folder, KEYS)[8:].astype(int)
    assert np.abs(rest[:, 6::12, 6::12] - expected).mean() < 12


def test_a_second_ctrl_c_costs_nothing(
    command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = walk_file.save_walk

    def pressed_again(*args: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        save(*args)

    monkeypatch.setattr(walk_file, "save_walk", pressed_again)
    press_in_step(monkeypatch, 3)
    assert command(str(folder / "room.png"), "--keys", KEYS) == 2
    assert {p.name for p in Path().iterdir()} == {"walk.mp4", "walk.png", "walk.stopped.loci"}


def test_a_stopped_walk_is_not_replaced_by_the_next(
    command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("walk.stopped.loci").write_text("kept")
    press_in_step(monkeypatch, 3)
    assert command(str(folder / "room.png"), "--keys", KEYS) == 2
    assert Path("walk.stopped.loci").read_text() == "kept"
    assert Path("walk.stopped-2.loci").is_file()


def test_ctrl_c_before_the_first_frame_leaves_nothing(
    command, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    press_in_step(monkeypatch, 1)
    assert command(str(folder / "room.png"), "--keys", KEYS, "--save", "a.loci") == 2
    assert "stopped before the first frame" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere.png"], "nowhere.png: cannot be read"),
        (["text.png"], "text.png: no picture, expected"),
        (["--resume", "nowhere.loci"], "nowhere.loci: no such walk"),
        (["--resume", "text.png"], "text.png: damaged or no walk, expected"),
        (["--prompt", "a castle"], "trained without text"),
        (["--resume", "a.loci", "--prompt", "a castle"], "--prompt and --resume"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    argv: list[str], said: str, command, folder: Path, capsys
) -> None:
    Path("text.png").write_text("a picture of a castle")
    if argv[0] == "--prompt":
        argv = [str(folder / "room.png"), *argv]
    assert command(*argv, "--keys", KEYS) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("loci: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert [p.name for p in Path().iterdir()] == ["text.png"]


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


def test_frames_come_in_the_codecs_groups(
    command, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    world = small_world()
    world.codec.temporal_factor = 4
    monkeypatch.setattr(World, "from_pretrained", lambda model, device, dtype: world)
    assert command(str(folder / "room.png"), "--keys", KEYS) == 2
    assert "14 frames" in (said := capsys.readouterr().err)
    assert "expected a multiple of 4" in said


@pytest.mark.parametrize("count", [3, 64, 70])
def test_the_sheet_shows_numbered_frames_and_stays_small(folder: Path, count: int) -> None:
    world, written = small_world(), []
    state = world.start(folder / "room.png")
    _, state = world.step(state, parse_keys("w*4"))
    reached, tiles, done = generate(world, state, parse_keys(f"j*{count}"), written.append)
    frames = np.concatenate(written)
    assert len(frames) == done == count
    assert reached.frames == 5 + count
    assert 1 <= len(tiles) <= 65
    for number, tile in tiles.items():
        assert np.array_equal(tile, frames[number - 5])


def test_ctrl_c_while_writing_keeps_what_is_written(folder: Path) -> None:
    world, written = small_world(), []

    def write(frames: np.ndarray) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        written.append(frames)

    state, tiles, done = generate(
        world, world.start(folder / "room.png"), parse_keys("w*40"), write
    )
    assert done == state.frames - 1 == len(np.concatenate(written)) == 4
    assert tiles


def test_the_script_repeats() -> None:
    script = choose_actions(Walk())
    assert len(script) == 512
    assert describe(script) == SCRIPT
    longer = choose_actions(Walk(frames=700))
    assert np.array_equal(longer[:512], script)
    assert np.array_equal(longer[512:], script[:188])
    assert np.array_equal(choose_actions(Walk(frames=3)), script[:3])


def test_frames_cut_the_list() -> None:
    assert len(choose_actions(Walk(keys=KEYS))) == 14
    assert choose_actions(Walk(frames=4, keys=KEYS)).tolist() == [[1, 0]] * 3 + [[1, 3]]
    with pytest.raises(LociError, match="14 actions, expected one for each of 15 frames"):
        choose_actions(Walk(frames=15, keys=KEYS))


def test_a_device_that_is_not_there_is_named() -> None:
    assert chosen_device("cpu").type == "cpu"
    assert chosen_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(LociError, match="--device: abacus, expected auto"):
        chosen_device("abacus")
    with pytest.raises(LociError, match="no meta on this machine"):
        chosen_device("meta")
