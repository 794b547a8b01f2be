"""Recorded walks on disk: folders of plain arrays that are mapped into memory, not read at once.

A data set is a folder with `meta.json` and shards `shard-0000`, `shard-0001` ..., each a folder
with one .npy file per array: `frames` and `actions`, `poses` if they are known, and others, one
number per walk. Walks of any environment, or clips of any video, have this form. A shard is there
complete or not at all. In place of shards, `meta.json` may list `clips`: a `path` to a folder with
`frames`, `actions` and `poses` of a whole film, and the `first` frame of a walk in it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int, UInt8

from loci.data.mapped import MappedArray
from loci.envs.base import EnvironmentInfo
from loci.errors import LociError
from loci.io.config_files import config_from_dict, read_json
from loci.io.files import replacing

VERSION = 2
META = "meta.json"
CLIPS = "clips"
DIGEST = "sha256.txt"
EPISODES_PER_SHARD = 24
_FIRST_WALK_ATTRIBUTES = {"kinds": "uint8", "map_seeds": "int64"}  # of version 1
_UNSET_FOV = 73.7398  # of version 1 with 64 pixels: the engine ignored what the file says


class Clip(NamedTuple):
    """A walk to be written: `actions[t]` lead from frame t to t + 1."""

    frames: UInt8[np.ndarray, "t h w 3"]
    actions: Int[np.ndarray, "t 2"]
    poses: Float32[np.ndarray, "t 3"] | None = None


@dataclass(frozen=True)
class Recordings:
    """Walks of equal length; frames are read from disk when they are indexed.

    Attributes:
        frames: `[e, t, h, w, 3]`, indexed like an array by walk and frame.
        actions: move and view ids; `actions[:, t]` lead from frame t to t + 1.
        poses: x, y in the environment's units and the heading in degrees, counter-clockwise.
        info: the environment and its units.
        walk_attributes: other numbers of each walk, by name ("labels" in `meta.json`).
        meta: all of `meta.json`.
        digest: a hash of the content.
        addressed_by: whether a model addresses frames by poses dead-reckoned from the actions, as
            in a walk, or by the stored poses, as in films, where actions can be uncertain.
    """

    frames: MappedArray
    actions: UInt8[np.ndarray, "e t 2"]
    poses: Float32[np.ndarray, "e t 3"] | None
    info: EnvironmentInfo
    walk_attributes: dict[str, np.ndarray] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def addressed_by(self) -> Literal["actions", "poses"]:
        by = self.meta.get("addressed_by", "actions")
        if by not in ("actions", "poses") or (by == "poses" and self.poses is None):
            raise LociError(
                f"{META}: addressed_by {by!r}, expected 'actions', or 'poses' with poses.npy"
            )
        return by


def write_recordings(
    folder: Path, clips: Iterable[Clip], info: EnvironmentInfo, shard: int = EPISODES_PER_SHARD
) -> int:
    """Write walks of any environment, or clips of videos, as a new data set; returns how many.

    Args:
        folder: for the shards.
        clips: all of one length and of the size that `info` says; taken one shard at a time.
        info: the environment and its units.
        shard: walks per shard.

    Raises:
        LociError: when clips differ in form, there are none, or the folder cannot be written or
            holds data already.
    """
    if (folder / META).exists():
        raise LociError(f"{folder}: holds recordings already, expected a new folder")
    clips, count, shapes, posed = iter(clips), 0, None, False
    while part := list(islice(clips, shard)):
        for clip in part:
            if shapes is None:
                length = len(clip.frames)
                shapes = ((length, *info.frame_size, 3), (length, 2))
                posed = clip.poses is not None
            found = clip.frames.shape, clip.actions.shape
            if found != shapes or (clip.poses is not None) != posed:
                raise LociError(f"clip {count}: {found}, expected {shapes}, poses always or never")
            count += 1
        arrays = {
            "frames": np.stack([clip.frames for clip in part]).astype(np.uint8),
            "actions": np.stack([clip.actions for clip in part]).astype(np.uint8),
        }
        if posed:
            arrays["poses"] = np.stack([clip.poses for clip in part]).astype(np.float32)  # type: ignore
        write_shard(shard_path(folder, (count - 1) // shard), arrays)
    if shapes is None:
        raise LociError(f"{folder}: no clips to write")
    write_meta(folder, describe(info, count, shapes[0][0], shard, posed=posed))
    return count


def describe(
    info: EnvironmentInfo,
    episodes: int,
    frames: int,
    shard: int = EPISODES_PER_SHARD,
    posed: bool = True,
    walk_attributes: Mapping[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The content of `meta.json`.

    Args:
        info: the environment and its units.
        episodes, frames, shard: walks, frames of each, and walks per shard.
        posed: whether there are poses.
        walk_attributes: numpy types of the numbers kept of each walk, by name.
        more: further entries.
    """
    form = {"version": VERSION, "episodes": episodes, "frames": frames}
    form |= {"episodes_per_shard": shard, "poses": posed, "labels": dict(walk_attributes or {})}
    return json.loads(json.dumps(form | asdict(info) | more))


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:04d}"


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Begin a data set, or go on with one of the same description.

    Raises:
        LociError: when the folder cannot be written or holds other data.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LociError(f"{folder}: cannot be written ({error.strerror})") from error
    if (folder / META).exists():
        found = _read_json(folder)
        for name, value in meta.items():
            if found.get(name) != value:
                text = f"{name} {found.get(name)}, expected {value} to go on with it"
                raise LociError(f"{folder}: holds other data: {text}")
        return
    with replacing(folder / META) as draft:
        draft.write_text(json.dumps(dict(meta), indent=2) + "\n", encoding="utf-8")


