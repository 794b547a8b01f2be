"""`loci bench published`: how near the published networks come to the machine's matrix product.

Each network is evaluated at its real width on random weights, between matrix products in the same
run and with the same threads. Rates are operations a second of processor time: on a machine with
other work, a short product finds a free moment where a long evaluation finds none, and by the clock
the product would seem several times faster than it is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from loci.bench.operations import Profile, profiled
from loci.bench.published_parts import (
    CONDITION_TOKENS,
    TEXT_LENGTH,
    Part,
    makers,
    structure_flow,
    world_transformer,
)
from loci.bench.report import table, write_json
from loci.errors import LociError
from loci.io.files import check_writable
from loci.objects.costs import StageCost, measured
from loci.world.transformer import TransformerConfig

PRODUCT = (4096, 1024, 4096)
PRODUCT_SECONDS = 0.2
"""Processor time of the products between two evaluations, at least."""
KINDS = ("products", "attention", "convolutions", "other")


@dataclass(frozen=True)
class Share:
    """A network that was timed: its operations, and how fast they ran by the clock.

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


@dataclass(frozen=True)
class Result:
    """An evaluation of a part, beside matrix products.

    Attributes:
        operations: of one evaluation.
        seconds: of it by the clock, the best.
        processor_seconds: of it a thread, the median.
        rate: operations a second of processor time, of a thread each.
        product: the rate of matrix products before and after.
        share: the median of rate / product.
        kinds: how the processor time divides; the sum is 1.
        peak_bytes: of the process, its weights included; None where the system does not say.
    """

    what: str
    operations: float
    seconds: float
    processor_seconds: float
    rate: float
    product: float
    share: float
    kinds: dict[str, float]
    peak_bytes: int | None


def published(
    json: Path,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    layers: int = 2,
    rounds: int = 3,
    only: tuple[str, ...] = (),
) -> None:
    """Share of this machine's matrix-product rate that the published networks reach.

    Args:
        json: where to write the results.
        dtype: type of weights and products.
        layers: blocks of each transformer, at full width.
        rounds: evaluations that are timed of each network.
        only: names of the networks (as in the results), all if none is given.
    """
    if not 1 <= layers <= 24:
        raise LociError(f"--layers: {layers}, expected 1 to 24")
    if rounds < 1:
        raise LociError(f"--rounds: {rounds}, expected at least 1")
    kind = getattr(torch, dtype)
    made = makers(kind, layers)
    unknown = [name for name in only if name not in made]
    if unknown:
        raise LociError(f"--only: {unknown[0]}, expected some of {', '.join(made)}")
    check_writable(json)
    results = {}
    for name in only or made:
        part = made[name]()
        results[name] = measure(part, kind, rounds)
        print(f"{part.what}: {results[name].share:.2f} of the product's rate", flush=True)
        del part
        written = {
            "dtype": dtype,
            "layers": layers,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "product": PRODUCT,
            "parts": {name: asdict(result) for name, result in results.items()},
        }
        write_json(json, written)  # after each, so that what was measured is kept
    print(shares_table(list(results.values())))


def shares_table(results: list[Result]) -> str:
    """A row for each result; of processor time, what share went where."""
    headers = ["", "TFLOP", "s", "TFLOP/s", "product", "share", *KINDS, "GB"]
    rows = [
        [
            result.what,
            f"{result.operations / 1e12:.2f}",
            f"{result.processor_seconds:.2f}",
            f"{result.rate / 1e12:.3f}",
            f"{result.product / 1e12:.3f}",
            f"{result.share:.2f}",
            *(f"{result.kinds.get(kind, 0):.0%}" for kind in KINDS),
            None if result.peak_bytes is None else f"{result.peak_bytes / 1e9:.1f}",
        ]
        for result in results
    ]
    return table(headers, rows)


@torch.no_grad()
def measure(part: Part, dtype: torch.dtype, rounds: int = 3) -> Result:
    """Times a part between matrix products, and profiles one more evaluation of it."""
    costs: list[StageCost] = []
    with measured(part.what, torch.device("cpu"), costs):
        part.call()
    product = _Product(dtype)
    clock, busy, products, shares = [], [], [], []
    profile = profiled(part.call)
    before = product.rate()
    for _ in range(rounds):
        began = time.perf_counter(), time.process_time()
        part.call()
        clock.append(time.perf_counter() - began[0])
        busy.append((time.process_time() - began[1]) / torch.get_num_threads())
        after = product.rate()
        products.append((before + after) / 2)
        shares.append(profile.operations / busy[-1] / products[-1])
        before = after
    seconds = statistics.median(busy)
    return Result(
        what=part.what,
        operations=profile.operations,
        seconds=min(clock),
        processor_seconds=seconds,
        rate=profile.operations / seconds,
        product=statistics.median(products),
        share=statistics.median(shares),
        kinds=_divided(profile),
        peak_bytes=costs[0].peak_bytes,
    )


def _divided(profile: Profile) -> dict[str, float]:
    total = sum(profile.seconds.values())
    return {kind: seconds / total for kind, seconds in profile.seconds.items()}


class _Product:
    """A matrix product of the width of the networks' layers."""

    def __init__(self, dtype: torch.dtype) -> None:
        rows, inner, columns = PRODUCT
        self.a = torch.randn(rows, inner).to(dtype)
        self.b = torch.randn(inner, columns).to(dtype)
        torch.matmul(self.a, self.b)  # not counted: the kernel is made

    def rate(self) -> float:
        """Operations a second of processor time, of a thread each."""
        count, began, busy = 0, time.process_time(), 0.0
        while busy < PRODUCT_SECONDS * torch.get_num_threads():
            torch.matmul(self.a, self.b)
            count, busy = count + 1, time.process_time() - began
        rows, inner, columns = PRODUCT
        return 2 * rows * inner * columns * count * torch.get_num_threads() / busy


def best_seconds(call: Callable[[], object], calls: int = 2) -> float:
    """The shortest of some calls, after one that is not counted."""
    times = []
    for _ in range(calls + 1):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times[1:])


@torch.no_grad()
def time_structure_flow(dtype: torch.dtype, layers: int = 1, calls: int = 2) -> Share:
    """`structure_flow` by the clock, for estimates of whole runs."""
    return _timed(structure_flow(dtype, layers), calls)


@torch.no_grad()
def time_world(
    dtype: torch.dtype, layers: int = 1, frames: int = 6, side: int = 40, calls: int = 2
) -> Share:
    """`world_transformer` by the clock, for estimates of whole runs."""
    return _timed(world_transformer(dtype, layers, frames, side), calls)


def _timed(part: Part, calls: int) -> Share:
    operations = profiled(part.call).operations
    return Share(part.what, operations, best_seconds(part.call, calls))


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
