"""The cost of a stage: seconds and peak memory."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class StageCost:
    """One stage of a run, for all its objects together.

    `peak_bytes` is the peak memory during the stage: of tensors on the device with CUDA, of the
    whole process otherwise; None where the system does not report it.
    """

    stage: str
    seconds: float
    peak_bytes: int | None


@contextmanager
def measured(stage: str, device: torch.device, costs: list[StageCost]) -> Iterator[None]:
    """Adds the cost of the block to `costs`, also when it raises."""
    _reset_peak(device)
    began = time.perf_counter()
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        costs.append(StageCost(stage, time.perf_counter() - began, _peak(device)))


def cost_table(costs: list[StageCost] | tuple[StageCost, ...]) -> str:
    """The costs as lines of text, with total seconds and peak memory in the last line."""
    peaks = [cost.peak_bytes for cost in costs if cost.peak_bytes is not None]
    total = StageCost("all", sum(cost.seconds for cost in costs), max(peaks, default=None))
    width = max(len(cost.stage) for cost in (*costs, total))
    return "\n".join(
        f"{cost.stage:<{width}} {cost.seconds:8.2f} s {_mebibytes(cost.peak_bytes)}"
        for cost in (*costs, total)
    )


def _mebibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:8.0f} MiB"


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:  # Writing 5 resets the peak of the process (Linux).
        _RESET.write_text("5")
    except OSError:
        return


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return _process_peak()


def _process_peak() -> int | None:
    """The peak since the process started, which is all that other systems report."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