def read_meta(folder: Path) -> dict[str, Any]:
    """The description of a data set, in the present version.

    Raises:
        LociError: when there is none, or it is of an unknown version.
    """
    meta, path = _read_json(folder), folder / META
    if meta.get("version") == 1:
        meta = _from_version_1(meta)
    if meta.get("version") != VERSION:
        raise LociError(f"{path}: expected the description of recorded shards, version {VERSION}")
    for name in ("episodes", "frames", "episodes_per_shard"):
        if not isinstance(meta.get(name), int) or meta[name] < 1:
            raise LociError(f"{path}: {name} {meta.get(name)}, expected a positive whole number")
    return meta


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / META
    if not path.exists():
        raise LociError(f"{folder}: expected recorded shards (make some: loci data doom)")
    meta = read_json(path)
    if not isinstance(meta, dict):
        raise LociError(f"{path}: expected the description of recorded shards, version {VERSION}")
    return meta


def _from_version_1(meta: dict[str, Any]) -> dict[str, Any]:
    """The first version knew Doom alone, and had the same names for some of it."""
    side = meta.get("frame_size")
    return {
        **meta,
        "version": VERSION,
        "environment": "doom",
        "frame_size": [side, side],
        "fov_degrees": _UNSET_FOV if side == 64 else meta.get("fov_degrees"),
        "move_units": meta.get("step_units", 12.0),
        "turn_degrees": meta.get("turn_degrees", 7.5),
        "cell_units": meta.get("cell_units", 128.0),
        "poses": True,
        "labels": _FIRST_WALK_ATTRIBUTES,
    }


