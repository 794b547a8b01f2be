"""Where a command computes, in what element type, and with how many threads."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loci.errors import LociError
from loci.io.models import LARGE, weight_bytes

if TYPE_CHECKING:
    import torch

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
"""int8: weights of blocks in int8, everything else in bfloat16."""
ROUNDS = 3
MIN_GAIN = 1.1
"""So much faster must all threads be than one."""


def check_device(name: str) -> None:
    """Raises LociError where the name is that of no device, without importing torch."""
    if re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", name) is None:
        raise LociError(f"--device: {name}, expected auto, cpu, cuda or mps")


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first that is there of cuda, mps, cpu.

    Raises:
        LociError: when there is no such device on this machine.
    """
    check_device(name)
    import torch

    from loci.nn.device import available_device

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((device for device in there if there[device]), "cpu")
    return available_device(name, "--device")


def choose_dtype(name: Dtype, device: torch.device, model: Path) -> torch.dtype:
    """The element type of that name; `auto` as of `loci.nn.device.automatic_dtype`."""
    import torch

    if name == "int8":
        return torch.bfloat16
    if name != "auto":
        return getattr(torch, name)
    from loci.nn.device import automatic_dtype

    return automatic_dtype(model, device)


def wait_passively() -> None:
    """Lets threads sleep while they wait for each other, in place of spinning, which on a busy
    machine costs most of the time. It is read when torch is imported, and not later."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def tune_threads(step: Callable[[], object], device: torch.device, model: Path) -> int:
    """Sets one thread for small models, unless all of them are measured to be faster.

    Args:
        step: a short piece of the work to come, without effects.
        device: nothing is changed unless it is the CPU.
        model: nothing is changed if it is large.

    Returns:
        How many threads torch has now. `OMP_NUM_THREADS` has the last word.
    """
    import torch

    most = torch.get_num_threads()
    given = "OMP_NUM_THREADS" in os.environ
    if most == 1 or given or device.type != "cpu" or weight_bytes(model) > LARGE:
        return most
    step()  # the first takes longer
    seconds = {1: 0.0, most: 0.0}
    for _ in range(ROUNDS):
        for threads in seconds:
            torch.set_num_threads(threads)
            began = time.perf_counter()
            step()
            seconds[threads] += time.perf_counter() - began
    torch.set_num_threads(most if seconds[most] * MIN_GAIN < seconds[1] else 1)
    return torch.get_num_threads()
