"""What `loci lift --batch` is to lift: the pictures of a folder, or the lines of a list."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from loci.errors import LociError
from loci.objects.inputs.masks import read_alpha

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
LISTS = (".csv", ".txt", ".jsonl")
MASK = "_mask"
GEOMETRY = ("_points.npy", "_points.npz", "_depth.npy", "_depth.npz", "_depth.png")
"""Ends of the files that are taken as the pointmap of the picture beside them."""
FIELDS = {"picture", "mask", "label", "box", "point", "pointmap", "fov", "intrinsics", "out"}


class LiftJob(NamedTuple):
    """One picture of a batch.

    Attributes:
        name: of its folder in the output.
        options: fields of `LiftOptions` that are its own; "picture" is among them.
    """

    name: str
    options: dict[str, Any]


def find_jobs(source: Path) -> list[LiftJob]:
    """The pictures of a folder that have masks beside them or transparency, by name; or those of a
    list, in its order.

    Raises:
        LociError: for no such folder or list, none in it, or two whose results have one name.
    """
    if source.is_dir():
        jobs = _in_folder(source)
    elif source.suffix.lower() in LISTS:
        jobs = _in_list(source)
    else:
        kinds = ", ".join(LISTS)
        raise LociError(f"--batch: {source}: no such folder, expected one, or a list ({kinds})")
    seen: dict[str, LiftJob] = {}
    for job in jobs:
        other = seen.setdefault(job.name, job)
        if other is not job:
            both = f"{other.options['picture']} and {job.options['picture']}"
            raise LociError(f"--batch: {both} would both be written to {job.name}")
    return jobs


def _in_folder(folder: Path) -> list[LiftJob]:
    names = {path.name for path in folder.iterdir()}
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    jobs = []
    for path in files:
        if MASK in path.stem or path.name.endswith(GEOMETRY):
            continue
        masks = [m for m in files if m.stem == path.stem + MASK]
        masks += [m for m in files if m.stem.startswith(path.stem + MASK + "_")]
        if not masks and not _has_alpha(path):
            continue
        options: dict[str, Any] = {"picture": path, "mask": tuple(masks)}
        geometry = next((path.stem + end for end in GEOMETRY if path.stem + end in names), None)
        if geometry is not None:
            options["pointmap"] = folder / geometry
        jobs.append(LiftJob(path.stem, options))
    if not jobs:
        raise LociError(
            f"--batch: {folder}: no NAME.png with NAME_mask.png in it, and none with transparency"
        )
    return jobs


def _has_alpha(path: Path) -> bool:
    """Whether it tells by itself what is to be lifted; a damaged one is named when it is lifted."""
    try:
        return read_alpha(path) is not None
    except LociError:
        return True


def _in_list(path: Path) -> list[LiftJob]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LociError(f"--batch: {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise LociError(f"--batch: {path}: no text, expected a list") from error
    lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    read = _from_json if path.suffix.lower() == ".jsonl" else _from_row
    jobs = [read(line, path.parent, f"--batch: {path}:{number}") for number, line in lines]
    if not jobs:
        raise LociError(f"--batch: {path}: empty, expected a line for every picture")
    return jobs


def _from_row(line: str, folder: Path, name: str) -> LiftJob:
    """A picture and its masks, with commas (or tabs) between them."""
    row = next(csv.reader([line], delimiter="\t" if "\t" in line else ","))
    words = [word.strip() for word in row if word.strip()]
    if not words:
        raise LociError(f"{name}: no picture, expected PICTURE,MASK,...")
    picture, *masks = (folder / word for word in words)
    return LiftJob(picture.stem, {"picture": picture, "mask": tuple(masks)})


def _from_json(line: str, folder: Path, name: str) -> LiftJob:
    """Options by their names; one mask, box or point, or a list of them."""
    try:
        given = json.loads(line)
    except ValueError as error:
        raise LociError(f"{name}: no JSON, expected one object a line") from error
    if not isinstance(given, dict) or not isinstance(given.get("picture"), str):
        raise LociError(f'{name}: no picture, expected {{"picture": "a.jpg", "mask": "m.png"}}')
    if unknown := given.keys() - FIELDS:
        raise LociError(f"{name}: {min(unknown)}, expected some of {', '.join(sorted(FIELDS))}")
    try:
        options = {field: _value(field, value, folder) for field, value in given.items()}
    except (TypeError, ValueError, IndexError) as error:
        raise LociError(f"{name}: a value of another kind than its option's") from error
    out = options.pop("out", options["picture"].stem)
    if Path(out).name != out:
        raise LociError(f"{name}: out {out!r}, expected the name of a folder")
    return LiftJob(out, options)


def _value(field: str, value: Any, folder: Path) -> Any:
    match field:
        case "picture" | "pointmap":
            return folder / value
        case "mask":
            return tuple(folder / one for one in ([value] if isinstance(value, str) else value))
        case "label":
            return tuple(int(one) for one in ([value] if isinstance(value, int) else value))
        case "box":
            return _tuples(value, 4)
        case "point":
            return _tuples(value, 2)
        case "intrinsics":
            if isinstance(value, str):
                return (str(folder / value),)
            return tuple(str(float(one)) for one in value)
        case "fov":
            return float(value)
    return str(value)


def _tuples(value: Any, length: int) -> tuple[tuple[int, ...], ...]:
    """One list of numbers, or several."""
    several: Iterable[Any] = value if isinstance(value[0], list) else [value]
    found = tuple(tuple(int(number) for number in one) for one in several)
    if any(len(one) != length for one in found):
        raise ValueError(length)
    return found
