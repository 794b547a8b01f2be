"""What a run did and spared: evaluations, tokens, seconds, and the error against exact."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from loci.caching.error_budget import Interval, is_guided
from loci.flow import Always, Rows, State, StepPolicy, TokenPolicy, both_made

Cells = list[str]


@dataclass
class StageStats:
    """One stage of a run. Evaluations are of the network: a guided step takes two.

    `tokens` adds up, over the evaluations, the part of the tokens that each was of. `errors` are
    relative, by name of tensor, and only there if the run was verified. `detail` is the joint
    spectral ratio by which the decoding factor is chosen.
    """

    made: int = 0
    exact: int = 0
    tokens: float = 0.0
    steps: int = 0
    steps_skipped: int = 0
    seconds: float = 0.0
    decoding_factor: float | None = None
    detail: float | None = None
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def saved(self) -> int:
        return self.exact - self.made

    @property
    def active_share(self) -> float | None:
        """The mean part of the tokens in an evaluation."""
        return self.tokens / self.made if self.made else None


class Stats:
    """Kept beside a run by whoever runs it; neither models nor policies know of it."""

    def __init__(self) -> None:
        self.stages: dict[str, StageStats] = {}
        self.notes: list[str] = []

    def entry(self, stage: str) -> StageStats:
        return self.stages.setdefault(stage, StageStats())

    def note(self, text: str) -> None:
        """Adds a line below the table, once."""
        if text not in self.notes:
            self.notes.append(text)

    @contextmanager
    def timed(self, stage: str) -> Iterator[StageStats]:
        """Adds the seconds that the block takes."""
        entry, start = self.entry(stage), time.perf_counter()
        try:
            yield entry
        finally:
            entry.seconds += time.perf_counter() - start

    def watched(
        self,
        stage: str,
        policy: StepPolicy | None = None,
        interval: Interval | None = None,
        every: int = 1,
    ) -> TokenPolicy:
        """The same policy, with everything it decides written down.

        Args:
            stage: under which name.
            policy: for one run; evaluates everything by default.
            interval: the timesteps between which a step takes two evaluations; None if none does.
            every: of how many guided evaluations one does (`flow.guidance.guided_within`).
        """
        return CountedPolicy(self.entry(stage), policy or Always(), interval, every)

    def verified(self, stage: str, state: State, exact: State) -> None:
        """Writes down how far a result is from the exact one: rms difference over rms.

        Of several results of a stage the largest error of each tensor stays.
        """
        errors = self.entry(stage).errors
        for name, x in exact.items():
            error = float((state[name] - x).square().mean().sqrt() / x.square().mean().sqrt())
            errors[name] = max(error, errors.get(name, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            name: asdict(entry) | {"saved": entry.saved, "active_share": entry.active_share}
            for name, entry in self.stages.items()
        }

    def table(self) -> str:
        """Columns in plain text, a line for every stage and one for all."""
        head = ["stage", "evaluations", "saved", "active tokens", "factor", "seconds", "error"]
        rows = [head, *(_row(name, entry) for name, entry in self.stages.items())]
        if len(self.stages) > 1:
            rows.append(self._total())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
        return "\n".join([*lines, *(f"({note})" for note in self.notes)])

    def _total(self) -> Cells:
        entries = self.stages.values()
        made, saved = sum(e.made for e in entries), sum(e.saved for e in entries)
        seconds = sum(e.seconds for e in entries)
        return ["all", str(made), str(saved), "-", "-", f"{seconds:.2f}", "-"]


class CountedPolicy:
    """A policy that writes down what another one decides."""

    def __init__(
        self, entry: StageStats, policy: StepPolicy, interval: Interval | None, every: int = 1
    ) -> None:
        self.entry, self.policy, self.interval, self.every = entry, policy, interval, every
        self._guided = 0
        self.alone = policy.alone if isinstance(policy, TokenPolicy) else True
        self._part = 1.0

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        velocity = self.policy.propose(step, timesteps, state)
        self._part = 1.0
        self.entry.steps += 1
        self.entry.exact += 2 if is_guided(step, timesteps, self.interval) else 1
        self.entry.steps_skipped += velocity is not None
        return velocity

    def choose(self, step: int, timesteps: Tensor, state: State) -> Rows | None:
        if not isinstance(self.policy, TokenPolicy):
            return None
        rows = self.policy.choose(step, timesteps, state)
        if rows is not None:
            (tokens,) = {len(x) for x in state.values()}
            self._part = len(rows) / tokens
        return rows

    def fill(self, step: int, timesteps: Tensor, state: State, rows: Rows, part: State) -> State:
        assert isinstance(self.policy, TokenPolicy)
        return self.policy.fill(step, timesteps, state, rows, part)

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        evaluations = 1
        if is_guided(step, timesteps, self.interval):
            evaluations += both_made(self._guided, self.every)
            self._guided += 1
        self.entry.made += evaluations
        self.entry.tokens += evaluations * self._part
        self.policy.observe(step, timesteps, state, velocity)


def _row(name: str, entry: StageStats) -> Cells:
    share, factor = entry.active_share, entry.decoding_factor
    return [
        name,
        str(entry.made) if entry.exact else "-",
        str(entry.saved) if entry.exact else "-",
        "-" if share is None else f"{share:.0%}",
        "-" if factor is None else f"{factor:g}",
        f"{entry.seconds:.2f}",
        f"{max(entry.errors.values()):.2g}" if entry.errors else "-",
    ]
