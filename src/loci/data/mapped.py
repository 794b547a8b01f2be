"""An array in several memory-mapped files: what is indexed is read, the rest stays on disk."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class MappedArray:
    """Arrays joined along their first axis without being read.

    It is indexed like an array, in its first two axes by numbers, slices or arrays of numbers.
    Arrays mapped from files are mapped again, not copied, by processes it is sent to.

    Args:
        parts: of the same type, and of the same shape but for the first axis; at least one.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])
        self.shape: tuple[int, ...] = (int(self.starts[-1]), *self.parts[0].shape[1:])
        self.dtype = self.parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(first, slice):
            first = np.arange(*first.indices(len(self)))
        rows = np.asarray(first)
        if np.any(rows < -len(self)) or np.any(rows >= len(self)):
            raise IndexError(f"index {first} of {len(self)} entries")
        rows = rows % len(self)
        part_of = np.searchsorted(self.starts, rows, side="right") - 1
        if rows.ndim == 0:
            part = int(part_of)
            return self.parts[part][(int(rows) - int(self.starts[part]), *rest)]
        if not rest:
            return self._gather(rows, part_of, None)
        if isinstance(rest[0], slice) and len(rest) == 1:
            picked = [self[int(row), rest[0]] for row in rows.flat]
            return np.stack(picked).reshape(*rows.shape, *picked[0].shape)
        rows, part_of, columns = np.broadcast_arrays(rows, part_of, np.asarray(rest[0]))
        found = self._gather(rows, part_of, columns)
        return found[(slice(None),) * rows.ndim + tuple(rest[1:])] if rest[1:] else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.concatenate(self.parts)
        return whole if dtype is None else whole.astype(dtype)

    def __eq__(self, other: object) -> Any:
        return np.asarray(self) == np.asarray(other)

    __hash__ = None  # type: ignore[assignment]

    def reshape(self, *shape: int) -> "MappedArray":
        """With the first two axes joined, which is all that can be done without reading."""
        if shape != (-1, *self.shape[2:]):
            raise ValueError(f"{self.shape} can become {(-1, *self.shape[2:])}, not {shape}")
        return MappedArray([part.reshape(-1, *part.shape[2:]) for part in self.parts])

    def _gather(
        self, rows: np.ndarray, part_of: np.ndarray, columns: np.ndarray | None
    ) -> np.ndarray:
        rest = self.shape[1:] if columns is None else self.shape[2:]
        found = np.empty((*rows.shape, *rest), self.dtype)
        for part in np.unique(part_of):
            chosen = part_of == part
            within = rows[chosen] - self.starts[part]
            at = within if columns is None else (within, columns[chosen])
            found[chosen] = self.parts[part][at]
        return found

    def __getstate__(self) -> list[Any]:
        return [_reference(part) for part in self.parts]

    def __setstate__(self, state: list[Any]) -> None:
        self.__init__([_dereferenced(part) for part in state])


def _reference(part: np.ndarray) -> Any:
    if isinstance(part, np.memmap) and part.filename is not None and part.flags.c_contiguous:
        root: Any = part
        while isinstance(root.base, np.memmap):
            root = root.base
        start = part.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        return (str(part.filename), root.offset + start, part.shape, part.dtype.str)
    return np.asarray(part)


def _dereferenced(part: Any) -> np.ndarray:
    if isinstance(part, tuple):
        path, offset, shape, dtype = part
        return np.memmap(path, dtype, "r", offset, shape)
    return part
