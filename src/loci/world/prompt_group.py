"""Two processes that walk together: each evaluates one of the two prompts of guidance.

They meet at every evaluation. One that ends early says so there, so that the other is never left
waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from loci.errors import LociError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


LEFT = "the other process has ended the walk"


class PartnerLeft(LociError):
    """The other process of a walk has ended it."""


class PromptGroup:
    """The processes of a walk. All of them take the same steps, and call `leave` in the end.

    Args:
        group: a process group that takes tensors of the CPU as well as of the device.

    Attributes:
        undisturbed: a context in which no signal raises; what is between two processes must be
            done by both or by neither.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self._group, self._ended = group, False
        self.undisturbed: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def size(self) -> int:
        return self._group.size()

    @property
    def rank(self) -> int:
        return self._group.rank()

    def gather(self, own: Tensor) -> list[Tensor]:
        """The tensors of all processes, which have one shape, by rank.

        Raises:
            PartnerLeft: when another process has left, or is gone.
        """
        own = own.contiguous()
        gathered = [torch.empty_like(own) for _ in range(self.size)]
        with self.undisturbed():
            if self._any_leaves(False):
                raise PartnerLeft(LEFT)
            try:
                dist.all_gather(gathered, own, group=self._group)
            except RuntimeError as error:  # the other process was killed since
                self._ended = True
                raise PartnerLeft(LEFT) from error
        return gathered

    def leave(self) -> None:
        """Tells the others, at their next evaluation, that this process has ended; waits until then
        unless they have ended as well."""
        with self.undisturbed():
            if not self._ended:
                self._any_leaves(True)

    def _any_leaves(self, leaving: bool) -> bool:
        said = torch.tensor([int(leaving)])
        try:
            dist.all_reduce(said, dist.ReduceOp.MAX, group=self._group)
        except RuntimeError:  # the connection is closed: the other process was killed
            said += 1
        self._ended = bool(said)
        return self._ended