def write_shard(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write one shard and the hash of its content, complete or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(draft / f"{name}.npy", array)
        (draft / DIGEST).write_text(content_digest(arrays))
        os.replace(draft, path)
    except OSError as error:
        raise LociError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load_recordings(folder: Path, episodes: int | None = None) -> Recordings:
    """The first `episodes` walks of a data set, or all. Frames stay on disk until they are indexed.

    Raises:
        LociError: when anything is missing, damaged or of another shape than `meta.json` says.
    """
    meta = read_meta(folder)
    info = _info(folder, meta)
    count = meta["episodes"] if episodes is None else episodes
    if not 1 <= count <= meta["episodes"]:
        raise LociError(f"{folder}: {count} episodes asked for, expected 1 to {meta['episodes']}")
    if CLIPS in meta:
        return _load_clips(folder, meta, info, count)
    frames, each = meta["frames"], meta["episodes_per_shard"]
    forms: dict[str, tuple[str, tuple[int, ...]]] = {
        "frames": ("uint8", (frames, *info.frame_size, 3)),
        "actions": ("uint8", (frames, 2)),
        **({"poses": ("float32", (frames, 3))} if meta["poses"] else {}),
        **{name: (dtype, ()) for name, dtype in meta["labels"].items()},
    }
    parts: dict[str, list[np.ndarray]] = {name: [] for name in forms}
    digests = []
    for first in range(0, count, each):
        path, stored = shard_path(folder, first // each), min(each, meta["episodes"] - first)
        arrays = {
            name: _map_array(path / f"{name}.npy", (stored, *shape), np.dtype(dtype))
            for name, (dtype, shape) in forms.items()
        }
        digests.append(_shard_digest(path, arrays))
        for name, array in arrays.items():
            parts[name].append(array[: count - first])
    small = {name: np.concatenate(parts[name]) for name in forms if name != "frames"}
    return Recordings(
        MappedArray(parts["frames"]),
        small["actions"],
        small.get("poses"),
        info,
        {name: small[name] for name in meta["labels"]},
        meta,
        hashlib.sha256("".join(digests).encode()).hexdigest(),
    )


def _load_clips(
    folder: Path, meta: dict[str, Any], info: EnvironmentInfo, count: int
) -> Recordings:
    """Walks that are stretches of whole films."""
    length = meta["frames"]
    forms = {"frames": ("uint8", (*info.frame_size, 3)), "actions": ("uint8", (2,))}
    if meta["poses"]:
        forms["poses"] = ("float32", (3,))
    films: dict[str, dict[str, np.ndarray]] = {}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in forms}
    digest = hashlib.sha256(str(length).encode())
    for clip in meta[CLIPS][:count]:
        if not isinstance(clip, dict) or not {"path", "first"} <= clip.keys():
            raise LociError(f"{folder / META}: clip {clip}, expected a path and a first frame")
        path, first = folder / clip["path"], clip["first"]
        if clip["path"] not in films:
            films[clip["path"]] = {name: _map_film(path / f"{name}.npy") for name in forms}
            digest.update(_film_digest(path, films[clip["path"]]).encode())
        for name, (dtype, shape) in forms.items():
            part = films[clip["path"]][name][None, first : first + length]
            if part.shape != (1, length, *shape) or part.dtype != np.dtype(dtype):
                found = f"{part.dtype} {list(part.shape[1:])} from frame {first}"
                raise LociError(f"{path / name}.npy: {found}, expected {dtype} {[length, *shape]}")
            parts[name].append(part)
        digest.update(f"{first}".encode())
    if len(parts["frames"]) < count:
        raise LociError(f"{folder / META}: {len(parts['frames'])} clips, expected {count}")
    poses = np.concatenate(parts["poses"]) if meta["poses"] else None
    frames, actions = MappedArray(parts["frames"]), np.concatenate(parts["actions"])
    return Recordings(frames, actions, poses, info, {}, meta, digest.hexdigest())


def _map_film(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise LociError(f"{path}: missing, expected a labelled film (loci label)") from error
    except (OSError, ValueError, EOFError) as error:
        raise LociError(f"{path}: damaged, expected an array file of numpy") from error


def _info(folder: Path, meta: dict[str, Any]) -> EnvironmentInfo:
    names = EnvironmentInfo.__dataclass_fields__
    known = {name: value for name, value in meta.items() if name in names}
    numbers = {name: float(value) for name, value in known.items() if isinstance(value, int)}
    if not isinstance(known.get("frame_size"), list) or len(known["frame_size"]) != 2:
        raise LociError(f"{folder / META}: frame_size {known.get('frame_size')}, expected two")
    try:
        return config_from_dict(EnvironmentInfo, known | numbers)
    except LociError as error:
        raise LociError(f"{folder / META}: {error}") from error


def _map_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        message = f"{path}: missing (the same loci data doom command goes on with a recording)"
        raise LociError(message) from error
    except (OSError, ValueError, EOFError) as error:
        raise LociError(f"{path}: damaged, expected an array file of numpy") from error
    if array.shape != shape or array.dtype != dtype:
        found = f"{array.dtype} {list(array.shape)}"
        raise LociError(f"{path}: {found}, expected {dtype} {list(shape)}")
    return array


def _shard_digest(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """As written with the shard; shards of version 1 have none, so theirs is computed."""
    file = path / DIGEST
    return file.read_text().strip() if file.is_file() else content_digest(arrays)


def _film_digest(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """As written with the film; the first films have none, so theirs is computed."""
    file = path / DIGEST
    if file.is_file():
        return file.read_text().strip()
    return "".join(content_digest({"film": array}) for array in arrays.values())


def content_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """A hash of arrays by name, read row by row."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        for row in array:
            digest.update(np.ascontiguousarray(row).tobytes())
    return digest.hexdigest()
