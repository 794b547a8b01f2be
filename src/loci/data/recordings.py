"""Recorded walks on disk: plain arrays in folders, which load into memory as fast as the disk.

A data set is a folder with `meta.json` and shards `shard-0000`, `shard-0001` ..., each a folder
with one .npy file per array. A shard is there complete or not at all.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64, UInt8
from torch import Tensor

from loci.codecs.base import Codec
from loci.errors import LociError
from loci.io.files import replacing
from loci.memory.poses import ActionScale, dead_reckon

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
class Recordings:
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


def load_recordings(folder: Path, episodes: int | None = None) -> Recordings:
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
    return Recordings(**arrays, meta=meta)


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


CELL = 128.0


@dataclass(frozen=True)
class LatentWalks:
    """Walks of equal length, in memory.

    `reckoned` comes from the actions alone and is what a model may use; `true` comes from the
    engine and serves only to choose training targets and to judge. `history` is what a model is
    shown as its past, where that is not the truth (`train.self_forced`).
    """

    latents: Float[Tensor, "e t c h w"]
    actions: Int[Tensor, "e t 2"]
    reckoned: Float[Tensor, "e t 3"]
    true: Float[Tensor, "e t 3"]
    history: Float[Tensor, "e t c h w"] | None = None

    @property
    def past(self) -> Float[Tensor, "e t c h w"]:
        """What a model is shown."""
        return self.latents if self.history is None else self.history

    @property
    def count(self) -> int:
        return self.latents.shape[0]

    @property
    def length(self) -> int:
        return self.latents.shape[1]


def latent_walks(shards: Recordings, codec: Codec, cache: Path, walks: int) -> LatentWalks:
    """The first `walks` recorded walks, encoded; what is encoded once is kept in `cache`.

    Latents are stored per walk in half precision, so encoding resumes after a kill and a larger
    `walks` adds to what is there. The cache belongs to one codec and one set of shards.

    Raises:
        LociError: when the shards hold fewer walks, or the cache was made by another codec or
            from other recordings.
    """
    available = shards.frames.shape[0]
    if walks > available:
        raise LociError(f"{walks} walks asked for, but the shards hold {available}")
    _claim(cache, shards, codec)
    latents = [_encoded(shards.frames[i], codec, cache / f"{i:05d}.npy") for i in range(walks)]
    actions = torch.from_numpy(shards.actions[:walks].astype(np.int64))
    poses = torch.from_numpy(shards.poses[:walks].astype(np.float64))
    true = torch.stack([poses[..., 2].deg2rad(), poses[..., 0] / CELL, poses[..., 1] / CELL], -1)
    start = torch.zeros(walks, 3, dtype=torch.float64)
    led = dead_reckon(start, actions[:, :-1, 0], actions[:, :-1, 1], ActionScale())
    reckoned = torch.cat([start[:, None], led], dim=1)
    return LatentWalks(torch.stack(latents), actions, reckoned, true)


def _claim(cache: Path, shards: Recordings, codec: Codec) -> None:
    """Make the cache, or make sure that it is of these recordings and this codec."""
    probe = codec.encode(torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 1, 64, 64))
    owner = {
        "codec": hashlib.sha256(probe.bfloat16().float().numpy().tobytes()).hexdigest()[:16],
        "recordings": {name: shards.meta.get(name) for name in ("seed", "split")},
    }
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / "owner.json"
    if not path.exists():
        path.write_text(json.dumps(owner))
    elif json.loads(path.read_text()) != owner:
        raise LociError(f"{cache}: latents of another codec or other recordings; remove the folder")


def _encoded(frames: np.ndarray, codec: Codec, path: Path) -> Tensor:
    if path.exists():
        return torch.from_numpy(np.load(path))
    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)[None]
    latents = codec.encode(video.float() / 127.5 - 1)[0].transpose(0, 1).half()
    # A draft of its own for each process: several may encode the same walk at a time.
    with replacing(path) as draft, open(draft, "wb") as file:
        np.save(file, latents.numpy())
    return latents
