"""A training that is killed in the middle of a step."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loci.train.run_directory import RunDirectory


@contextmanager
def killed(after: int) -> Iterator[None]:
    """What trains inside is killed in the step that follows `after` whole ones."""
    tick = RunDirectory.tick

    def kill(run: RunDirectory) -> None:
        if run.step == after:
            raise KeyboardInterrupt
        tick(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "tick", kill)
        with pytest.raises(KeyboardInterrupt):
            yield
