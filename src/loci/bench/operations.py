"""What a call computes: its operations counted, its processor time by kind of operation.

A multiply-add counts as two operations; only matrix products, attention and convolutions count.
Time is that of the processor, so that other work on the machine is not taken for the call's own.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Kind = Literal["products", "attention", "convolutions"]
OTHER = "other"
"""Norms, activations, copies, conversions, and what Python does between operations."""

KINDS: dict[str, Kind] = {
    "aten::mm": "products",
    "aten::addmm": "products",
    "aten::bmm": "products",
    "aten::baddbmm": "products",
    "aten::linear": "products",
    "mkldnn::_linear_pointwise": "products",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
    "aten::_scaled_dot_product_flash_attention": "attention",
    "aten::_scaled_dot_product_efficient_attention": "attention",
    "aten::convolution": "convolutions",
    "aten::mkldnn_convolution": "convolutions",
}


@dataclass(frozen=True)
class Profile:
    """Operations of a call, and processor seconds by kind, `OTHER` among them."""

    operations: float
    seconds: dict[str, float]


def profiled(call: Callable[[], object]) -> Profile:
    """Runs a call once and counts what it computes."""
    with _Counter():  # not counted: the first imports more of torch, for a second
        torch.ones(1, 1) @ torch.ones(1, 1)  # pyright: ignore[reportUnusedExpression]
    began = time.process_time()
    with _Counter() as counter:
        call()
    total = time.process_time() - began
    seconds = dict(counter.seconds)
    seconds[OTHER] = total - sum(seconds.values())
    return Profile(counter.operations, seconds)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0.0
        self.seconds: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.name().partition(".")[0]
        kind = KINDS.get(name)
        if kind is None:
            return func(*args, **(kwargs or {}))
        began = time.process_time()
        out = func(*args, **(kwargs or {}))
        self.seconds[kind] += time.process_time() - began
        self.operations += _operations(name, kind, args, out)
        return out


def _operations(name: str, kind: Kind, args: tuple[Any, ...], out: Any) -> float:
    if kind == "attention":
        queries, keys, values = args[:3]
        return 2.0 * queries.numel() * keys.shape[-2] + 2.0 * out[0].numel() * values.shape[-2]
    if kind == "convolutions":
        return 2.0 * out.numel() * args[1][0].numel()
    inner = args[1] if name in ("aten::addmm", "aten::baddbmm") else args[0]
    return 2.0 * out.numel() * inner.shape[-1]
