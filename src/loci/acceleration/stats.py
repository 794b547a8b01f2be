"""Statistics of a run: evaluations, tokens, seconds, and errors against an exact run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from loci.acceleration.error_budget import Interval, is_guided
from loci.flow import EvaluateAll, State, StepPolicy, TokenIndices, TokenPolicy, renews_guidance

Row = list[str]


@dataclass
class StageStats:
    """One stage of a run.

    Attributes:
        evaluations: evaluations of the network; a guided step takes two.
        exact_evaluations: those that an exact run would take.
        token_shares: the sum over the evaluations of the share of tokens that each evaluated.
        steps: taken by the sampler.
        steps_skipped: those without an evaluation.
        seconds: wall-clock time.
        decoding_factor: None if it does not apply.
        spectral_ratio: the joint ratio that chose the decoding factor.
        errors: relative to an exact run, by name of tensor; empty unless verified.
    """

    evaluations: int = 0
    exact_evaluations: int = 0
    token_shares: float = 0.0
    steps: int = 0
    steps_skipped: int = 0
    seconds: float = 0.0
    decoding_factor: float | None = None
    spectral_ratio: float | None = None
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def saved(self) -> int:
        """Evaluations fewer than in an exact run."""
        return self.exact_evaluations - self.evaluations

    @property
    def active_share(self) -> float | None:
        """The mean share of the tokens in an evaluation; None without evaluations."""
        return self.token_shares / self.evaluations if self.evaluations else None


class Stats:
    """Statistics of one or several runs, kept by the caller; models and policies ignore them."""

    def __init__(self) -> None:
        self.stages: dict[str, StageStats] = {}
        self.notes: list[str] = []

    def stage(self, name: str) -> StageStats:
        """The statistics of a stage, empty at first."""
        return self.stages.setdefault(name, StageStats())

    def note(self, text: str) -> None:
        """Adds a line below the table, once."""
        if text not in self.notes:
            self.notes.append(text)

    @contextmanager
    def timed(self, name: str) -> Iterator[StageStats]:
        """Adds the seconds of the block to a stage."""
        stage, start = self.stage(name), time.perf_counter()
        try:
            yield stage
        finally:
            stage.seconds += time.perf_counter() - start

    def counted(
        self,
        name: str,
        policy: StepPolicy | None = None,
        interval: Interval | None = None,
        every: int | None = 1,
    ) -> TokenPolicy:
        """The same policy, with its evaluations counted.

        Args:
            name: name of the stage.
            policy: a policy for one run; evaluates everything by default.
            interval: the timesteps between which a step takes two evaluations; None if none does.
            every: see `loci.flow.interval_guidance`.
        """
        return CountingPolicy(self.stage(name), policy or EvaluateAll(), interval, every)

    def record_errors(self, name: str, state: State, exact: State) -> None:
        """Records the rms error of each tensor relative to its exact rms; the largest is kept."""
        errors = self.stage(name).errors
        for tensor, x in exact.items():
            error = float((state[tensor] - x).square().mean().sqrt() / x.square().mean().sqrt())
            errors[tensor] = max(error, errors.get(tensor, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            name: asdict(stage) | {"saved": stage.saved, "active_share": stage.active_share}
            for name, stage in self.stages.items()
        }

    def table(self) -> str:
        """A plain-text table with a row for every stage and one for all, then the notes."""
        head = ["stage", "evaluations", "saved", "active tokens", "factor", "seconds", "error"]
        rows = [head, *(_row(name, stage) for name, stage in self.stages.items())]
        if len(self.stages) > 1:
            rows.append(self._total())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
        return "\n".join([*lines, *(f"({note})" for note in self.notes)])

    def _total(self) -> Row:
        stages = self.stages.values()
        evaluations, saved = sum(s.evaluations for s in stages), sum(s.saved for s in stages)
        seconds = sum(s.seconds for s in stages)
        return ["all", str(evaluations), str(saved), "-", "-", f"{seconds:.2f}", "-"]


class CountingPolicy:
    """Wraps a policy and counts its evaluations.

    In full evaluations guidance may reuse its last difference, as told by `every`. Partial
    evaluations always evaluate both velocities.
    """

    def __init__(
        self,
        stage: StageStats,
        policy: StepPolicy,
        interval: Interval | None,
        every: int | None = 1,
    ) -> None:
        self.stage, self.policy, self.interval, self.every = stage, policy, interval, every
        self.attends_to_cached = (
            policy.attends_to_cached if isinstance(policy, TokenPolicy) else False
        )
        self._full_guided_steps = 0
        self._share: float | None = None  # of the tokens in this step's evaluation, if partial

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        velocity = self.policy.propose(step, timesteps, state)
        self._share = None
        self.stage.steps += 1
        self.stage.exact_evaluations += 2 if is_guided(step, timesteps, self.interval) else 1
        self.stage.steps_skipped += velocity is not None
        return velocity

    def select(self, step: int, timesteps: Tensor, state: State) -> TokenIndices | None:
        if not isinstance(self.policy, TokenPolicy):
            return None
        indices = self.policy.select(step, timesteps, state)
        if indices is not None:
            (tokens,) = {len(x) for x in state.values()}
            self._share = len(indices) / tokens
        return indices

    def fill(
        self, step: int, timesteps: Tensor, state: State, indices: TokenIndices, part: State
    ) -> State:
        assert isinstance(self.policy, TokenPolicy)
        return self.policy.fill(step, timesteps, state, indices, part)

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        evaluations = 1
        if is_guided(step, timesteps, self.interval):
            if self._share is not None:
                evaluations = 2
            else:
                evaluations += renews_guidance(self._full_guided_steps, self.every)
                self._full_guided_steps += 1
        self.stage.evaluations += evaluations
        self.stage.token_shares += evaluations * (1.0 if self._share is None else self._share)
        self.policy.observe(step, timesteps, state, velocity)


COLUMNS = (
    "(evaluations of the network, those saved against an exact run, share of tokens evaluated, "
    "factor by which voxels are merged for decoding, seconds, largest relative error)"
)
"""The columns of `Stats.table`, explained in one line."""


def _row(name: str, stage: StageStats) -> Row:
    share, factor = stage.active_share, stage.decoding_factor
    return [
        name,
        str(stage.evaluations) if stage.exact_evaluations else "-",
        str(stage.saved) if stage.exact_evaluations else "-",
        "-" if share is None else f"{share:.0%}",
        "-" if factor is None else f"{factor:g}",
        f"{stage.seconds:.2f}",
        f"{max(stage.errors.values()):.2g}" if stage.errors else "-",
    ]
