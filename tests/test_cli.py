"""The command line: quick to answer, one line for a mistake, never half a file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loci import cli

HEAVY = "{'torch', 'diffusers', 'transformers', 'vizdoom', 'av', 'matplotlib'}"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


REFUSALS = [
    ["walk", "nope.png"],
    ["walk", "--keys", "x"],
    ["walk", "--keys", "w*16 i*8"],
    ["walk", "--seed", "-1"],
    ["walk", "--resume", "nope.loci"],
    ["walk", "--out", "nowhere/walk.mp4"],
    ["walk", "--model", "nope"],
    ["walk", "--device", "abacus"],
    ["walk", "--speed", "fastest"],
    ["lift", "nope.png", "--mask", "m.png"],
    ["lift", "--box", "1", "2", "3", "4"],
    ["lift", "--out", "nowhere.glb"],
    ["lift", "--model", "nope"],
    ["lift", "--seed", "-1"],
    ["lift", "--tolerance", "nan"],
]


@pytest.mark.parametrize(
    "argv", [["--help"], ["data", "--help"], ["walk", "--help"], ["lift", "--help"]]
)
def test_help_imports_nothing_heavy(argv: list[str]) -> None:
    loaded = python(
        "import sys\nfrom loci import cli\n"
        f"try: cli.main({argv!r})\nexcept SystemExit: pass\n"
        f"print(sorted({HEAVY} & sys.modules.keys()))"
    )
    assert loaded.splitlines()[-1] == "[]"
    assert "usage: loci" in loaded


def test_the_help_of_a_training_shows_its_own_flags_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = []
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            cli.main(["train", "world", flag])
        shown.append(capsys.readouterr().out)
    first, everything = shown
    assert "--minutes" in first
    assert "--model.dim" not in first
    assert "More flags, of model, world, stages: loci train world --help-all" in first
    assert {"--minutes", "--model.dim", "--world.fps"} <= set(everything.split())


def test_former_names_of_commands_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["bench", "released", "--help"])
    assert left.value.code == 0
    assert "loci bench published" in capsys.readouterr().out


def test_former_flags_of_trainings_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "world", "--hold=2"]) == 2
    assert "--hold-fraction: 2.0, expected" in capsys.readouterr().err
    command = cli.COMMANDS["train slat"]
    assert str(command.configure("loci train slat", ["--codec", "runs/mine"]).vae) == "runs/mine"
    command = cli.COMMANDS["train structure"]
    args = ["--sampling.guidance", "3"]
    assert command.configure("loci train structure", args).sampling.guidance_strength == 3
    command = cli.COMMANDS["train world"]
    args = ["--world.sampling.guidance=3"]
    assert command.configure("loci train world", args).world.sampling.guidance_scale == 3


@pytest.mark.parametrize("argv", REFUSALS)
def test_a_refusal_imports_nothing_heavy(argv: list[str], tmp_path: Path) -> None:
    """So it takes a fraction of a second."""
    code = (
        "import os, sys\nfrom loci import cli\n"
        f"os.chdir({str(tmp_path)!r})\n"
        f"try: status = cli.main({argv!r})\nexcept SystemExit as left: status = left.code\n"
        f"print(status, sorted({HEAVY} - {{'av'}} & sys.modules.keys()), os.listdir())"
    )
    assert python(code) == "2 [] []\n"


def test_importing_the_package_imports_nothing_heavy() -> None:
    printed = python(f"import sys, loci\nprint(dir(loci)[-1], {HEAVY} & sys.modules.keys())")
    assert printed.strip().endswith("set()")


def test_unknown_public_names_are_attribute_errors() -> None:
    import loci

    assert "World" in dir(loci)
    assert not hasattr(loci, "Wrold")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--help"], *([group, "--help"] for group in cli.GROUPS)):
        with pytest.raises(SystemExit) as left:
            cli.main(argv)
        assert left.value.code == 0
    printed = capsys.readouterr().out
    for words in map(str.split, cli.COMMANDS):
        assert words[-1] in printed


@pytest.mark.parametrize("path", cli.COMMANDS)
def test_every_command_explains_itself(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([*path.split(), "--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert f"usage: loci {path}" in printed
    assert not re.search(r"default:\W+(None\b|\))", printed)
    assert "{None}" not in printed.replace("{None}|{INT INT}", "").replace("{None}|FLOAT", "")


def test_flags_without_a_default_keep_their_help(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["walk"], ["train", "world"], ["lift"]):
        with pytest.raises(SystemExit):
            cli.main([*argv, "--help"])
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--seed INT Seed of the noise; if not given, one of the picture's own" in printed
    assert "--init-from PATH" in printed
    assert "A picture with transparency needs none. (repeatable)" in printed
    assert "optimiser steps to train for, instead of minutes. --" in printed


@pytest.mark.parametrize(
    "argv", [[], ["data"], ["fly"], ["walk", "--frames", "x"], ["walk", "--speed", "3"]]
)
def test_wrong_usage_exits_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(argv)
    assert left.value.code == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--keys", "w", "--actions", "a.json"], "--actions and --keys: both given"),
        (["a.png", "--resume", "a.loci"], "PICTURE and --resume: both given"),
        (["--frames", "0"], "--frames: 0, expected 1 to 1000000"),
        (["--frames", "-3"], "--frames: -3, expected 1 to 1000000"),
        (["--frames", "99999999999999"], "--frames: 99999999999999, expected 1 to 1000000"),
        (["--keys", "ws"], "'ws'"),
        (["--keys", "w*4 a*4", "--frames", "9"], "--keys: 8 actions, expected one for each of 9"),
        (["--actions", "nowhere.json"], "nowhere.json: cannot read the actions"),
        (["--actions", "short.json", "--frames", "3"], "short.json: 2 actions, expected one for"),
        (["--out", "walk.avi"], "walk.avi, expected the name of a video to end in .mp4"),
        (["--out", "nowhere/walk.mp4"], "nowhere/walk.mp4: cannot be written"),
        (["--save", "nowhere/walk.loci"], "nowhere/walk.loci: cannot be written"),
        (["walk.png"], "walk.png: would be replaced by what is written"),
        (["--actions", "a.png", "--out", "a.mp4"], "a.png: would be replaced by"),
        (["--save", "walk.png"], "walk.png must differ from the video and its contact sheet"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    argv: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    still = {"move": "no-op", "view": "no-op"}
    Path("short.json").write_text(json.dumps([still, still]))
    assert cli.main(["walk", *argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("loci: ")
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["short.json"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["convert", "nowhere", "out"], "nowhere"),
        (["data", "objects", "nowhere", "--out", "out"], "nowhere"),
        (
            ["data", "objects", ".", "--out", "out", "--seed", "-1"],
            "--seed: -1, expected a whole number from 0 to",
        ),
        (["data", "objects", ".", "--out", "out", "--limit", "0"], "limit 0, expected 1 to"),
        (
            ["train", "codec", "--data", ".", "--out", "out", "--minutes", "nan"],
            "--minutes: nan, expected a number greater than 0",
        ),
        (
            ["train", "structure-vae", "--data", ".", "--out", "out", "--seed", str(2**63)],
            f"--seed: {2**63}, expected a whole number from 0 to",
        ),
    ],
)
def test_so_are_mistakes_in_other_commands(
    argv: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("loci: ")
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    code = "import sys\nfrom loci import cli\nsys.exit(cli.main(sys.argv[1:]))"
    argv = [sys.executable, "-c", code, "--version"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
    with open("/dev/full", "w") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "loci: output: No space left on device\n")
