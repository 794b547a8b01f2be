"""Several walks of one world as a vector environment: one pass of the transformer for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from loci.errors import LociError
from loci.gym.env import Reward, WalkEnv
from loci.world.world import WalkState, World


class VectorWalkEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Walks through a picture, of one world; equal to as many `WalkEnv`s up to rounding.

    A walk that was truncated begins anew at the next step (`AutoresetMode.NEXT_STEP`).

    Args:
        num_envs: how many walks.
        max_episode_steps: after which a walk is truncated; never if left out.
        picture, model, speed, frames, reward, render_mode: as for `WalkEnv`.

    Raises:
        LociError: as `WalkEnv`, and for fewer than one walk.
    """

    metadata = {**WalkEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        picture: Any = None,
        model: str | Path | World = "doom",
        speed: str = "faster",
        frames: int | None = None,
        reward: Reward | None = None,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise LociError(f"num_envs {num_envs}, expected at least 1")
        first = WalkEnv(picture, model, speed, frames, reward, render_mode)
        same = (first.picture, first.world, speed, frames, reward, render_mode)
        self.walks = [first, *(WalkEnv(*same) for _ in range(num_envs - 1))]
        self.world = first.world
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": first.metadata["render_fps"]}
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, num_envs)
        self.action_space = batch_space(first.action_space, num_envs)
        self._steps = np.zeros(num_envs, np.int64)
        self._over = np.zeros(num_envs, bool)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin all walks.

        Args:
            seed: of the first walk; the others have the seeds after it. Or one for each.
            options: as for `WalkEnv`, for all walks.
        """
        if seed is None or isinstance(seed, int):
            super().reset(seed=seed)
            seeds = [None if seed is None else seed + k for k in range(self.num_envs)]
        else:
            seeds = list(seed)
        infos: dict[str, Any] = {}
        observations = []
        for k, (walk, its_seed) in enumerate(zip(self.walks, seeds, strict=True)):
            observation, info = walk.reset(seed=its_seed, options=options)
            observations.append(observation)
            infos = self._add_info(infos, info, k)
        self._steps[:], self._over[:] = 0, False
        return np.stack(observations), infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Hold an action of each walk for `frames` frames."""
        going = [k for k in range(self.num_envs) if not self._over[k]]
        states = [self.walks[k].clone_state()[0] for k in going]
        held = [self.walks[k].held(actions[k]) for k in going]
        made = dict(zip(going, self.world.generate_chunks(states, held), strict=True))
        rewards = np.zeros(self.num_envs)
        infos: dict[str, Any] = {}
        observations = []
        for k, walk in enumerate(self.walks):
            if k in made:
                observation, rewards[k], _, _, info = walk.arrive(
                    made[k].frames(), made[k].state_after()
                )
                self._steps[k] += 1
            else:
                observation, info = walk.reset()
                self._steps[k] = 0
            observations.append(observation)
            infos = self._add_info(infos, info, k)
        self._over = np.zeros(self.num_envs, bool)
        if self.max_episode_steps is not None:
            self._over = self._steps >= self.max_episode_steps
        terminations = np.zeros(self.num_envs, bool)
        return np.stack(observations), rewards, terminations, self._over.copy(), infos

    def render(self) -> Any:
        """The newest frame of each walk, for `render_mode="rgb_array"`."""
        return None if self.render_mode is None else tuple(walk.render() for walk in self.walks)

    def clone_state(self) -> list[tuple[WalkState, np.ndarray]]:
        """Where the walks stand."""
        return [walk.clone_state() for walk in self.walks]

    def restore_state(self, states: Sequence[tuple[WalkState, np.ndarray]]) -> None:
        """Go back to where `clone_state` was called; the count of steps goes on."""
        for walk, state in zip(self.walks, states, strict=True):
            walk.restore_state(state)
