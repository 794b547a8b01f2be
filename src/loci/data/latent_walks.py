"""Recorded walks as the world model sees them: latents, actions, reckoned and true poses."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.actions.reckoning import Stride, reckon
from loci.data.shards import DoomShards
from loci.errors import LociError
from loci.files import replacing
from loci.world.codec import Codec

CELL = 128.0


@dataclass(frozen=True)
class LatentWalks:
    """Walks of equal length, in memory.

    `reckoned` comes from the actions alone and is what a model may use; `true` comes from the
    engine and serves only to choose training targets and to judge. `history` is what a model is
    shown as its past, where that is not the truth (`train.own_history`).
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


def latent_walks(shards: DoomShards, codec: Codec, cache: Path, walks: int) -> LatentWalks:
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
    led = reckon(start, actions[:, :-1, 0], actions[:, :-1, 1], Stride())
    reckoned = torch.cat([start[:, None], led], dim=1)
    return LatentWalks(torch.stack(latents), actions, reckoned, true)


def _claim(cache: Path, shards: DoomShards, codec: Codec) -> None:
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
