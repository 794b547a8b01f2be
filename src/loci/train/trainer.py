"""The training loop that all models share; a `Task` defines the batch and the loss.

It runs on any device and on any number of processes (`accelerate launch`), ends when its budget of
steps or minutes is used, and goes on from its last checkpoint as if it had never been stopped:
everything random in a step depends on (seed, step, rank) alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from loci.errors import LociError, check_seed, install_hint
from loci.io.files import replacing_folder
from loci.train.precision import Precision, matmul_type
from loci.train.run_directory import RunDirectory, Stateful
from loci.train.shards import ShardedTraining, gathered

if TYPE_CHECKING:
    from accelerate import Accelerator

ModelT = TypeVar("ModelT", bound=nn.Module)
Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class TrainerConfig:
    """The settings that all trainings share; each adds its own.

    Attributes:
        data: folder with the recordings or objects, in train and test.
        out: folder of the run: log, checkpoint, pictures; at the end, the averaged model in final.
        minutes: minutes of training, over all resumes; ignored where steps are given.
        steps: optimiser steps to train for, instead of minutes.
        learning_rate: the highest; reached after warmup_steps.
        warmup_steps: steps over which the learning rate rises linearly.
        hold_fraction: share of the budget until which the learning rate stays; then a cosine.
        final_fraction: the learning rate at the end, as a share of the highest.
        batch_size: examples in a step, on every process.
        ema_decay: decay of the moving average of the weights, which is saved in the end.
        max_grad_norm: the norm to which gradients are clipped.
        log_seconds: seconds between lines of the log.
        evaluate_seconds: seconds between evaluations on held-out data.
        checkpoint_seconds: seconds between checkpoints.
        seed: seed of the weights and the batches.
        precision: precision of matrix products; auto is bfloat16 where it is faster.
        shard: with several processes, each holds a share of the weights, their average and the
            optimiser's state, in place of all of them.
    """

    data: Path = Path("runs/data")
    out: Path = Path("runs/run")
    minutes: float = 30.0
    steps: int | None = None
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    hold_fraction: float = 0.0
    final_fraction: float = 0.01
    batch_size: int = 16
    ema_decay: float = 0.998
    max_grad_norm: float = 1.0
    log_seconds: float = 30.0
    evaluate_seconds: float = 600.0
    checkpoint_seconds: float = 120.0
    seed: int = 0
    precision: Precision = "auto"
    shard: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed, "--seed")
        if not 0 < self.minutes < math.inf:
            raise LociError(f"--minutes: {self.minutes}, expected a number greater than 0")
        for name, least in (("steps", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise LociError(f"--{name.replace('_', '-')}: {value}, expected at least {least}")
        if not 0 <= self.hold_fraction < 1:
            raise LociError(
                f"--hold-fraction: {self.hold_fraction}, expected a share of the budget below 1"
            )

    def progress(self, step: int, seconds: float) -> float:
        """Share of the budget used, in [0, 1]."""
        used = seconds / (60 * self.minutes) if self.steps is None else step / self.steps
        return min(used, 1.0)

    def rate(self, step: int, progress: float) -> float:
        """Learning rate: linear warm-up, held until `hold_fraction`, then a cosine down."""
        warmup = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        falling = max(0.0, progress - self.hold_fraction) / (1 - self.hold_fraction)
        cosine = 0.5 * (1 + math.cos(math.pi * falling))
        falling_to = self.final_fraction + (1 - self.final_fraction) * cosine
        return self.learning_rate * warmup * falling_to


class Step(NamedTuple):
    """What a task may use to make a batch and its loss.

    Attributes:
        number: of optimiser steps before this one.
        progress: share of the budget used, the same on all processes.
        seconds: of training before this step, the same on all processes.
        rng: on the CPU, seeded by (seed, step, rank).
        device: to train on.
        average: the moving average of the model, on that device.
    """

    number: int
    progress: float
    seconds: float
    rng: torch.Generator
    device: torch.device
    average: nn.Module


class Task(Generic[ModelT]):
    """What is trained, on what, and how it is judged.

    A task sets `model`, on the trainer's device, and `optimizer`. In a sharded run the weights of
    the model and of its average can only be used within `loci.train.shards.whole`, but for the
    loss.
    """

    model: ModelT
    optimizer: torch.optim.Optimizer

    def batch(self, step: Step) -> Any:
        """Examples drawn with `step.rng`."""
        raise NotImplementedError

    def loss(self, model: Callable[..., Any], batch: Any, step: Step) -> dict[str, Tensor]:
        """The loss to minimise as "loss", and whatever else is to be logged.

        `model` is the task's, wrapped for precision and processes: call it itself, once.
        """
        raise NotImplementedError

    def evaluate(self, model: ModelT, run: RunDirectory) -> dict[str, float]:
        """Scores of the averaged model on held-out data; may write pictures to the run."""
        return {}

    def finish(self, model: ModelT) -> None:
        """Called once with the averaged model, before it is evaluated for the last time."""

    def save(self, model: ModelT, folder: Path) -> None:
        """Write the averaged model."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What else a resumed run needs; tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counterpart of `state_dict`."""


