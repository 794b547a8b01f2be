"""Walks through held-out Doom maps that return, and how a world continues them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from loci.envs.doom.engine import FULL_TURN, TURN, TURN_SIGN, UNSET_FOV, RenderSettings, film
from loci.envs.doom.walks import spin, there_and_back
from loci.io.frames import fit, frames_to_tensor
from loci.memory.poses import dead_reckon
from loci.train.world.batches import OUT_OF_SIGHT
from loci.world.latent_world import WalkState
from loci.world.world import World

Kind = Literal["spin", "walk"]
KINDS: tuple[Kind, ...] = ("spin", "walk")
# Odd, so held out from training; far from the maps that recordings with low seeds hold out.
_FIRST_MAP = 2_000_000_001
# A walk without turns needs no memory: on the way back at least this share must be out of sight.
_HIDDEN_SHARE, _TRIES = 0.5, 16


@dataclass(frozen=True)
class Trial:
    """A walk that returns. Frames 0 to `split` are given, the others are to be generated.

    Attributes:
        kind: spin or walk.
        length: actions in all.
        split: the last given frame.
        frames: frames of the engine.
        other_map: frames of another map, under the same actions.
        actions: ids (move, view).
        earlier_match: for every frame after `split`, the earlier frame that was taken at its pose.
        hidden: whether its view is out of sight at frame `split`.
    """

    kind: Kind
    length: int
    split: int
    frames: UInt8[np.ndarray, "n h w 3"]
    other_map: UInt8[np.ndarray, "n h w 3"]
    actions: Int[np.ndarray, "n-1 2"]
    earlier_match: Int[np.ndarray, "k"]
    hidden: Bool[np.ndarray, "k"]

    @property
    def given(self) -> tuple[UInt8[np.ndarray, "m h w 3"], Int[np.ndarray, "m-1 2"]]:
        """The given frames, and the actions between them."""
        return self.frames[: self.split + 1], self.actions[: self.split]

    @property
    def way_back(self) -> Int[np.ndarray, "k 2"]:
        """The actions after frame `split`."""
        return self.actions[self.split :]

    @property
    def truth(self) -> UInt8[np.ndarray, "k h w 3"]:
        """The engine's frames after `split`."""
        return self.frames[self.split + 1 :]


def held_out_maps(count: int, seed: int) -> list[int]:
    """Seeds of maps that no recording uses."""
    return [_FIRST_MAP + 2 * (1000 * seed + k) for k in range(count)]


def film_for(
    world: World, map_seed: int, actions: Int[np.ndarray, "n 2"]
) -> tuple[UInt8[np.ndarray, "n+1 h w 3"], Float[np.ndarray, "n+1 3"]]:
    """Frames and poses of the engine, with the size and field of view the model was trained on.

    Raises:
        LociError: when ViZDoom is missing.
    """
    small = world.size is None or min(world.size) <= 64
    rendering = RenderSettings(64 if small else 128, world.config.fov or UNSET_FOV)
    frames, poses = film(map_seed, actions, rendering=rendering)
    return resized(frames, world.size or (rendering.size, rendering.size)), poses


def resized(
    frames: UInt8[np.ndarray, "n h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "n h2 w2 3"]:
    """Frames of another size, if they are not of that size already."""
    if frames.shape[1:3] == size:
        return frames
    return np.stack([fit(frame, size) for frame in frames])


def make_trial(kind: Kind, length: int, map_seed: int, other_map: int, world: World) -> Trial:
    """A trial of `length` actions in the frames of a world.

    A walk goes out with one half of its actions and back with the other. A spin turns on the spot;
    its last full turn, or what exceeds the first, is the way back. A view is hidden when it looks
    more than 40 degrees away from the view at frame `split`.

    Raises:
        LociError: when ViZDoom is missing.
    """
    after = np.arange(1, length + 1)
    if kind == "spin":
        actions, split = spin(length), max(FULL_TURN, length - FULL_TURN)
        earlier_match = after[split:] - FULL_TURN
    else:
        actions, split = _turning_walk(map_seed, length), length // 2
        earlier_match = length - after[split:]
    frames, other = (film_for(world, m, actions)[0] for m in (map_seed, other_map))
    hidden = _hidden(actions, split)
    return Trial(kind, length, split, frames, other, actions, earlier_match, hidden)


def _turning_walk(map_seed: int, length: int) -> Int[np.ndarray, "n 2"]:
    """The first walk of this map of whose way back enough is hidden, or else the best."""
    walks = [there_and_back(map_seed, length, seed) for seed in range(_TRIES)]
    shares = [_hidden(walk, length // 2).mean() for walk in walks]
    enough = [share >= _HIDDEN_SHARE for share in shares]
    return walks[int(np.argmax(enough if any(enough) else shares))]


def _hidden(actions: Int[np.ndarray, "n 2"], split: int) -> Bool[np.ndarray, "k"]:
    """Which frames after `split` look elsewhere than that frame."""
    turned = np.radians(TURN) * np.cumsum([TURN_SIGN[view] for view in actions[split:, 1].tolist()])
    return np.abs(np.angle(np.exp(1j * turned))) > OUT_OF_SIGHT


@torch.no_grad()
def encode_history(
    world: World,
    frames: UInt8[np.ndarray, "n h w 3"],
    actions: Int[np.ndarray, "n-1 2"],
    seed: int,
) -> WalkState:
    """The state of a walk whose history are these frames, the last of them now."""
    prompt = world.start(frames[0], seed).prompt
    latents, codec = world.codec.encode_stream(frames_to_tensor(frames).to(world.device))
    return world.start_from_latents(latents, _poses(world, actions), seed, prompt, codec)


def rollout(
    world: World, state: WalkState, actions: Int[np.ndarray, "n 2"]
) -> tuple[UInt8[np.ndarray, "n h w 3"], WalkState]:
    """One frame for every action, and the last state."""
    chunks = list(world.walk(state, actions))
    return np.concatenate([frames for frames, _ in chunks]), chunks[-1][1]


def _poses(world: World, actions: Int[np.ndarray, "n 2"]) -> Tensor | None:
    if world.config.action_scale is None:
        return None
    start = torch.zeros(1, 3, dtype=torch.float64)
    move, view = torch.from_numpy(actions)[None].unbind(-1)
    poses = dead_reckon(start, move, view, world.config.action_scale)
    return torch.cat([start[:, None], poses], dim=1)
