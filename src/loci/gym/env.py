"""One walk as a Gymnasium environment.

One step holds an action for a number of frames, by default a whole chunk, since a world makes whole
chunks whatever is asked. The state of a walk is immutable: `clone_state` and `restore_state` cost
nothing, so a planner can try an action and take it back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Int, UInt8

from loci.actions import MOVES, VIEWS
from loci.errors import LociError
from loci.io.models import SHIPPED
from loci.world.world import WalkState, World

MIN_FRAMES = 2
"""Frames a step at least: walks whose steps are single frames lose their contrast."""

Observation = UInt8[np.ndarray, "h w 3"]
Reward = Callable[[Observation, dict[str, Any]], float]
"""From an observation and its info to the reward of the step that led there."""


class WalkEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Walks through a picture.

    Observations are the newest frame, uint8 `[h, w, 3]`. Actions are a move and a view, counted
    among those that the model knows (`moves`, `views`). Walks never end by themselves: wrap the
    environment in `TimeLimit`. `info` holds `pose` (heading in radians, x, y in the world's units,
    dead-reckoned), `frames` (all of the step, uint8 `[n, h, w, 3]`; after a reset the start picture
    as often) and `frame` (the number of the last).

    Args:
        picture: where walks begin, as `World.start` takes it; the model's example if left out.
        model: a name, folder or hub id; or a `World`.
        speed: preset to sample with.
        frames: how many frames an action is held, 2 to the model's chunk; a chunk if left out.
        reward: of every step; 0 if left out.
        render_mode: "rgb_array" or None.

    Raises:
        LociError: when the model or the picture cannot be read, or for another number of frames.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self,
        picture: Any = None,
        model: str | Path | World = "doom",
        speed: str = "faster",
        frames: int | None = None,
        reward: Reward | None = None,
        render_mode: str | None = None,
    ) -> None:
        world = model if isinstance(model, World) else World.from_pretrained(model)
        self.world = world.at_speed(speed)
        self.picture = _example(model) if picture is None else picture
        self.frames = world.chunk_frames if frames is None else frames
        if not MIN_FRAMES <= self.frames <= world.chunk_frames:
            raise LociError(
                f"frames {frames}, expected {MIN_FRAMES} to {world.chunk_frames} a step"
            )
        if render_mode not in (None, "rgb_array"):
            raise LociError(f"render_mode {render_mode!r}, expected 'rgb_array' or None")
        self.reward, self.render_mode = reward, render_mode
        self.metadata = {**self.metadata, "render_fps": world.fps / self.frames}
        self.moves, self.views = known(world)
        self.action_space = spaces.MultiDiscrete([len(self.moves), len(self.views)])
        state = self.world.start(self.picture)
        self._state, self._frame = state, self.world.newest_frame(state)
        self.observation_space = spaces.Box(0, 255, self._frame.shape, np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a walk.

        Args:
            seed: of the walk as well; without one, the next of the environment's generator.
            options: `picture` to begin in, or `state` (of `clone_state`) to go on from.
        """
        super().reset(seed=seed)
        options = options or {}
        if "state" in options:
            self.restore_state(options["state"])
            return self._frame, self._info(self._standing)
        of_walk = seed if seed is not None else int(self.np_random.integers(2**31))
        self._state = self.world.start(options.get("picture", self.picture), seed=of_walk)
        self._frame = self.world.newest_frame(self._state)
        return self._frame, self._info(self._standing)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold an action for `frames` frames."""
        return self.arrive(*self.world.step(self._state, self.held(action)))

    def held(self, action: np.ndarray) -> Int[np.ndarray, "n 2"]:
        """The ids of the moves and views of a step."""
        return np.repeat(np.array([self.ids(action)]), self.frames, axis=0)

    def arrive(
        self, frames: UInt8[np.ndarray, "n h w 3"], state: WalkState
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """What `step` returns for the frames that the world made of it and the walk after them."""
        self._state, self._frame = state, frames[-1]
        info = self._info(frames)
        reward = 0.0 if self.reward is None else float(self.reward(self._frame, info))
        return self._frame, reward, False, False, info

    def render(self) -> Any:
        """The newest frame, for `render_mode="rgb_array"`."""
        return self._frame if self.render_mode == "rgb_array" else None

    def ids(self, action: np.ndarray) -> tuple[int, int]:
        """Move and view ids (`loci.actions`) of an action."""
        move, view = (int(index) for index in np.asarray(action))
        return self.moves[move], self.views[view]

    def clone_state(self) -> tuple[WalkState, np.ndarray]:
        """Where the walk stands."""
        return self._state, self._frame

    def restore_state(self, state: tuple[WalkState, np.ndarray]) -> None:
        """Go back to where `clone_state` was called; nothing after it is remembered."""
        self._state, self._frame = state

    @property
    def _standing(self) -> UInt8[np.ndarray, "n h w 3"]:
        return np.repeat(self._frame[None], self.frames, axis=0)

    def _info(self, frames: UInt8[np.ndarray, "n h w 3"]) -> dict[str, Any]:
        pose = self._state.pose[0].cpu().numpy().astype(np.float64)
        return {"pose": pose, "frames": frames, "frame": self._state.frame_count - 1}


class FlatActions(gymnasium.ActionWrapper[np.ndarray, np.integer, np.ndarray]):
    """One number for an action: every move without a turn, every turn without a move."""

    def __init__(self, env: WalkEnv) -> None:
        super().__init__(env)
        moves = [(k, 0) for k in range(len(env.moves))]
        views = [(0, k) for k in range(1, len(env.views))]
        self.pairs: Int[np.ndarray, "n 2"] = np.array(moves + views)
        self.action_space = spaces.Discrete(len(self.pairs))
        walk = env
        self.names = [_name(*walk.ids(pair)) for pair in self.pairs]

    def action(self, action: np.integer) -> np.ndarray:
        """The move and the view."""
        return self.pairs[int(action)]


def known(world: World) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of the moves and views that a world knows, standing still first, "uncertain" left out."""
    config = world.config
    moves = config.moves or tuple(range(len(MOVES) - 1))
    views = config.views or tuple(range(len(VIEWS) - 1))
    return tuple(sorted(moves)), tuple(sorted(views))


def _example(model: str | Path | World) -> Path:
    path = SHIPPED / ("doom" if isinstance(model, World) else str(model)) / "example.png"
    if not path.is_file():
        raise LociError("picture: none, and this model has no example of its own")
    return path


def _name(move: int, view: int) -> str:
    return VIEWS[view] if move == 0 and view else MOVES[move]
