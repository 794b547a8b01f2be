"""The command as a user meets it: films in, recordings and reports out."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loci import cli
from loci.actions import read_actions
from loci.app.label import Job, label_film
from loci.data.recordings import load_recordings
from loci.errors import LociError
from loci.labels import clip as clips
from loci.labels.clip import LabelOptions
from tests.labels.room import FOV, picture, walk, write_film

KEYS = ["w"] * 16 + ["l"] * 12 + ["w"] * 16 + ["."] * 6 + ["d"] * 10 + ["j"] * 12


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    frames = [picture(pose) for pose in walk(KEYS)]
    write_film(folder / "walk.mp4", frames)
    write_film(folder / "short.mp4", frames[:8])
    write_film(folder / "still.mp4", frames[:1] * 30)
    write_film(folder / "grey.mp4", [np.full((120, 160, 3), 99, np.uint8)] * 30)
    (folder / "text.mp4").write_text("not a film")
    return folder


@pytest.fixture(scope="module")
def labelled(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels")
    assert cli.main(["label", str(films), "--out", str(out), "--fov", str(FOV)]) == 0
    return out


def test_a_film_becomes_a_recording(labelled: Path) -> None:
    folder = labelled / "clips" / "walk"
    actions = read_actions(folder / "actions.json")
    assert len(actions) == len(KEYS) + 1
    middles = {8: (1, 0), 22: (0, 4), 36: (1, 0), 47: (0, 0), 55: (4, 0), 66: (0, 3)}
    assert {i: tuple(actions[i].tolist()) for i in middles} == middles
    assert actions[-1].tolist() == [9, 9]
    stored = np.load(folder / "labels.npz")
    assert stored["increments"].shape == (len(KEYS), 3)
    assert np.median(stored["increments"][:14, 0]) == pytest.approx(1.0, abs=0.15)
    assert stored["increments"][18:26, 2] == pytest.approx(-2.5, abs=0.2)
    assert np.linalg.eigvalsh(stored["covariance"]).min() > 0
    assert (stored["certain"] == (actions != 9)).all()
    heading = stored["poses"][-1, 2]
    assert heading == pytest.approx(0, abs=1.0), "turned right by 30 degrees, and back"


def test_training_reads_it(labelled: Path) -> None:
    train, test = (load_recordings(labelled / name) for name in ("train", "test"))
    assert train.frames.shape[2:] == (128, 128, 3)
    assert train.frames.shape[1] == test.frames.shape[1] == 16
    assert train.addressed_by == "poses"
    assert train.info.action_scale is not None
    film = np.load(labelled / "clips" / "walk" / "frames.npy")
    first = test.meta["clips"][0]["first"]
    assert (np.asarray(test.frames[0]) == film[first : first + 16]).all()
    ranges = [range(c["first"], c["first"] + 16) for c in train.meta["clips"]]
    assert not any(set(r) & set(range(first, first + 16)) for r in ranges)
    assert train.digest != test.digest


def test_a_film_played_there_and_back(films: Path, tmp_path: Path, capsys) -> None:
    argv = ["label", str(films / "walk.mp4"), "--out", str(tmp_path), "--fov", str(FOV)]
    assert cli.main([*argv, "--there-and-back", "3"]) == 0
    folder, count = tmp_path / "clips" / "walk", 6 * len(KEYS) + 1
    assert len(read_actions(folder / "actions.json")) == count
    assert json.loads((folder / "clip.json").read_text())["frames"] == count
    poses = np.load(folder / "poses.npy")
    assert (poses[0] == poses[2 * len(KEYS)]).all()
    assert load_recordings(tmp_path / "train").frames.shape[1] == 96
    assert cli.main(argv) == 2
    assert "other options" in capsys.readouterr().err


def test_there_is_something_to_look_at(labelled: Path) -> None:
    from loci.io.video import video_info

    folder = labelled / "clips" / "walk"
    page = (folder / "report.html").read_text()
    for name in ("shares.png", "thresholds.png", "path.png", "overlay.mp4"):
        assert name in page
        assert (folder / name).stat().st_size > 1000
    overlay = video_info(folder / "overlay.mp4")
    assert overlay is not None
    assert overlay.frames == len(KEYS) + 1


def test_films_that_cannot_be_labelled_are_left_out_and_named(
    films: Path, labelled: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    """The second run skips what is done, and names the others again."""
    real, seen = clips.label_clip, []

    def counted(path: Path, *rest: object):
        seen.append(path.name)
        return real(path, *rest)  # type: ignore

    monkeypatch.setattr(clips, "label_clip", counted)
    assert sorted(p.name for p in (labelled / "clips").iterdir()) == ["walk"]
    assert cli.main(["label", str(films), "--out", str(labelled), "--fov", str(FOV)]) == 0
    told = capsys.readouterr().out
    assert "walk.mp4" not in seen
    for name, reason in (
        ("short", "8 frames, expected at least 16"),
        ("still", "no motion"),
        ("grey", "sharp film"),
        ("text", "cannot be read as a film"),
    ):
        assert f"left out: {films / name}.mp4: " in told
        assert reason in told


def test_poses_from_a_file(films: Path, tmp_path: Path) -> None:
    from tests.labels.test_pose_files import tum

    (path := tmp_path / "poses.txt").write_text(tum(walk(KEYS), 15))
    argv = ["label", str(films / "walk.mp4"), "--out", str(tmp_path / "out"), "--fov", str(FOV)]
    assert cli.main([*argv, "--poses", str(path), "--poses-format", "tum"]) == 0
    folder = tmp_path / "out" / "clips" / "walk"
    actions = read_actions(folder / "actions.json")
    assert actions[8].tolist() == [1, 0]
    assert actions[22].tolist() == [0, 4]
    warnings = json.loads((folder / "clip.json").read_text())["warnings"]
    assert not any("axes" in text for text in warnings)


def test_poses_with_other_axes_are_noticed(films: Path, tmp_path: Path) -> None:
    from tests.labels.test_pose_files import tum

    upside = np.diag([1.0, -1, -1, 1])
    (path := tmp_path / "poses.txt").write_text(tum(walk(KEYS) @ upside, 15))
    argv = ["label", str(films / "walk.mp4"), "--out", str(tmp_path / "out"), "--fov", str(FOV)]
    assert cli.main([*argv, "--poses", str(path)]) == 0
    told = json.loads((tmp_path / "out" / "clips" / "walk" / "clip.json").read_text())["warnings"]
    assert any("axes look wrong" in text for text in told)


def test_gaps_in_poses_are_not_taken_for_wrong_axes(films: Path, tmp_path: Path) -> None:
    """Poses are lacking for most of the first turn: between them they are interpolated."""
    from tests.labels.test_pose_files import tum

    lines = tum(walk(KEYS), 15).splitlines()
    (path := tmp_path / "poses.txt").write_text("\n".join(lines[:17] + lines[29:]))
    argv = ["label", str(films / "walk.mp4"), "--out", str(tmp_path / "out"), "--fov", str(FOV)]
    assert cli.main([*argv, "--poses", str(path)]) == 0
    told = json.loads((tmp_path / "out" / "clips" / "walk" / "clip.json").read_text())["warnings"]
    assert any("gaps in the poses: 12 frames" in text for text in told)
    assert not any("axes" in text for text in told)


def test_a_film_whose_process_is_killed_is_named(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(
        "loci.data.workers.finished", lambda jobs, *_: [(job, None) for job in jobs]
    )
    argv = ["label", str(films / "walk.mp4"), str(films / "short.mp4"), "--workers", "2"]
    assert cli.main([*argv, "--out", str(tmp_path)]) == 2
    told = capsys.readouterr()
    for name in ("walk", "short"):
        assert f"left out: {films / name}.mp4: its process was ended from outside" in told.out


def test_a_film_that_is_gone_does_not_end_the_others(films: Path, tmp_path: Path) -> None:
    gone = Job(films / "gone.mp4", tmp_path / "gone")
    film, reason, _ = label_film(gone, LabelOptions())
    assert film == gone.film
    assert reason is not None
    assert f"{gone.film}: not found on " in reason


def test_a_film_without_any_certain_motion_is_left_out(films: Path, monkeypatch) -> None:
    real = clips.label_motion

    def uncertain(motion):
        labels = real(motion)
        return replace(labels, ids=np.where(labels.ids == 0, 0, 9))

    monkeypatch.setattr(clips, "label_motion", uncertain)
    with pytest.raises(LociError, match="no motion stands out from its noise, expected faster"):
        clips.label_clip(films / "walk.mp4", LabelOptions(fov=FOV))


REFUSED = {
    "nothing there": (["none.mp4"], "no such file"),
    "poses of several": (["walk.mp4", "short.mp4", "--poses", "p.txt"], "2 films"),
    "no poses": (["walk.mp4", "--poses", "p.txt"], "no such file"),
    "fov": (["walk.mp4", "--fov", "500"], "--fov: 500"),
    "trips": (["walk.mp4", "--there-and-back", "-1"], "--there-and-back: -1"),
    "workers": (["walk.mp4", "--workers", "0"], "--workers: 0"),
    "both": (["walk.mp4", "--workers", "2", "--ray", "auto"], "--workers: given with --ray"),
    "only bad": (["short.mp4"], "8 frames"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(
    case: str, films: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, reason = REFUSED[case]
    monkeypatch.chdir(films)
    assert cli.main(["label", *argv, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert reason in line
    assert "expected" in line
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").rglob("clip.json"))
