"""Step caches to compare with: Fast-SAM3D, TaylorSeer and EasyCache."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from loci.acceleration.error_budget import is_last
from loci.acceleration.forecast import Anchored, Taylor, VelocityHistory
from loci.flow import State

FIXED_END = 24
"""The released code evaluates every step from this one on, however many steps there are."""


@dataclass(frozen=True)
class PublishedStepCacheConfig:
    """Modality-aware step caching of Fast-SAM3D (arXiv 2602.05293); defaults of its scripts.

    Args:
        mode: `released`, as its code does it, or `paper`.
        stride: after the warm-up one step in this many is evaluated.
        warmup: first steps that are always evaluated.
        order: order of the differences that are extrapolated.
        beta: weight of the extrapolation where layout is smoothed; the rest is the latest
            evaluated velocity. The released code computes this blend and discards it.
        layout: names of the tensors to smooth.
    """

    mode: Literal["released", "paper"] = "released"
    stride: int = 3
    warmup: int = 2
    order: int = 1
    beta: float = 0.5
    layout: tuple[str, ...] = ()

    def policy(self, *_: Any) -> "PublishedStepCache":
        """A policy for one run."""
        return PublishedStepCache(self)


class PublishedStepCache:
    """Extrapolates in the step number, whatever the guidance.

    `released` smooths nothing, evaluates the last step only in runs of 25 steps, and uses no
    differences in the last warmup - 1 steps. `paper` smooths layout towards the latest evaluation
    and always evaluates the last step.
    """

    def __init__(self, config: PublishedStepCacheConfig) -> None:
        self.config = config
        taylor = Taylor(config.order)
        smoothed = config.layout if config.mode == "paper" else ()
        self.history = VelocityHistory(
            taylor, dict.fromkeys(smoothed, Anchored(taylor, config.beta))
        )
        self.skipped = 0

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        c = self.config
        due = self.skipped == c.stride - 1 or step < c.warmup
        ends = step >= FIXED_END if c.mode == "released" else is_last(step, timesteps)
        if due or ends or not len(self.history):
            return None
        self.skipped += 1
        return self.history.forecast(step)

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        c = self.config
        if c.mode == "released" and step >= len(timesteps) - c.warmup + 1:
            self.history.clear()
        self.history.add(step, velocity)
        self.skipped = 0


class TaylorSeer:
    """Evaluates every `interval`-th step after a warm-up; others use a Taylor sum over steps.

    It extrapolates velocities instead of features inside the network, so it works with any model.
    """

    def __init__(self, interval: int = 3, order: int = 1, warmup: int = 2) -> None:
        self.interval, self.warmup = interval, warmup
        self.history, self.skipped = VelocityHistory(Taylor(order)), 0

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        due = self.skipped >= self.interval - 1 or step < self.warmup or is_last(step, timesteps)
        if due or not len(self.history):
            return None
        self.skipped += 1
        return self.history.forecast(step)

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        self.history.add(step, velocity)
        self.skipped = 0


class EasyCache:
    """Evaluates when the expected relative changes of the velocity add up to a threshold.

    The expected change is how far the state moved, times the change of velocity per change of
    state at the last evaluation; both are mean absolute values over all tensors. A skipped step
    keeps the difference of velocity and state (arXiv 2507.02860).
    """

    def __init__(self, threshold: float = 0.05, warmup: int = 2) -> None:
        self.threshold, self.warmup = threshold, warmup
        self.before: tuple[Tensor, Tensor] | None = None  # state and velocity one step ago
        self.rate: float | None = None
        self.offset: State = {}
        self.error = 0.0

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        if self.before is None or self.rate is None:
            return None
        if step < self.warmup or is_last(step, timesteps):
            return None
        now, (earlier, latest) = _flat(state), self.before
        self.error += self.rate * _size(now - earlier) / _size(latest)
        if self.error >= self.threshold:
            return None
        velocity = {name: x + self.offset[name] for name, x in state.items()}
        self.before = now, _flat(velocity)
        return velocity

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        now, new = _flat(state), _flat(velocity)
        if self.before is not None:
            earlier, latest = self.before
            self.rate = _size(new - latest) / _size(now - earlier)
        self.before, self.error = (now, new), 0.0
        self.offset = {name: v - state[name] for name, v in velocity.items()}


def _flat(state: State) -> Tensor:
    return torch.cat([x.flatten() for x in state.values()])


def _size(x: Tensor) -> float:
    return max(x.abs().mean().item(), 1e-12)
