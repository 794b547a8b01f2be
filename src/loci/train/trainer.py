"""What every training run shares: its directory, its clock, its checkpoints and its average.

A trainer owns the loop and the models; a run directory owns everything that has to survive a
kill. Time is part of a run's state: a budget in minutes counts the seconds spent training over
all resumes, so the learning rate ends at zero exactly when the budget does.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from loci.errors import LociError
from loci.io.files import replacing

if TYPE_CHECKING:
    from accelerate import Accelerator


M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class TrainingBudget:
    """How long to train: `steps` optimiser steps, or `minutes` of training time if given.

    Raises:
        LociError: when the minutes are not a number greater than 0.
    """

    steps: int = 10_000
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise LociError(f"--minutes: {self.minutes}, expected a number greater than 0")

    def fraction(self, step: int, seconds: float) -> float:
        """Share of the budget used, in [0, 1]."""
        if self.minutes is not None:
            return min(seconds / (60 * self.minutes), 1.0)
        return min(step / max(self.steps, 1), 1.0)


@dataclass(frozen=True)
class LearningRate:
    """Linear warm-up over the first `warmup_steps`, the peak until the share `hold` of the budget
    is used, then a cosine down to `floor` x `peak`."""

    peak: float = 1e-3
    warmup_steps: int = 100
    floor: float = 0.01
    hold: float = 0.0

    def at(self, step: int, fraction: float) -> float:
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        falling = max(0.0, fraction - self.hold) / (1 - self.hold)
        cosine = 0.5 * (1 + math.cos(math.pi * falling))
        return self.peak * warm * (self.floor + (1 - self.floor) * cosine)

    def apply(self, optimizer: torch.optim.Optimizer, step: int, fraction: float) -> float:
        """Sets the rate on every parameter group (times its own `scale`, if any)."""
        rate = self.at(step, fraction)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        return rate


class Ema:
    """Exponential moving average of a model's parameters and buffers, in float32.

    The decay rises with the number of updates, so that early averages forget the initial
    weights quickly.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999):
        self.decay, self.updates = decay, 0
        self.average = {
            name: tensor.detach().float().clone() if tensor.is_floating_point() else tensor.clone()
            for name, tensor in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in model.state_dict().items():
            average = self.average[name]
            if average.is_floating_point():
                average.lerp_(tensor.float(), 1 - decay)
            else:
                average.copy_(tensor)

    def copy_to(self, model: nn.Module) -> None:
        model.load_state_dict(self.average)

    @torch.no_grad()
    def apply_to(self, part: nn.Module, prefix: str, but: str) -> None:
        """Give a part of the model its average, as what it is frozen at, `but` for some of it."""
        for name, tensor in part.state_dict().items():
            if not name.startswith(but):
                tensor.copy_(self.average[prefix + name])

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, tensor in state["average"].items():
            self.average[name].copy_(tensor)


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """Random numbers that depend on nothing but (seed, step, rank), so a resumed run draws the
    same batches and noise as one that was never killed."""
    mixed = np.random.SeedSequence([seed, step, rank]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(mixed[0]) << 31 | int(mixed[1]) >> 1)


def means(records: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each name over those records that have it."""
    names = dict.fromkeys(name for record in records for name in record)
    found = {name: [r[name] for r in records if name in r] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def accelerated(dtype: torch.dtype = torch.float32) -> Accelerator:
    """The processes and devices of this run, which multiplies in `dtype`.

    Raises LociError if the extra is missing.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise LociError("training needs accelerate: pip install 'genius-loci[train]'") from error
    # Not every batch uses every part: one without history leaves the memory encoder idle.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    mixed = "bf16" if dtype is torch.bfloat16 else "no"
    return Accelerator(mixed_precision=mixed, kwargs_handlers=[unused])


def agreed(fraction: float, accelerator: Accelerator) -> float:
    """The main process's clock, so that all processes stop at the same step."""
    from accelerate.utils import broadcast

    told = broadcast(torch.tensor(fraction, device=accelerator.device))
    assert isinstance(told, Tensor)
    return told.item()


class RunDirectory:
    """`log.jsonl`, `checkpoint.pt` and sample sheets under one folder, and the run's clock.

    Usage: `run = RunDirectory(out)`, `TrainState(...).resume(run)`, then per step `run.tick(loss)`,
    and `run.due("checkpoint", 120)` to ask whether something is due by the clock. Only the main
    process of a distributed run writes (`writes=True`).
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes = Path(path), writes
        self.step, self.seconds = 0, 0.0
        self._last_tick = time.monotonic()
        self._last_done: dict[str, float] = {}
        if writes:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LociError(
                    f"{path}: cannot make the run directory ({error.strerror})"
                ) from error

    def start_clock(self) -> None:
        """Time before this call (loading, compiling) does not count."""
        self._last_tick = time.monotonic()

    def tick(self, loss: float) -> None:
        """One optimiser step is done: counts it, and the time since the last tick.

        Raises LociError when the loss is not a number: nothing is saved after it, so the run goes
        on from the checkpoint before.
        """
        if not math.isfinite(loss):
            raise LociError(f"{self.path}: the loss is {loss} after step {self.step}, not a number")
        now = time.monotonic()
        self.seconds += now - self._last_tick
        self._last_tick = now
        self.step += 1

    def due(self, what: str, every_seconds: float) -> bool:
        """True at most once per `every_seconds` of training time for each `what`."""
        if self.seconds - self._last_done.get(what, 0.0) < every_seconds:
            return False
        self._last_done[what] = self.seconds
        return True

    def log(self, **record: Any) -> None:
        """Appends one line with the step, the seconds and the given numbers."""
        if not self.writes:
            return
        line = {"step": self.step, "seconds": round(self.seconds, 1)} | {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in record.items()
        }
        with open(self.path / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        print(" ".join(f"{key}={value}" for key, value in line.items()), flush=True)

    def save(self, **state: Any) -> None:
        """Writes a checkpoint of `state`, the clock and the random state, all or nothing."""
        if not self.writes:
            return
        clock = {"step": self.step, "seconds": self.seconds, "done": self._last_done}
        whole = {"clock": clock, "rng": torch.get_rng_state(), "state": state}
        with replacing(self.path / "checkpoint.pt") as draft:
            torch.save(whole, draft)

    def resume(self) -> dict[str, Any] | None:
        """The state last saved, with the clock, random state and log set back to it; or None."""
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            whole = torch.load(path, map_location="cpu", weights_only=True)
            clock, rng, state = whole["clock"], whole["rng"], whole["state"]
        except Exception as error:  # a damaged pickle raises nearly anything
            raise LociError(f"{path}: not a readable training checkpoint") from error
        self.step, self.seconds = clock["step"], clock["seconds"]
        self._last_done = dict(clock["done"])
        torch.set_rng_state(rng)
        self._forget_log_after(self.step)
        return state

    def _forget_log_after(self, step: int) -> None:
        log = self.path / "log.jsonl"
        if not self.writes or not log.exists():
            return
        kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= step]
        with replacing(log) as draft:
            draft.write_text("".join(line + "\n" for line in kept))

    def sheet(self, name: str, rows: list[Tensor]) -> None:
        """Writes `name`.png: every row is [n, 3, h, w] in [-1, 1], frames side by side."""
        if not self.writes:
            return
        from PIL import Image

        strips = [torch.cat(list(row.detach().float().cpu()), dim=2) for row in rows]
        width = max(strip.shape[2] for strip in strips)
        strips = [nn.functional.pad(strip, (0, width - strip.shape[2])) for strip in strips]
        pixels = (torch.cat(strips, dim=1).clamp(-1, 1) + 1).mul(127.5).round().byte()
        with replacing(self.path / f"{name}.png") as draft:
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(draft, format="PNG")


class TrainState(NamedTuple, Generic[M]):
    """What every trainer's checkpoint holds."""

    model: M
    optimizer: torch.optim.Optimizer
    ema: Ema

    def resume(self, run: RunDirectory) -> bool:
        """Go on from the run's last checkpoint; False when there is none."""
        state = run.resume()
        if state is None:
            return False
        for name, part in self._asdict().items():
            part.load_state_dict(state[name])
        return True

    def save(self, run: RunDirectory) -> None:
        run.save(**{name: part.state_dict() for name, part in self._asdict().items()})
