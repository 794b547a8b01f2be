"""`loci label`: films become recordings with actions, each with a report to look at."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import tyro

from loci.errors import LociError, install_hint

if TYPE_CHECKING:
    from loci.labels.clip import LabelledClip, LabelOptions

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm")
PARTS = ("cv2", "scipy", "matplotlib")
LITTLE = 0.1
"""Below this share of certain labels a film teaches the keys hardly anything."""


def label(
    films: Annotated[list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="FILM|FOLDER")],
    out: Path = Path("labels"),
    poses: Path | None = None,
    poses_format: Literal["tum", "kitti", "vipe", "colmap", "nerfstudio", "arkit"] | None = None,
    fov: float = 65.0,
    fps: float = 15.0,
    size: tuple[int, int] = (128, 128),
    length: int | None = None,
    workers: int = 1,
    distortion: float = 0.0,
    there_and_back: int = 0,
    ray: str | None = None,
) -> None:
    """Label films with the actions that their camera makes, as data for loci train world.

    Each film becomes a folder in OUT/clips with its frames, actions, increments, poses, and a
    report. OUT/train and OUT/test are walks cut from all films in OUT. The same command goes on
    after a stop: films that are done are skipped. A film that cannot be labelled is named.

    Args:
        films: films, or folders of films.
        out: where to write.
        poses: a file with the camera's poses, for a single film; without it they are measured.
        poses_format: format of that file; by default as its name and content suggest.
        fov: field of view across the longer side of the films, in degrees.
        fps: frames per second of the recordings, at most.
        size: height and width of the recorded frames in pixels: the middle of the film; doom takes
            multiples of 32.
        length: frames of each walk; by default as long as the films allow.
        workers: how many films at a time, each in a process.
        distortion: the lens's, one radial term, such as -0.25 of an action camera; 0 for films
            that the camera has straightened itself.
        there_and_back: play each film to its end and back this many times, so that a film that
            never returns can teach remembering; held-out walks then show the same views. 0 plays
            it once.
        ray: label on a Ray cluster, in place of `workers`: HOST:PORT of it, "auto" for the one
            that this machine is part of, or "local". All its machines need the films and OUT
            under the same paths.
    """
    found = find_films(films)
    if ray is not None:
        if workers != 1:
            raise LociError("--workers: given with --ray, expected one of the two")
        out, found = out.resolve(), [film.resolve() for film in found]
        poses = None if poses is None else poses.resolve()
    _check_numbers(fov, fps, size, length, workers, distortion, there_and_back)
    if poses is not None and len(found) > 1:
        raise LociError(f"--poses: {len(found)} films, expected one for one file of poses")
    if poses is not None and not poses.is_file():
        raise LociError(f"{poses}: no such file, expected poses")
    _check_installed()
    from loci.data.films import assemble, certain_shares
    from loci.labels.clip import LabelOptions

    options = LabelOptions(fps, size, fov, poses, poses_format, distortion, there_and_back)
    failed = _label_all(_named(found, out), options, workers, ray)
    for _, reason in failed:
        print(f"left out: {reason}")
    if len(failed) == len(found):
        raise LociError(f"none of {len(found)} films could be labelled; {failed[0][1]}")
    try:
        sets = assemble(out, length)
    except LociError as error:
        print(f"no recordings for training: {error}")
        return
    move, view = certain_shares(out)
    print(
        f"{out}: {len(found) - len(failed)} films; {sets['train']} walks to train on and "
        f"{sets['test']} held out, of {sets['frames']} frames; moves are certain in {move:.0%} of "
        f"them, views in {view:.0%}"
    )
    if max(move, view) < LITTLE:
        print("little is certain: film faster motion, or give --poses, to train on keys")
    print(f"next: look at {out}/clips/*/report.html, then loci train world film --data {out}")


def find_films(given: Sequence[Path]) -> list[Path]:
    """The films named, and those in the folders named.

    Raises:
        LociError: when there is none.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise LociError(f"{path}: no films in it, expected {' '.join(SUFFIXES)}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise LociError(f"{path}: no such file, expected a film or a folder of films")
    return list(dict.fromkeys(found))


class Job(NamedTuple):
    film: Path
    folder: Path


Outcome = tuple[Path, str | None, int]
"""A film, why it could not be labelled, and its frames."""


def _named(films: Sequence[Path], out: Path) -> list[Job]:
    """A folder for each film, of its name; films of the same name get numbers."""
    jobs, taken = [], set()
    for film in films:
        stem = re.sub(r"[^\w.-]+", "-", film.stem) or "film"
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name)
        jobs.append(Job(film, out / "clips" / name))
    return jobs


