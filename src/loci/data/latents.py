"""Recorded walks as latents, encoded once and kept in a cache that is mapped into memory."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, Int
from torch import Tensor

from loci.codecs.base import Codec
from loci.data.recordings import Recordings
from loci.errors import LociError
from loci.memory.poses import ActionScale, dead_reckon

LATENTS, ENCODED, OWNER = "latents.npy", "encoded.npy", "owner.json"
EncodeWalks = Callable[[Sequence[int]], Iterable[tuple[int, np.ndarray]]]
"""Gives the latents of the walks asked for, as they are done."""


@dataclass(frozen=True)
class LatentWalks:
    """Walks of equal length. Latents are read from disk when they are indexed.

    Attributes:
        latents: in half precision.
        actions: move and view ids; `actions[:, t]` lead from latent t to t + 1.
        poses: what a model may use: dead-reckoned from the actions alone, as in a walk; or, of
            films, the measured ones, since uncertain actions tell nothing.
        true_poses: the environment's, to choose training targets and to evaluate; dead-reckoned
            where it knows none.
        history: what a model is shown as its past, if not the recorded latents (self-forcing).
    """

    latents: Float[Tensor, "e t c h w"]
    actions: Int[Tensor, "e t 2"]
    poses: Float[Tensor, "e t 3"]
    true_poses: Float[Tensor, "e t 3"]
    history: Float[Tensor, "e t c h w"] | None = None

    @property
    def past(self) -> Float[Tensor, "e t c h w"]:
        """What a model is shown as its past."""
        return self.latents if self.history is None else self.history

    @property
    def count(self) -> int:
        return self.latents.shape[0]

    @property
    def length(self) -> int:
        return self.latents.shape[1]


def latent_walks(
    recordings: Recordings, codec: Codec, cache: Path, walks: int, scale: ActionScale | None = None
) -> LatentWalks:
    """The first `walks` recorded walks, encoded frame by frame.

    The cache is found by a hash of the recordings and of the codec's weights, so that another
    recording or codec never gets these latents. Encoding resumes after a kill, and a larger
    `walks` adds to what is there.

    Args:
        recordings: to encode.
        codec: with one latent per frame.
        cache: the folder of all caches.
        walks: how many.
        scale: what an action does in one frame; by default as the recordings say.

    Raises:
        LociError: when there are fewer walks, their units are unknown, or the codec takes several
            frames to a latent.
    """
    available = recordings.frames.shape[0]
    scale = scale or recordings.info.action_scale
    if walks > available:
        raise LociError(f"{walks} walks asked for, but the shards hold {available}")
    if scale is None:
        raise LociError("recordings lack action_scale, the units of their actions")
    if codec.temporal_factor != 1:
        raise LociError("latents of walks need a codec with a latent for every frame")
    folder = fill_cache(recordings, codec, cache, walks)
    # Writable for torch, but never written to the file.
    latents = torch.from_numpy(np.load(folder / LATENTS, mmap_mode="c"))[:walks]
    actions = torch.from_numpy(recordings.actions[:walks].astype(np.int64))
    start = torch.zeros(walks, 3, dtype=torch.float64)
    reckoned = dead_reckon(start, actions[:, :-1, 0], actions[:, :-1, 1], scale)
    poses = torch.cat([start[:, None], reckoned], dim=1)
    true_poses = poses
    if recordings.poses is not None:
        true_poses = torch.from_numpy(recordings.info.model_poses(recordings.poses[:walks]))
    if recordings.addressed_by == "poses":
        poses = true_poses
    return LatentWalks(latents, actions, poses, true_poses)


def join_walks(parts: Sequence[LatentWalks]) -> LatentWalks:
    """All walks of several sets; of more than one, the latents are read into memory."""
    if len(parts) == 1:
        return parts[0]
    return LatentWalks(
        torch.cat([part.latents for part in parts]),
        torch.cat([part.actions for part in parts]),
        torch.cat([part.poses for part in parts]),
        torch.cat([part.true_poses for part in parts]),
    )


def fill_cache(
    recordings: Recordings, codec: Codec, cache: Path, walks: int, encode: EncodeWalks | None = None
) -> Path:
    """Encodes those of the first `walks` walks that a cache lacks; returns the cache's folder.

    Args:
        recordings, codec, cache, walks: as for `latent_walks`.
        encode: gives each of the walks asked for with its latents, in any order; by default here,
            one after the other.

    Raises:
        LociError: when the cache cannot be written or is damaged.
    """
    folder = cache / _key(recordings, codec)
    if not folder.is_dir():
        _create(folder, recordings, codec)
    try:
        latents = np.load(folder / LATENTS, mmap_mode="r+")
        encoded = np.load(folder / ENCODED, mmap_mode="r+")
    except (OSError, ValueError) as error:
        raise LociError(f"{folder}: damaged latents; remove the folder") from error

    def here(missing: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((walk, encode_walk(recordings, codec, walk)) for walk in missing)

    missing = [walk for walk in range(walks) if not encoded[walk]]
    for walk, found in (encode or here)(missing) if missing else ():
        latents[walk] = found
        latents.flush()  # before it is said to be there
        encoded[walk] = 1
        encoded.flush()
    return folder


def encode_walk(recordings: Recordings, codec: Codec, walk: int) -> Float16[np.ndarray, "t c h w"]:
    """The latents of one walk."""
    return _encode(recordings.frames[walk], codec)


def _encode(frames: np.ndarray, codec: Codec) -> np.ndarray:
    video = torch.from_numpy(np.array(frames)).permute(3, 0, 1, 2)[None]
    latents = codec.encode(video.to(_device(codec)).float() / 127.5 - 1)
    return latents[0].transpose(0, 1).half().cpu().numpy()


def _device(codec: Codec) -> torch.device:
    return next(iter(codec.state_dict().values())).device


def _create(folder: Path, recordings: Recordings, codec: Codec) -> None:
    """An empty cache, complete or not at all; several processes may try at a time."""
    walks, frames, height, width = recordings.frames.shape[:4]
    side = codec.spatial_factor
    shape = (walks, frames, codec.latent_channels, height // side, width // side)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.{threading.get_ident()}.part")
    owner = {"recordings": recordings.digest, "codec": asdict(codec.config), "walks": walks}
    try:
        draft.mkdir(parents=True)
        np.lib.format.open_memmap(draft / LATENTS, "w+", np.float16, shape).flush()
        np.save(draft / ENCODED, np.zeros(walks, np.uint8))
        (draft / OWNER).write_text(json.dumps(owner, indent=2))
        os.replace(draft, folder)
    except OSError as error:
        if not folder.is_dir():
            raise LociError(f"{folder}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _key(recordings: Recordings, codec: Codec) -> str:
    """A hash of the recordings and of the codec: of its weights, since outputs depend on the
    processor."""
    digest = hashlib.sha256(recordings.digest.encode())
    digest.update(json.dumps(asdict(codec.config)).encode())
    for name, tensor in sorted(codec.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
