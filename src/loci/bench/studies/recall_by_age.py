"""Recall of a world by how long ago a view was seen, from recorded walks that are continued.

A trial is a history of some length and the frames that follow it. Views count that were seen in the
older half of the history, not since, and cannot be seen from its last frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loci.codecs.base import Codec
from loci.data.latents import LatentWalks
from loci.errors import LociError
from loci.train.world.batches import NEAR_DISTANCE, NEAR_RADIANS, OUT_OF_SIGHT
from loci.world.config import WorldConfig
from loci.world.latent_world import LatentWorld
from loci.world.transformer import WorldTransformer

HISTORIES = (64, 128, 256, 512, 1024)
"""Lengths of the histories, in frames: a view was seen between half as many and as many ago."""
FRAMES = 16
"""New frames of a trial."""
MAX_VIEWS = 96
"""Most views of each kind that are decoded for one history length."""
CANDIDATES = 16
"""Views that a generated one is compared with: the true one among others."""
Recall = dict[str, float | int | None]


@dataclass(frozen=True)
class AgeTrial:
    """A walk and the index of its last given frame; which of the new frames were seen in the older
    half of the history alone, and which never."""

    walk: int
    now: int
    seen: Bool[np.ndarray, "frames"]
    new: Bool[np.ndarray, "frames"]


def choose_trials(
    poses: Float[np.ndarray, "walks t 3"], history: int, count: int, rng: np.random.Generator
) -> list[AgeTrial]:
    """At most `count` trials whose new frames show views seen in the older half of the history.

    Args:
        poses: heading in radians, x and y in cells.
        history: its length in frames.
        count: how many trials.
        rng: which of those that fit.
    """
    found = []
    for walk, path in enumerate(poses):
        for now in range(history, len(path) - FRAMES, 8):
            seen, new = _views(path[now - history : now + FRAMES + 1], history)
            if seen.sum() >= FRAMES // 4:
                found.append(AgeTrial(walk, now, seen, new))
    chosen = sorted(rng.permutation(len(found))[:count].tolist())
    return [found[i] for i in chosen]


def _views(
    path: Float[np.ndarray, "t 3"], history: int
) -> tuple[Bool[np.ndarray, "frames"], Bool[np.ndarray, "frames"]]:
    """Which frames after the history were seen in its older half alone, and which never; of those
    that cannot be seen from its last frame."""
    past, here, ahead = path[: history + 1], path[history], path[history + 1 :]
    apart = np.hypot(ahead[:, None, 1] - past[None, :, 1], ahead[:, None, 2] - past[None, :, 2])
    same = (apart < NEAR_DISTANCE) & (_turn(ahead[:, None, 0], past[None, :, 0]) < NEAR_RADIANS)
    hidden = _turn(ahead[:, 0], here[0]) > OUT_OF_SIGHT
    old, recent = same[:, : history // 2].any(axis=1), same[:, history // 2 :].any(axis=1)
    return old & ~recent & hidden, ~old & ~recent & hidden


def _turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs((a - b + np.pi) % (2 * np.pi) - np.pi)


@torch.no_grad()
def measure_recall(
    model: WorldTransformer, config: WorldConfig, walks: LatentWalks, codec: Codec, count: int
) -> Recall:
    """Recall for every length of history that the walks allow.

    Returns:
        By length n: `seen_n`, PSNR in dB of views seen long ago; `empty_n`, the same with the
        memory emptied; `new_n`, of views never seen; `found_n`, how often the generated view is
        nearest to the true one among 16 (chance 0.06); and `views_n`. PSNR is against the true
        latents as the codec decodes them.

    Raises:
        LociError: when the walks return to no view.
    """
    world, result = LatentWorld(config, model.eval()), {}
    poses = walks.true_poses.numpy()
    for history in HISTORIES:
        trials = choose_trials(poses, history, count, np.random.default_rng([7, history]))
        if trials:
            figures = _continued(world, walks, trials, history, codec)
            result |= {f"{name}_{history}": value for name, value in figures.items()}
    if not result:
        raise LociError("held-out walks return to no view that they saw long ago")
    return result


def _continued(
    world: LatentWorld, walks: LatentWalks, trials: list[AgeTrial], history: int, codec: Codec
) -> Recall:
    rows = torch.tensor([trial.walk for trial in trials])[:, None]
    now = torch.tensor([trial.now for trial in trials])[:, None]
    past, ahead = now + torch.arange(-history, 1), now + torch.arange(1, FRAMES + 1)
    latents = walks.latents[rows, past].float().transpose(1, 2)
    poses, actions = walks.poses[rows, past], walks.actions[rows, ahead - 1]
    true = walks.latents[rows, ahead].float()
    full = world.start_from_latents(latents, poses)
    # The same last frame, and nothing before it.
    emptied = world.start_from_latents(latents[:, :, -1:], poses[:, -1:])
    made = _generate(world, full, actions)
    without = _generate(world, emptied, actions)
    seen = torch.from_numpy(np.stack([trial.seen for trial in trials]))
    new = torch.from_numpy(np.stack([trial.new for trial in trials]))
    shown = _decode(codec, true[seen])
    return {
        "seen": _psnr(_decode(codec, made[seen]), shown),
        "empty": _psnr(_decode(codec, without[seen]), shown),
        "new": _psnr(_decode(codec, made[new]), _decode(codec, true[new])) if new.any() else None,
        "found": _nearest(made[seen], true[seen]),
        "views": int(seen.sum()),
    }


def _generate(world: LatentWorld, state: object, actions: Tensor) -> Float[Tensor, "b n c h w"]:
    parts = [part for part, _ in world.walk_latents(state, actions)]  # type: ignore[arg-type]
    return torch.cat(parts, dim=2).transpose(1, 2)


def _decode(codec: Codec, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 h w"]:
    step = max(1, -(-len(latents) // MAX_VIEWS))
    parts = latents[::step].split(32)
    return torch.cat([codec.decode(part[:, :, None])[:, :, 0] for part in parts]).clamp(-1, 1)


def _psnr(made: Tensor, true: Tensor) -> float:
    """The mean over views, in dB, against the true latents as the codec decodes them."""
    return float((10 * torch.log10(4 / (made - true).square().mean(dim=(1, 2, 3)))).mean())


def _nearest(made: Float[Tensor, "n c h w"], true: Float[Tensor, "n c h w"]) -> float:
    """How often the true view is nearest, in latents, among `CANDIDATES` spread over all views."""
    count = len(made)
    step = max(1, count // CANDIDATES)
    others = (torch.arange(count)[:, None] + step * torch.arange(CANDIDATES)) % count
    distance = (made[:, None] - true[others]).square().flatten(2).mean(dim=2)
    return float((distance.argmin(dim=1) == 0).double().mean())
