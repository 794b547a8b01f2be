"""A training that is killed in the middle of a step."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loci.train.run_directory import RunDirectory


@contextmanager
def killed(after: int) -> Iterator[None]:
    """What trains inside saves every step and is killed in the one after `after` whole ones."""
    tick, due = RunDirectory.tick, RunDirectory.due

    def kill(run: RunDirectory) -> None:
        if run.step == after:
            raise KeyboardInterrupt
        tick(run)

    def save(run: RunDirectory, what: str, every_seconds: float) -> bool:
        return what == "checkpoint" or due(run, what, every_seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "tick", kill)
        patch.setattr(RunDirectory, "due", save)
        with pytest.raises(KeyboardInterrupt):
            yield
