"""Precision of matrix products while training: bfloat16 where the processor is made for it.

Weights, gradients and the optimiser's state stay in float32; only what autocast covers, matrix
products and convolutions, is computed in the narrower type. The command line reads `Precision` from
here, so torch is imported where it is needed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


Precision = Literal["auto", "float32", "bfloat16"]
SIDE, TRIES = 256, 3
"""Side of the matrices that are timed, and repetitions. Small: emulated bfloat16 is eighty times
slower."""


def matmul_type(precision: Precision) -> torch.dtype:
    """The type that `precision` stands for on this machine.

    `auto` is bfloat16 where a product of two matrices takes less than two thirds of the time in it
    than in float32: there is no other way to find out whether a processor emulates it.
    """
    import torch

    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if torch.backends.mps.is_available():
        return torch.float32
    pays = _seconds(torch.bfloat16) < _seconds(torch.float32) * 2 / 3
    return torch.bfloat16 if pays else torch.float32


def _seconds(dtype: torch.dtype) -> float:
    """The shortest of some products on the CPU, the first left out."""
    import torch

    matrix = torch.ones(SIDE, SIDE, dtype=dtype)
    taken = []
    for _ in range(TRIES + 1):
        began = time.perf_counter()
        torch.mm(matrix, matrix)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
