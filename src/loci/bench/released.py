"""`loci bench released`: how near the published networks come to the machine's matrix product.

One block of each transformer is timed at its real width on random weights, beside a matrix product
in the same run and with the same threads. Seconds of whole runs are computed from that and from
counted operations (a multiply-add counts as two).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from loci.bench.report import table, write_json
from loci.errors import LociError
from loci.io.files import check_writable
from loci.objects.models.structure_flow import StructureFlow, StructureFlowConfig
from loci.world.conditioning import Actions, Prompt
from loci.world.transformer import TransformerConfig, WorldTransformer

PRODUCT = (4096, 1024, 4096)
CONDITION_TOKENS = 7528
"""Tokens of the picture, its mask and its pointmap, in stage 1 of a lift."""
TEXT_LENGTH = 512


@dataclass(frozen=True)
class Share:
    """A network that was timed: its operations, and how fast they ran.

    Attributes:
        seconds: the best of several calls.
        rate: operations a second.
    """

    what: str
    operations: float
    seconds: float

    @property
    def rate(self) -> float:
        return self.operations / self.seconds


def released(
    json: Path, dtype: Literal["bfloat16", "float32"] = "bfloat16", layers: int = 1
) -> None:
    """Share of this machine's matrix-product rate that the published networks reach.

    Args:
        json: where to write the results.
        dtype: type of weights and products.
        layers: blocks of each transformer, at full width.
    """
    if not 1 <= layers <= 24:
        raise LociError(f"--layers: {layers}, expected 1 to 24")
    check_writable(json)
    kind = getattr(torch, dtype)
    shares, products = [], []
    for time_part in (time_structure_flow, time_world):  # other work on the machine changes rates
        before = time_product(kind)
        shares.append(time_part(kind, layers))
        after = time_product(kind)
        products.append((before.rate + after.rate) / 2)
    results = {
        "dtype": dtype,
        "layers": layers,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "product": {"shape": PRODUCT, "rates": products},
        "parts": {
            share.what: {
                "operations": share.operations,
                "seconds": share.seconds,
                "rate": share.rate,
                "share": share.rate / product,
            }
            for share, product in zip(shares, products, strict=True)
        },
    }
    write_json(json, results)
    rows = [
        [s.what, f"{s.rate / 1e12:.3f}", f"{product / 1e12:.3f}", f"{s.rate / product:.2f}"]
        for s, product in zip(shares, products, strict=True)
    ]
    print(table(["", "TFLOP/s", "product beside it", "share"], rows))


def best_seconds(call: Callable[[], object], calls: int = 2) -> float:
    """The shortest of some calls, after one that is not counted."""
    times = []
    for _ in range(calls + 1):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def time_product(dtype: torch.dtype, calls: int = 3) -> Share:
    """A matrix product of the width of the networks' layers."""
    rows, inner, columns = PRODUCT
    a, b = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    return Share("matrix product", 2 * rows * inner * columns, best_seconds(lambda: a @ b, calls))


@torch.no_grad()
def time_structure_flow(dtype: torch.dtype, layers: int = 1, calls: int = 2) -> Share:
    """A conditional evaluation of stage 1's flow with so many blocks, keys of the condition
    cached as in a run."""
    flow = StructureFlow(replace(StructureFlowConfig(), blocks=layers)).to(dtype).eval()
    noise = flow.noise(1, torch.Generator().manual_seed(0))
    context = flow.context(torch.randn(1, CONDITION_TOKENS, flow.config.condition_dim))
    timestep = torch.full((1,), 250.0)
    seconds = best_seconds(lambda: flow.velocity(noise, timestep, context, timestep * 0), calls)
    return Share("structure flow", structure_operations(flow.config), seconds)


@torch.no_grad()
def time_world(
    dtype: torch.dtype, layers: int = 1, frames: int = 6, side: int = 40, calls: int = 2
) -> Share:
    """A velocity of the world's transformer with so many blocks, for one prompt.

    Args:
        dtype: type of the weights.
        layers: blocks.
        frames: noisy latents, beside two of memory.
        side: side of a latent; its quarter is the number of tokens.
        calls: that are timed.
    """
    model = WorldTransformer(replace(TransformerConfig(), blocks=layers)).to(dtype).eval()
    local = torch.randn(1, 16, 1, side, side)
    ids = torch.zeros(1, 4 * (frames - 1) + 1, dtype=torch.long)
    prompt = Prompt(torch.randn(1, TEXT_LENGTH, 4096), torch.ones(1, TEXT_LENGTH))
    context = model.context(local, local, Actions(ids, ids), prompt)
    noisy, timestep = torch.randn(1, 16, frames, side, side), torch.full((1,), 900.0)
    seconds = best_seconds(lambda: model.velocity(noisy, timestep, context), calls)
    tokens = (side // 2) ** 2
    operations = world_operations(model.config, frames * tokens, 2 * tokens)
    return Share("world transformer", operations, seconds)


def world_operations(config: TransformerConfig, noisy: int, memory: int) -> float:
    """Operations of one velocity for one prompt, without the memory's own stream (once a chunk)."""
    dim = config.dim
    linear = 2 * noisy * (6 * dim**2 + 2 * dim * config.ffn_dim) + 2 * memory * 2 * dim**2
    attention = 4 * dim * noisy * (noisy + memory + TEXT_LENGTH)
    return float(config.blocks * (linear + attention))


def structure_operations(config: Any, tokens: int | None = None) -> float:
    """Operations of one conditional evaluation with cached keys of the condition.

    The four layout tokens and what each token costs outside the blocks are not counted.
    """
    count = config.resolution**3 if tokens is None else tokens
    dim = config.dim
    linear = 2 * count * dim**2 * (4 + 2 + 2 * config.mlp_ratio)
    attention = 4 * dim * count * (count + CONDITION_TOKENS)
    return float(config.blocks * (linear + attention))
