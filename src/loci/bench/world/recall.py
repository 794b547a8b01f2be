"""Walks that come back, through held-out Doom maps: what was seen, and what is seen again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from loci.bench.metrics import Features, cosine_distance, psnr, ssim
from loci.bench.world.variants import TIME, variants
from loci.envs.doom.engine import FULL_TURN, TURN, TURN_SIGN, film
from loci.envs.doom.walks import spin, there_and_back
from loci.io.frames import fit, frames_to_tensor, tensor_to_frames
from loci.memory.poses import dead_reckon
from loci.memory.token_cache import MemoryTokens
from loci.train.world.batches import OUT_OF_SIGHT
from loci.world.world import WalkState, World

Kind = Literal["spin", "walk"]
KINDS: tuple[Kind, ...] = ("spin", "walk")
# Odd, so held out from training; and far from the maps that recordings of low seeds hold out.
_FIRST_MAP = 2_000_000_001
# A walk that hardly turns has nothing to remember: this share of the way back is to be hidden.
_HIDDEN_SHARE, _TRIES = 0.5, 16


@dataclass(frozen=True)
class Trial:
    """A walk of known frames, of which those after `known` are views of places seen before.

    `same` tells for every frame after `known` which earlier frame was taken at its pose, `hidden`
    whether its view cannot be seen from frame `known`. `wrong` are the frames of another map
    under the same actions, so that their reckoned poses are the same.
    """

    kind: Kind
    length: int
    known: int
    frames: UInt8[np.ndarray, "n h w 3"]
    wrong: UInt8[np.ndarray, "n h w 3"]
    actions: Int[np.ndarray, "n-1 2"]
    same: Int[np.ndarray, "k"]
    hidden: Bool[np.ndarray, "k"]

    @property
    def back(self) -> Int[np.ndarray, "k 2"]:
        """The actions that lead over the frames after `known`."""
        return self.actions[self.known :]

    @property
    def truth(self) -> UInt8[np.ndarray, "k h w 3"]:
        """The true frames after `known`."""
        return self.frames[self.known + 1 :]


def held_out_maps(count: int, seed: int) -> list[int]:
    """Seeds of maps that no recording uses."""
    return [_FIRST_MAP + 2 * (1000 * seed + k) for k in range(count)]


def make_trial(
    kind: Kind, length: int, map_seed: int, other_map: int, size: tuple[int, int]
) -> Trial:
    """A trial of `length` actions, filmed.

    A walk is out and back through the rooms, one half each. A spin goes round on the spot; its
    last full turn, or what exceeds the first, is the way back. A view is hidden when it looks
    more than 40 degrees away from where frame `known` looks.

    Raises:
        LociError: when ViZDoom is missing.
    """
    after = np.arange(1, length + 1)
    if kind == "spin":
        actions, known = spin(length), max(FULL_TURN, length - FULL_TURN)
        same = after[known:] - FULL_TURN
    else:
        actions, known = _turning_walk(map_seed, length), length // 2
        same = length - after[known:]
    frames, wrong = (fitted(film(m, actions)[0], size) for m in (map_seed, other_map))
    return Trial(kind, length, known, frames, wrong, actions, same, _hidden(actions, known))


def _turning_walk(map_seed: int, length: int) -> Int[np.ndarray, "n 2"]:
    """The first walk of this map whose way back is for a good part out of sight, if any is."""
    walks = [there_and_back(map_seed, length, seed) for seed in range(_TRIES)]
    shares = [_hidden(walk, length // 2).mean() for walk in walks]
    enough = [share >= _HIDDEN_SHARE for share in shares]
    return walks[int(np.argmax(enough if any(enough) else shares))]


def _hidden(actions: Int[np.ndarray, "n 2"], known: int) -> Bool[np.ndarray, "k"]:
    """Which frames after `known` look elsewhere than that frame."""
    turned = np.radians(TURN) * np.cumsum([TURN_SIGN[view] for view in actions[known:, 1].tolist()])
    return np.abs(np.angle(np.exp(1j * turned))) > OUT_OF_SIGHT


def fitted(
    frames: UInt8[np.ndarray, "n h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "n h2 w2 3"]:
    """Frames of another size, if they are not of that size already."""
    if frames.shape[1:3] == size:
        return frames
    return np.stack([fit(frame, size) for frame in frames])


@torch.no_grad()
def remember(
    world: World,
    frames: UInt8[np.ndarray, "n h w 3"],
    actions: Int[np.ndarray, "n-1 2"],
    seed: int,
) -> WalkState:
    """The state of a walk in which all these true frames were seen, the last of them now."""
    state = world.start(frames[0], seed)
    latents, codec = world.codec.encode_stream(frames_to_tensor(frames).to(state.local.device))
    poses = _poses(world, state, actions)
    known = latents.shape[2] - int(world.config.lag)
    memory = world.memory.empty()
    if known:
        where = None if poses is None else poses[:, :known]
        memory = world.memory.append(memory, latents[:, :, :known], where)
    return replace(
        state,
        frames=len(frames),
        memory=memory,
        codec=codec,
        local=latents[:, :, -1:].clone(),
        pose=state.pose if poses is None else poses[:, -1],
    )


def walk_on(
    world: World, state: WalkState, actions: Int[np.ndarray, "n 2"]
) -> tuple[UInt8[np.ndarray, "n h w 3"], WalkState]:
    """Generate one frame for every action, chunk by chunk."""
    made = []
    for at in range(0, len(actions), world.chunk):
        following = actions[at + world.chunk : at + world.chunk + 1]
        ahead = following[0] if len(following) else None
        frames, state = world.step(state, actions[at : at + world.chunk], ahead)
        made.append(frames)
    return np.concatenate(made), state


def _poses(world: World, state: WalkState, actions: Int[np.ndarray, "n 2"]) -> Tensor | None:
    if world.config.stride is None:
        return None
    move, view = torch.from_numpy(actions)[None].unbind(-1)
    led = dead_reckon(state.pose, move, view, world.config.stride)
    return torch.cat([state.pose[:, None], led], dim=1)


VARIANTS = ("hpmc", "keepsakes", "age", "none", "wrong", "window", "stride", "raw", TIME, "ceiling")
MEASURES = ("psnr", "ssim", "feature_distance")
Means = dict[str, float | None]


@dataclass
class Tally:
    """Scores of single frames under (measure, kind, length, variant)."""

    scores: dict[tuple[str, str, int, str], list[Float[np.ndarray, "n"]]] = field(
        default_factory=dict
    )

    def add(self, measure: str, trial: Trial, variant: str, values: Float[np.ndarray, "n"]) -> None:
        key = (measure, trial.kind, trial.length, variant)
        self.scores.setdefault(key, []).append(values)

    def means(
        self, measure: str, names: Iterable[str], kind: str | None = None, length: int | None = None
    ) -> Means:
        """By variant, over every frame of the trials asked for; None where there is none."""
        found: Means = {}
        for name in names:
            parts = [
                values
                for (what, k, n, variant), listed in self.scores.items()
                if what == measure and variant == name and kind in (None, k) and length in (None, n)
                for values in listed
            ]
            pooled = np.concatenate(parts) if parts else np.empty(0)
            found[name] = float(pooled.mean()) if len(pooled) else None
        return found


def recall(
    tally: Tally,
    world: World,
    time_world: World | None,
    trial: Trial,
    features: Features,
    seed: int,
) -> None:
    """The way out is the engine's, the way back is generated and compared with the engine's.

    Only hidden views count. `time` is another world, with its own shipped memory; `ceiling` what
    is left of the true frames after the codec.
    """
    if not trial.hidden.any():
        return
    seen = trial.frames[: trial.known + 1], trial.actions[: trial.known]
    worlds = variants(world, _codes(world, trial))
    if time_world is not None:
        worlds[TIME] = time_world
    true_features = features(trial.truth[trial.hidden])
    shown = {
        name: walk_on(variant, remember(variant, *seen, seed), trial.back)[0]
        for name, variant in worlds.items()
    }
    shown["ceiling"] = reconstructed(world, trial.truth)
    for name, frames in shown.items():
        _score(tally, trial, name, frames, features, true_features)


def self_consistency(tally: Tally, worlds: dict[str, World], trial: Trial, seed: int) -> None:
    """All is generated, from the first picture on: is the way back like the way out?"""
    for name, world in worlds.items():
        start = world.start(trial.frames[0], seed)
        made, _ = walk_on(world, start, trial.actions)
        frames = np.concatenate([trial.frames[:1], made])
        then, now = frames[trial.same], frames[trial.known + 1 :]
        tally.add("self_psnr", trial, name, psnr(now[trial.hidden], then[trial.hidden]))


def reconstructed(
    world: World, frames: UInt8[np.ndarray, "n h w 3"]
) -> UInt8[np.ndarray, "n h w 3"]:
    """Frames encoded and decoded again."""
    device = world.transformer.patch_embedding.weight.device
    return tensor_to_frames(
        world.codec.decode(world.codec.encode(frames_to_tensor(frames).to(device)))
    )


def _codes(world: World, trial: Trial) -> MemoryTokens:
    """What is remembered of the other scene."""
    actions = trial.actions[: trial.known]
    state = remember(world, trial.wrong[: trial.known + 1], actions, seed=0)
    return world.memory.codes(state.memory)


def _score(
    tally: Tally,
    trial: Trial,
    name: str,
    frames: UInt8[np.ndarray, "n h w 3"],
    features: Features,
    true_features: Float[np.ndarray, "n d"],
) -> None:
    made, true = frames[trial.hidden], trial.truth[trial.hidden]
    tally.add("psnr", trial, name, psnr(made, true))
    tally.add("ssim", trial, name, ssim(made, true))
    tally.add("feature_distance", trial, name, cosine_distance(features(made), true_features))


def breakdown(tally: Tally, names: Sequence[str], measures: Sequence[str]) -> dict[str, dict]:
    """Means by kind and length: {kind: {length: {measure: {variant: mean}}}, "all" lengths last."""
    keys = sorted(
        {(kind, length) for measure, kind, length, _ in tally.scores if measure in measures}
    )
    found: dict[str, dict] = {kind: {} for kind, _ in keys}
    for kind, length in keys:
        found[kind][str(length)] = {m: tally.means(m, names, kind, length) for m in measures}
    for kind, lengths in found.items():
        lengths["all"] = {m: tally.means(m, names, kind) for m in measures}
    return found
