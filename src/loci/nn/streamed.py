"""Streams the blocks of a transformer from disk, so that memory holds only three at a time.

A forward pass iterates over its blocks, and iterating reads them: while one block computes, the
next is read, and the one before is dropped. An evaluation of a large model takes minutes on the CPU
and reading its weights takes seconds, so streaming adds little time.
"""

from __future__ import annotations

import copy
import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from loci.io.tensor_files import MappedRanges, ask_for, give_back


class StreamedBlocks(nn.ModuleList):
    """A list of blocks whose weights are mapped files, each brought when the iteration reaches it.

    The blocks themselves keep their mapped weights, which take no memory: `state_dict` has them,
    and `to` changes nothing. What the iteration yields are copies in the element type and on the
    device wanted, or the blocks themselves where that is what the file holds; keep no reference to
    them. Several iterations at a time are independent.

    Args:
        blocks: with weights as they were loaded.
        device: where the blocks compute.
        dtype: element type of floating-point weights; that of the file if None.
    """

    def __init__(
        self, blocks: nn.ModuleList, device: torch.device, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(blocks)
        self.device, self.dtype = device, dtype
        ranges = MappedRanges()
        self._mapped = [
            [tensor for tensor in _tensors(block) if ranges.holds(tensor)] for block in blocks
        ]

    def __iter__(self) -> Iterator[nn.Module]:
        with ThreadPoolExecutor(1, "next block") as reader:
            following = reader.submit(self._bring, 0)
            for index in range(len(self)):
                block = following.result()
                if index + 1 < len(self):
                    following = reader.submit(self._bring, index + 1)
                yield block
                del block
                give_back(self._mapped[index])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StreamedBlocks:
        """Nothing: the weights stay where they are, whatever the rest of the model does."""
        return self

    def _bring(self, index: int) -> nn.Module:
        ask_for(self._mapped[index])
        block = self[index]
        if all(self._brought(tensor) is tensor for tensor in _tensors(block)):
            for tensor in self._mapped[index]:
                tensor.reshape(-1).view(torch.uint8)[:: mmap.PAGESIZE].sum()  # reads every page
            return block
        brought = converted(block, self._brought)
        give_back(self._mapped[index])
        return brought

    def _brought(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else None
        if self.device.type != "cuda":
            return tensor.to(self.device, dtype or tensor.dtype)
        return tensor.to(dtype or tensor.dtype).pin_memory().to(self.device, non_blocking=True)


def stream_blocks(
    module: nn.Module, name: str, device: torch.device, dtype: torch.dtype | None = None
) -> None:
    """Replaces the list of blocks `name` of a module by one that streams. Arguments as of
    `StreamedBlocks`."""
    setattr(module, name, StreamedBlocks(getattr(module, name), device, dtype))


def converted(module: nn.Module, convert: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a module with converted weights; nothing else of it is copied."""
    twin = copy.copy(module)
    parts = twin.__dict__
    parts["_parameters"] = {
        name: tensor if tensor is None else nn.Parameter(convert(tensor.data), requires_grad=False)
        for name, tensor in module._parameters.items()
    }
    parts["_buffers"] = {
        name: tensor if tensor is None else convert(tensor)
        for name, tensor in module._buffers.items()
    }
    parts["_modules"] = {
        name: inner if inner is None else converted(inner, convert)
        for name, inner in module._modules.items()
    }
    return twin


def _tensors(block: nn.Module) -> list[Tensor]:
    return [tensor.data for tensor in (*block.parameters(), *block.buffers())]
