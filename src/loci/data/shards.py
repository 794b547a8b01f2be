"""Recorded walks on disk: plain arrays in folders, which load into memory as fast as the disk.

A data set is a folder with `meta.json` and shards `shard-0000`, `shard-0001` ..., each a folder
with one .npy file per array. A shard is there complete or not at all.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from loci.errors import LociError
from loci.files import replacing

VERSION = 1
META = "meta.json"
# Type and shape (after episodes) of every array; "t" stands for frames an episode, "s" for pixels.
ARRAYS: dict[str, tuple[type[np.generic], tuple[str | int, ...]]] = {
    "frames": (np.uint8, ("t", "s", "s", 3)),
    "poses": (np.float32, ("t", 3)),
    "actions": (np.uint8, ("t", 2)),
    "kinds": (np.uint8, ()),
    "map_seeds": (np.int64, ()),
}


@dataclass(frozen=True)
class DoomShards:
    """Walks in memory.

    `poses` are x, y in map units and the heading in degrees, counter-clockwise. `actions` are move
    and view ids; `actions[:, t]` lead from frame t to t + 1. `kinds` index `meta["kinds"]`.
    """

    frames: UInt8[np.ndarray, "e t s s 3"]
    poses: Float32[np.ndarray, "e t 3"]
    actions: UInt8[np.ndarray, "e t 2"]
    kinds: UInt8[np.ndarray, " e"]
    map_seeds: Int64[np.ndarray, " e"]
    meta: dict[str, Any]


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
        held = read_meta(folder)
        for name, value in meta.items():
            if held.get(name) != value:
                text = f"{name} {held.get(name)}, expected {value} to go on with it"
                raise LociError(f"{folder}: holds other data: {text}")
        return
    with replacing(folder / META) as draft:
        draft.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def read_meta(folder: Path) -> dict[str, Any]:
    """The description of a data set.

    Raises:
        LociError: when there is none, or it is not of this version.
    """
    path = folder / META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{folder}: expected recorded shards (make some: loci data doom)"
        raise LociError(message) from error
    except ValueError as error:
        raise LociError(f"{path}: damaged, expected JSON") from error
    if not isinstance(meta, dict) or meta.get("version") != VERSION:
        raise LociError(f"{path}: expected the description of recorded shards, version {VERSION}")
    for name in ("episodes", "frames", "frame_size", "episodes_per_shard"):
        if not isinstance(meta.get(name), int) or meta[name] < 1:
            raise LociError(f"{path}: {name} {meta.get(name)}, expected a positive whole number")
    return meta


def write_shard(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write one shard, complete or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.mkdir(parents=True)
        for name in ARRAYS:
            np.save(draft / f"{name}.npy", arrays[name])
        os.replace(draft, path)
    except OSError as error:
        raise LociError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load_shards(folder: Path, episodes: int | None = None) -> DoomShards:
    """Read the first `episodes` walks of a data set, or all, into memory.

    Raises:
        LociError: when anything is missing, damaged or of another shape than `meta.json` says.
    """
    meta = read_meta(folder)
    count = meta["episodes"] if episodes is None else episodes
    if not 1 <= count <= meta["episodes"]:
        raise LociError(f"{folder}: {count} episodes asked for, expected 1 to {meta['episodes']}")
    sizes = {"t": meta["frames"], "s": meta["frame_size"]}
    arrays = {}
    for name, (dtype, axes) in ARRAYS.items():
        shape = tuple(sizes.get(str(axis), axis) for axis in axes)
        arrays[name] = np.empty((count, *shape), dtype)
    each = meta["episodes_per_shard"]
    for first in range(0, count, each):
        path = shard_path(folder, first // each)
        held = min(each, meta["episodes"] - first)
        for name, whole in arrays.items():
            wanted = whole[first : first + each]
            part = _read_array(path / f"{name}.npy", (held, *whole.shape[1:]), whole.dtype)
            wanted[:] = part[: len(wanted)]
    return DoomShards(**arrays, meta=meta)


def _read_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array as a view of its file, so that what is read goes where it is wanted at once."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        message = f"{path}: missing (the same loci data doom command goes on with a recording)"
        raise LociError(message) from error
    except (OSError, ValueError, EOFError) as error:
        raise LociError(f"{path}: damaged, expected an array file of numpy") from error
    if array.shape != shape or array.dtype != dtype:
        held = f"{array.dtype} {list(array.shape)}"
        raise LociError(f"{path}: {held}, expected {dtype} {list(shape)}")
    return array
