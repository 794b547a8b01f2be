"""Published step caches that ours are compared with: all tensors alike, all tokens together."""

import torch
from torch import Tensor

from loci.caching.error_budget import is_last
from loci.caching.forecast import History, Taylor
from loci.flow import State


class TaylorSeer:
    """Evaluates every `interval`-th step after a warm-up, else a Taylor sum in the step's number.

    Of velocities, not of features inside the network, so that it knows nothing of the model.
    """

    def __init__(self, interval: int = 3, order: int = 1, warmup: int = 2) -> None:
        self.interval, self.warmup = interval, warmup
        self.history, self.skipped = History(Taylor(order)), 0

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
    """Evaluates once the velocity's expected relative changes add up to a threshold.

    A change is expected from how far the state moved, times how much the velocity changed with
    the state at the last evaluation. A skipped step keeps the difference of velocity and state
    (arXiv 2507.02860). Mean absolute values over all named tensors together.
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
        now, (earlier, velocity) = _flat(state), self.before
        self.error += self.rate * _size(now - earlier) / _size(velocity)
        if self.error >= self.threshold:
            return None
        kept = {name: x + self.offset[name] for name, x in state.items()}
        self.before = now, _flat(kept)
        return kept

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        now, fresh = _flat(state), _flat(velocity)
        if self.before is not None:
            earlier, last = self.before
            self.rate = _size(fresh - last) / _size(now - earlier)
        self.before, self.error = (now, fresh), 0.0
        self.offset = {name: v - state[name] for name, v in velocity.items()}


def _flat(state: State) -> Tensor:
    return torch.cat([x.flatten() for x in state.values()])


def _size(x: Tensor) -> float:
    return max(x.abs().mean().item(), 1e-12)
