"""Walks that come back, through held-out Doom maps: what was seen, and what is seen again."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from loci.actions.reckoning import reckon
from loci.data.doom import film
from loci.data.doom_steps import FULL_TURN, TURN, TURN_SIGN
from loci.data.revisits import OUT_OF_SIGHT
from loci.data.scripted import spin, there_and_back
from loci.world.picture import fit, frames_to_tensor
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
    led = reckon(state.pose, move, view, world.config.stride)
    return torch.cat([state.pose[:, None], led], dim=1)