class Trainer:
    """The processes and the device of a run, and its directory.

    Usage: `trainer = Trainer(config)`, a task built on `trainer.device`, `trainer.fit(task)`.

    Raises:
        LociError: when the extra `train` is missing, or the directory cannot be written.
    """

    def __init__(self, config: TrainerConfig) -> None:
        self.config = config
        self.dtype = matmul_type(config.precision)
        self.accelerator = _accelerator()
        self.run = RunDirectory(config.out, writes=self.accelerator.is_main_process)
        torch.manual_seed(config.seed)  # weights are drawn as models are built

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def fit(self, task: Task[ModelT]) -> ModelT:
        """Train until the budget is used and save under `out/final`.

        Returns:
            The averaged model, in evaluation mode.

        Raises:
            LociError: when the loss is not a number, or a checkpoint does not fit.
        """
        config, run, accelerator = self.config, self.run, self.accelerator
        average = moving_average(task.model, config.ema_decay)
        shards, model, optimizer = self._shards(task, average), task.model, task.optimizer
        own = {"model": model, "optimizer": optimizer, "average": average}
        state: dict[str, Stateful] = {**(own if shards is None else shards.parts), "task": task}
        run.resume(state)
        if shards is None:
            model, optimizer = accelerator.prepare(model, optimizer)
        forward = self._in_precision(model)
        records: list[dict[str, Tensor]] = []

        run.start_clock()
        while (step := self._step(average)).progress < 1:
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step.number, step.progress)
            losses = task.loss(forward, task.batch(step), step)
            accelerator.backward(losses["loss"])
            norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            self._check_finite(losses["loss"], norm)
            optimizer.step()
            optimizer.zero_grad()
            average.update_parameters(task.model)
            run.tick()
            run.seconds = self._agreed(run.seconds)  # so that all processes find the same due
            records.append({name: value.detach() for name, value in losses.items()})
            if run.due("log", config.log_seconds):
                run.log(**self._means(records), rate=optimizer.param_groups[0]["lr"])
                records.clear()
            if run.due("evaluate", config.evaluate_seconds):
                averaged = self._whole(average, shards, self.run.writes)
                self._evaluate(task, cast(ModelT, averaged))
                if shards is not None:
                    shards.whole.empty()
            if run.due("checkpoint", config.checkpoint_seconds):
                run.save(state)
        run.save(state)

        averaged = cast(ModelT, self._whole(average, shards))
        task.finish(averaged)
        self._evaluate(task, averaged, final=True)
        if run.writes:
            with replacing_folder(run.path / "final", lambda name: True) as draft:
                task.save(averaged, draft)
        accelerator.wait_for_everyone()
        return averaged

    def _shards(self, task: Task[Any], average: AveragedModel) -> ShardedTraining | None:
        """Shards the task and its average, if that is asked for and there are several processes."""
        processes = self.accelerator.num_processes
        if not self.config.shard or processes == 1:
            return None
        return ShardedTraining(task.model, task.optimizer, average, self.device, processes)

    def _whole(
        self, average: AveragedModel, shards: ShardedTraining | None, keep: bool = True
    ) -> nn.Module:
        """The averaged model; of one that is sharded, a copy for those that `keep` one."""
        return average.module if shards is None else shards.whole_average(keep)

    def _in_precision(self, model: nn.Module) -> Callable[..., Any]:
        """The model with matrix products in the run's precision; inputs and outputs in float32."""
        from accelerate.utils import convert_to_fp32

        narrow = self.dtype is torch.bfloat16

        def forward(*inputs: Any, **options: Any) -> Any:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=narrow):
                return convert_to_fp32(model(*inputs, **options))

        return forward

    def _evaluate(self, task: Task[ModelT], model: ModelT, **flags: bool) -> None:
        """On the main process; the others wait for it at their next step."""
        scores = task.evaluate(model, self.run) if self.run.writes else {}
        if scores:
            self.run.log(**scores, **flags)

    def _step(self, average: AveragedModel) -> Step:
        """The next step, by a clock that all processes agree on, so that they stop together."""
        run, config = self.run, self.config
        progress = config.progress(run.step, run.seconds)
        rng = step_generator(config.seed, run.step, self.accelerator.process_index)
        return Step(run.step, progress, run.seconds, rng, self.device, average.module)

    def _agreed(self, seconds: float) -> float:
        """The main process's clock."""
        if self.accelerator.num_processes == 1:
            return seconds
        from accelerate.utils import broadcast

        shared = broadcast(torch.tensor(seconds, device=self.device))
        assert isinstance(shared, Tensor)
        return shared.item()

    def _check_finite(self, loss: Tensor, norm: Tensor | float | None) -> None:
        """Before the step is taken: weights, average and checkpoint stay as they were."""
        total = self.accelerator.reduce(loss.detach(), "mean")
        assert isinstance(total, Tensor)
        for name, value in (("loss", float(total)), ("gradient", float(gathered(norm) or 0.0))):
            if not math.isfinite(value):
                raise LociError(
                    f"{self.run.path}: the {name} is {value} after step {self.run.step}, not a "
                    "number"
                )

    def _means(self, records: list[dict[str, Tensor]]) -> dict[str, float]:
        """The mean of every logged value, over the records that have it and over all processes."""
        names = list(dict.fromkeys(name for record in records for name in record))
        found = {name: [r[name].float() for r in records if name in r] for name in names}
        local = torch.stack([torch.stack(values).mean() for values in found.values()])
        total = self.accelerator.reduce(local, "mean")
        assert isinstance(total, Tensor)
        return dict(zip(names, total.tolist(), strict=True))


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a model's parameters and buffers, in evaluation mode.

    After n updates the decay is at most (1 + n) / (10 + n), so that early averages forget the
    initial weights quickly.
    """

    def update(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        count = int(updates)
        now = min(decay, (1 + count) / (10 + count))
        for mean, value in zip(averaged, current, strict=True):
            mean.lerp_(value, 1 - now) if mean.is_floating_point() else mean.copy_(value)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    average.update_parameters(model)  # the first update copies
    return average.eval().requires_grad_(False)


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """Random numbers that depend on nothing but (seed, step, rank)."""
    mixed = np.random.SeedSequence([seed, step, rank]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(mixed[0]) << 31 | int(mixed[1]) >> 1)


def _accelerator() -> Accelerator:
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise LociError(f"training needs accelerate: {install_hint('train')}") from error
    # Not every batch uses every part: one without history leaves the memory encoder idle.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(kwargs_handlers=[unused])
