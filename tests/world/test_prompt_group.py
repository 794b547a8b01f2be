"""Two processes that walk together, where one is gone: the other is told, and never waits."""

from typing import Any, cast

import pytest
import torch
import torch.distributed as dist

from loci.world.prompt_group import PartnerLeft, PromptGroup


class Pair:
    """A process group of two, which is only asked for its size."""

    def size(self) -> int:
        return 2


@pytest.mark.parametrize("fails", ["all_reduce", "all_gather"])
def test_a_process_that_is_gone_has_left(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it was killed before both met, or while they exchanged tensors."""
    calls: list[str] = []

    def called(name: str) -> None:
        calls.append(name)
        if name == fails:
            raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(dist, "all_reduce", lambda *a, **k: called("all_reduce"))
    monkeypatch.setattr(dist, "all_gather", lambda *a, **k: called("all_gather"))
    group = PromptGroup(cast(Any, Pair()))
    with pytest.raises(PartnerLeft, match="the other process has ended the walk"):
        group.gather(torch.zeros(2))
    assert calls[-1] == fails
    before = len(calls)
    group.leave()
    assert len(calls) == before, "it waits for nobody"
