"""Pages of files that are mapped into memory: asked for ahead, and given back.

Weights are mapped, not read: a page enters memory when it is touched, and stays for as long as the
system likes. Where blocks are streamed, what was used is given back at once, so that a process is
as small as it says.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

_MAPS = Path("/proc/self/maps")
_WILL_NEED, _DO_NOT_NEED = 3, 4


class MappedRanges:
    """Which addresses of this process belong to mapped files, as of now; none where the system
    does not say."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        try:
            lines = _MAPS.read_text().splitlines()
        except OSError:
            return
        for line in lines:
            addresses, _, _, _, inode, *path = line.split(maxsplit=5)
            if inode != "0" and path and path[0].startswith("/"):
                start, end = (int(part, 16) for part in addresses.split("-"))
                self.ranges.append((start, end))
        self.ranges.sort()

    def holds(self, tensor: Tensor) -> bool:
        """Whether all of a tensor's numbers lie in one mapped file."""
        if tensor.is_meta or tensor.device.type != "cpu" or not tensor.nbytes:
            return False
        at = bisect.bisect_right(self.ranges, (tensor.data_ptr(), 2**63)) - 1
        return at >= 0 and tensor.data_ptr() + tensor.nbytes <= self.ranges[at][1]


def ask_for(tensors: Iterable[Tensor]) -> None:
    """Lets the system read mapped tensors ahead; returns at once."""
    _advise(tensors, _WILL_NEED, whole_pages=False)


def give_back(tensors: Iterable[Tensor]) -> None:
    """Takes the pages of mapped tensors out of this process; they are mapped again when touched.

    Only for tensors in mapped files that nobody has written to (`MappedRanges.holds`): any other
    would lose its numbers.
    """
    _advise(tensors, _DO_NOT_NEED, whole_pages=True)


def _advise(tensors: Iterable[Tensor], advice: int, whole_pages: bool) -> None:
    try:
        madvise = ctypes.CDLL(None, use_errno=True).madvise
    except (AttributeError, OSError, TypeError):
        return
    page = mmap.PAGESIZE
    for tensor in tensors:
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        start = -(-start // page) * page if whole_pages else start // page * page
        end = end // page * page if whole_pages else end
        if end > start:
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)
