"""A walk on two processes, started by `torchrun --nproc-per-node 2 -m loci.cli walk ...`.

Each evaluates one of the two prompts of guidance. The first writes and speaks; the second takes the
same steps in silence.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import TYPE_CHECKING

from loci.errors import LociError
from loci.flow import TokenPolicy

if TYPE_CHECKING:
    from loci.world.world import WalkState, World

PROCESSES = 2
LONGEST_WAIT = timedelta(days=1)
"""Of one process for the other, which may be reading its weights; one that died is noticed at
once."""


def process_count() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_second() -> bool:
    """Whether this process only takes part, and writes nothing."""
    return process_count() > 1 and os.environ.get("RANK") != "0"


@contextmanager
def silent_if_second() -> Iterator[None]:
    """Within the block the second process prints nothing.

    Raises:
        LociError: for another number of processes than one or two.
    """
    if process_count() not in (1, PROCESSES):
        raise LociError(f"{process_count()} processes: a walk is shared by 2, one for each prompt")
    if not is_second():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def share_prompts(world: World, state: WalkState) -> Iterator[None]:
    """Within the block the processes evaluate a prompt each; nothing happens without torchrun.

    Whichever leaves the block first ends the other's walk at its next evaluation.

    Raises:
        LociError: when the walk has no second prompt, or the preset does not evaluate all tokens.
    """
    if process_count() == 1:
        yield
        return
    if state.prompt is None or len(state.prompt.states) != PROCESSES:
        raise LociError("2 processes: this walk has no negative prompt to share, expected 1")
    policy = world.preset.walk_policy()
    if isinstance(policy, TokenPolicy) and policy.attends_to_cached:
        raise LociError("2 processes: --speed with cached tokens is for 1, expected --speed exact")
    import torch
    import torch.distributed as dist

    from loci.world.prompt_group import PromptGroup

    device = world.device
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=LONGEST_WAIT)
    assert dist.group.WORLD is not None
    world.group = group = PromptGroup(dist.group.WORLD)
    try:
        yield
    finally:
        world.group = None
        group.leave()
        dist.destroy_process_group()
