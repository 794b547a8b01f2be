"""Labelled films as recordings: each film a folder, and sets of equal walks cut from them.

`clips/NAME` holds what one film became, complete or not at all. `train` and `test` hold only a
`meta.json` that names stretches of these folders, so that no frame is stored twice.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from loci.actions import UNCERTAIN
from loci.data.recordings import CLIPS, DIGEST, META, VERSION, content_digest, write_meta
from loci.envs.base import EnvironmentInfo
from loci.errors import LociError
from loci.io.config_files import read_json

STRIDES_PER_CELL = 128 / 12
"""A stride is as long, in cells, as a step in the Doom rooms."""
LENGTHS = (1024, 768, 512, 384, 256, 192, 128, 96, 64, 48, 32, 16)
TEST_SHARE = 10
"""Every tenth walk is held out, from the fifth on; at least one."""
MAX_FOV_RATIO, MAX_RATE_RATIO = 1.05, 1.15
"""By which films that are trained on together may differ."""
FILM = "clip.json"


class Stretch(NamedTuple):
    """Frames `first` to `first + length` of a film's folder."""

    path: str
    first: int


def write_film(folder: Path, frames: np.ndarray, actions: np.ndarray, poses: np.ndarray) -> None:
    """The arrays of a film that `load_recordings` maps, and their hash, into a folder that
    exists."""
    arrays = {
        "frames": frames.astype(np.uint8),
        "actions": actions.astype(np.uint8),
        "poses": poses.astype(np.float32),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / DIGEST).write_text(content_digest(arrays))


def describe_film(
    folder: Path, runs: Sequence[int], fps: float, fov: float, turn: float, **more: Any
) -> None:
    """`clip.json`: what the arrays mean; written last."""
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    content = {"frames": len(frames), "size": list(frames.shape[1:3]), "runs": list(runs)}
    content |= {"fps": fps, "fov_degrees": fov, "turn_degrees": turn, **more}
    (folder / FILM).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def assemble(folder: Path, length: int | None = None) -> dict[str, int]:
    """Cuts all films in `folder/clips` into walks of one length, for training and to hold out.

    Walks do not cross cuts. The last frames of a run that fill no walk are in one that overlaps
    its neighbour, unless that neighbour is held out.

    Args:
        folder: folder of the labelled films.
        length: frames of a walk; by default the longest that leaves at least four of them.

    Returns:
        how many walks each set has, and how many frames each walk.

    Raises:
        LociError: when no run is long enough, or the films differ in size, rate or field of view.
    """
    films = {p.parent.name: read_json(p) for p in sorted((folder / CLIPS).glob(f"*/{FILM}"))}
    if not films:
        raise LociError(f"{folder}: no labelled films")
    _check_alike(folder, films)
    if length is None:
        fitting = (n for n in LENGTHS if len(_stretches(films, n)) >= 4)
        length = next(fitting, LENGTHS[-1])
    stretches = _stretches(films, length)
    if len(stretches) < 2:
        raise LociError(f"{folder}: no two stretches of {length} frames, expected longer films")
    held_out = range(min(len(stretches), TEST_SHARE) // 2, len(stretches), TEST_SHARE)
    test = [stretches[i] for i in held_out]
    train = _with_ends(films, [s for s in stretches if s not in test], length)
    info = _info(list(films.values()))
    for name, chosen in (("train", train), ("test", test)):
        _write_set(folder / name, chosen, length, info)
    return {"train": len(train), "test": len(test), "frames": length}


def certain_shares(folder: Path) -> tuple[float, float]:
    """Shares of the frames of all films in `folder/clips` whose move and whose view is certain."""
    parts = [np.load(path) for path in sorted((folder / CLIPS).glob("*/actions.npy"))]
    move, view = (np.concatenate(parts) != UNCERTAIN).mean(axis=0).tolist()
    return move, view


def _check_alike(folder: Path, films: dict[str, dict[str, Any]]) -> None:
    """A model has one size of frames, one rate and one field of view."""
    sizes = {tuple(film["size"]) for film in films.values()}
    if len(sizes) > 1:
        text = ", ".join(f"{h}x{w}" for h, w in sorted(sizes))
        raise LociError(f"{folder}: films with frames of {text}, expected one --size for all")
    for key, what, unit, most in (
        ("fov_degrees", "a field of view", "degrees", MAX_FOV_RATIO),
        ("fps", "a rate", "frames a second", MAX_RATE_RATIO),
    ):
        found = sorted((film[key], name) for name, film in films.items())
        (low, first), (high, last) = found[0], found[-1]
        if high > most * low:
            raise LociError(
                f"{folder}: {first} has {what} of {low:.1f} {unit} and {last} of {high:.1f}, "
                "expected films that agree: label the others into another folder"
            )


def _runs(film: dict[str, Any]) -> list[tuple[int, int]]:
    return list(zip(film["runs"], [*film["runs"][1:], film["frames"]], strict=True))


def _stretches(films: dict[str, dict[str, Any]], length: int) -> list[Stretch]:
    return [
        Stretch(f"../{CLIPS}/{name}", first)
        for name, film in films.items()
        for begin, end in _runs(film)
        for first in range(begin, end - length + 1, length)
    ]


def _with_ends(
    films: dict[str, dict[str, Any]], chosen: list[Stretch], length: int
) -> list[Stretch]:
    """With a stretch up to the end of each run, where the one before it is chosen as well."""
    ends = []
    for name, film in films.items():
        for begin, end in _runs(film):
            left = (end - begin) % length
            last = Stretch(f"../{CLIPS}/{name}", end - left - length)
            if left and last in chosen:
                ends.append(Stretch(last.path, end - length))
    return sorted([*chosen, *ends])


def _info(films: list[dict[str, Any]]) -> EnvironmentInfo:
    turns = [film["turn_degrees"] for film in films if film["turn_degrees"] > 0]
    return EnvironmentInfo(
        environment="film",
        frame_size=tuple(films[0]["size"]),
        fps=float(np.median([film["fps"] for film in films])),
        fov_degrees=float(np.median([film["fov_degrees"] for film in films])),
        move_units=1.0,
        turn_degrees=float(np.median(turns)) if turns else 1.0,
        cell_units=STRIDES_PER_CELL,
    )


def _write_set(folder: Path, chosen: list[Stretch], length: int, info: EnvironmentInfo) -> None:
    form = {"version": VERSION, "episodes": len(chosen), "frames": length}
    form |= {"episodes_per_shard": len(chosen), "poses": True, "labels": {}}
    form |= {"addressed_by": "poses", "clips": [stretch._asdict() for stretch in chosen]}
    (folder / META).unlink(missing_ok=True)
    write_meta(folder, json.loads(json.dumps(form | asdict(info))))
