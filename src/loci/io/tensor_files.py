"""Tensor files: their headers, writing them one tensor at a time, and the pages of mapped ones.

Weights are mapped, not read: a page enters memory when it is touched, and stays for as long as the
system likes. Where blocks are streamed, pages that were used are given back at once, so that a
process stays as small as it says.
"""

from __future__ import annotations

import bisect
import ctypes
import json
import math
import mmap
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from loci.errors import LociError
from loci.io.files import make_folder, replacing

SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_TYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_TYPES.items()}
MAX_HEADER = 100_000_000
PIECE = 1 << 24
"""Numbers that are converted and written at a time."""


class TensorInfo(NamedTuple):
    """Element type and shape of a tensor in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> TensorInfo:
        return cls(tensor.dtype, tuple(tensor.shape))

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def safetensors_infos(path: Path) -> dict[str, TensorInfo]:
    """The tensors that a safetensors file says it holds; its data is not read.

    Raises:
        LociError: when it is damaged, or shorter or longer than its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise LociError(f"{path}: no safetensors file, or cut short ({size} bytes)")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        infos = {
            name: TensorInfo(SAFETENSORS_TYPES[entry["dtype"]], tuple(entry["shape"]))
            for name, entry in header.items()
        }
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LociError(f"{path}: a damaged safetensors header ({error})") from error
    check_size(path, size, 8 + length + end)
    return infos


def check_size(path: Path, found: int, expected: int) -> None:
    """Raises LociError where a file does not have the bytes that it should have."""
    if found != expected:
        kind = "cut short" if found < expected else "too long"
        raise LociError(
            f"{path}: {kind}, found {found} bytes, expected {expected}; download it again"
        )


def check_pickle(path: Path) -> None:
    """Raises LociError where a PyTorch file begins as an archive and does not end as one."""
    with path.open("rb") as file:
        archive = file.read(4) == b"PK\x03\x04"
    if archive and not zipfile.is_zipfile(path):
        raise LociError(
            f"{path}: expected safetensors or a weights-only PyTorch pickle, but the file is cut "
            f"short: {path.stat().st_size} bytes without the end of the archive; download it again"
        )


def write_safetensors(
    path: Path,
    infos: Mapping[str, TensorInfo],
    load: Callable[[str], Tensor],
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes a safetensors file, whole or not at all: its header, then tensor by tensor.

    Args:
        path: the file.
        infos: what it will hold.
        load: a tensor by name; it is converted to the type in `infos`.
        progress: called with the bytes that were written.

    Raises:
        LociError: when the file cannot be written.
    """
    # Wide types first, so that every tensor is aligned; that is also the order of the library.
    names = sorted(infos, key=lambda name: (-infos[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        info = infos[name]
        header[name] = {
            "dtype": _TYPE_NAMES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [at, at + info.bytes],
        }
        at += info.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    make_folder(path.parent, path)
    with replacing(path) as draft, draft.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            tensor = load(name)
            if tuple(tensor.shape) != infos[name].shape:
                raise ValueError(f"{name}: {list(tensor.shape)}, expected {infos[name].shape}")
            for piece in _bytes(tensor, infos[name].dtype):
                file.write(piece)
                progress(len(piece))


def _bytes(tensor: Tensor, dtype: torch.dtype) -> Iterable[memoryview]:
    flat = tensor.detach().reshape(-1)
    for at in range(0, flat.numel(), PIECE):
        piece = flat[at : at + PIECE].to("cpu", dtype).contiguous()
        yield piece.view(torch.uint8).numpy().data


def write_pickle(
    path: Path,
    infos: Mapping[str, TensorInfo],
    load: Callable[[str], Tensor],
    nested: str | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes what `torch.save` would of a dictionary of tensors, one tensor at a time.

    Args:
        path: the file.
        infos: what it will hold.
        load: a tensor by name.
        nested: the key under which the file holds the dictionary, if it is not the whole content.
        progress: called with the bytes that were written.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        empty = {name: torch.empty(info.shape, dtype=info.dtype) for name, info in infos.items()}
    make_folder(path.parent, path)
    with replacing(path) as draft:
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save({nested: empty} if nested else empty, draft)
        with FakeTensorMode():
            saved = torch.load(draft, weights_only=True)
        saved = saved[nested] if nested else saved
        with draft.open("r+b") as file:
            for name, info in infos.items():
                file.seek(saved[name].untyped_storage()._checkpoint_offset)
                for piece in _bytes(load(name), info.dtype):
                    file.write(piece)
                    progress(len(piece))


# Pages of mapped files

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