def _check_numbers(
    fov: float,
    fps: float,
    size: tuple[int, int],
    length: int | None,
    workers: int,
    distortion: float,
    there_and_back: int,
) -> None:
    for name, value, low, high in (
        ("--fov", fov, 20, 150),
        ("--fps", fps, 2, 60),
        ("--size", min(size), 16, 2048),
        ("--size", max(size), 16, 2048),
        ("--length", 16 if length is None else length, 16, 1_000_000),
        ("--workers", workers, 1, 1024),
        ("--distortion", distortion, -0.5, 0.5),
        ("--there-and-back", there_and_back, 0, 1000),
    ):
        if not low <= value <= high:
            raise LociError(f"{name}: {value:g}, expected {low} to {high}")


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in PARTS if find_spec(name) is None]
    if missing:
        raise LociError(f"loci label needs {', '.join(missing)}: {install_hint('label')}")


def _label_all(
    jobs: Sequence[Job], options: LabelOptions, workers: int, ray: str | None
) -> list[tuple[Path, str]]:
    """Labels films, several at a time; returns those that failed, and why."""
    from tqdm import tqdm

    failed = []
    with tqdm(total=len(jobs), unit="film", disable=None) as bar:
        for film, reason, frames in _outcomes(jobs, options, workers, ray):
            bar.update()
            bar.set_postfix_str(f"{film.name}: {reason or f'{frames} frames'}")
            if reason is not None:
                failed.append((film, reason))
    return failed


def _outcomes(
    jobs: Sequence[Job], options: LabelOptions, workers: int, ray: str | None
) -> Iterator[Outcome]:
    """What became of each film, as they are done."""
    from loci.data.workers import ENDED, finished, finished_on_ray

    if ray is None and (workers == 1 or len(jobs) == 1):
        yield from (label_film(job, options, show=len(jobs) == 1) for job in jobs)
        return
    work = partial(label_film, options=options)
    done = finished(jobs, work, workers) if ray is None else finished_on_ray(jobs, work, ray)
    for job, outcome in done:
        yield outcome or (job.film, f"{job.film}: {ENDED}", 0)


def label_film(job: Job, options: LabelOptions, show: bool = False) -> Outcome:
    """Labels one film into its folder, unless it is there; returns why not, or how many frames."""
    from loci.io.config_files import read_json
    from loci.io.files import replacing_folder
    from loci.labels.clip import label_clip

    try:
        source = {"film": job.film.name, "bytes": job.film.stat().st_size, **_plain(options)}
        if (job.folder / "clip.json").exists():
            before = read_json(job.folder / "clip.json")
            first = {"distortion": 0.0, "there_and_back": 0}  # of labels that lack them
            if first | before.get("source", {}) != json.loads(json.dumps(source)):
                return job.film, f"{job.folder}: holds another film or other options", 0
            return job.film, None, before["frames"]
        with _one_thread(), replacing_folder(job.folder) as draft:
            with _frame_bar(job.film, show) as progress:
                clip = label_clip(job.film, options, progress)
            frames = _write(draft, job.film, clip, source, options.there_and_back)
    except FileNotFoundError as error:
        reason = f"{error.filename}: not found on {platform.node()}, expected files to stay"
        return job.film, reason, 0
    except LociError as error:
        return job.film, str(error), 0
    except Exception as error:  # one film must not end the others
        return job.film, f"{job.film}: {type(error).__name__}: {error}", 0
    return job.film, None, frames


def _write(
    folder: Path, film: Path, clip: LabelledClip, source: dict[str, object], trips: int
) -> int:
    """Everything of one film; `clip.json` last. Returns how many frames; the report has each of
    them once."""
    import numpy as np

    from loci.actions import MOVES, VIEWS
    from loci.data.films import describe_film, write_film
    from loci.labels.report import write_report
    from loci.labels.there_and_back import there_and_back

    write_report(folder, film, clip)
    if trips:
        clip = there_and_back(clip, trips)
    write_film(folder, clip.frames, clip.actions, clip.poses)
    listed = [{"move": MOVES[move], "view": VIEWS[view]} for move, view in clip.actions.tolist()]
    (folder / "actions.json").write_text(json.dumps(listed, indent=0) + "\n", encoding="utf-8")
    np.savez(
        folder / "labels.npz",
        increments=clip.increments,
        covariance=clip.covariance,
        poses=clip.poses,
        cameras=clip.cameras,
        certain=clip.certain,
        times=clip.times,
        runs=np.array(clip.runs),
    )
    thresholds = {"move": asdict(clip.labels.move), "view": asdict(clip.labels.view)}
    describe_film(
        folder,
        clip.runs,
        clip.fps,
        clip.fov,
        clip.labels.turn,
        thresholds=thresholds,
        warnings=list(clip.warnings),
        source=source,
    )
    return len(clip.frames)


def _plain(options: LabelOptions) -> dict[str, object]:
    return {key: str(v) if isinstance(v, Path) else v for key, v in asdict(options).items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV's own threads gain little and disturb other workers."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@contextmanager
def _frame_bar(film: Path, show: bool):
    if not show:
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="frame", desc=film.name, disable=None, leave=False) as bar:

        def progress(done: int) -> None:
            bar.update(done - bar.n)

        yield progress
