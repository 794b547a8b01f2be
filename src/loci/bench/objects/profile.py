"""`loci bench speed-parts`: seconds of the published model's parts, and of whole runs."""

from __future__ import annotations

import json as json_format
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from loci.bench.report import table, write_json
from loci.errors import LociError
from loci.io.files import check_writable
from loci.nn.sparse.voxels import Voxels
from loci.objects.config import LifterConfig
from loci.objects.inputs.observation import LiftRequest, ObservedPicture
from loci.objects.models.condition import POINTMAPS
from loci.objects.parts import (
    GAUSSIAN_DECODER,
    MESH_DECODER,
    PARTS,
    SLAT_FLOW,
    SLAT_FUSER,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    STRUCTURE_FUSER,
    PartConfigs,
)


class PartInputs:
    """Inputs of the right shapes for every part of a lifter.

    Parts are called in the order of a run: flows take the condition of the fuser before them.
    """

    def __init__(
        self,
        parts: PartConfigs,
        run: LifterConfig,
        voxels: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.device, self.dtype = device, dtype
        self.tensors = _disc(run).tensors
        self.voxels = Voxels(shell(voxels, parts.gaussian_decoder.torso.resolution).to(device))
        tokens, channels = parts.structure_flow.resolution**3, parts.structure_flow.shape_channels
        self.shape = torch.randn(1, tokens, channels, device=device, dtype=dtype)
        self.condition = torch.zeros(1, 1, 1)

    def calls(self, name: str, part: Any) -> dict[str, Callable[[], Any]]:
        """The calls of a part that are measured, by name."""
        voxels, time = self.voxels, torch.full((1,), 250.0, device=self.device)
        if name in (STRUCTURE_FUSER, SLAT_FUSER):
            tensors = {n: x.to(self.device, self.dtype) for n, x in self.tensors.items()}
            dropped = [n for n in POINTMAPS if n not in tensors]
            self.condition = part(tensors, dropped)
            stage = "structure" if name == STRUCTURE_FUSER else "slat"
            return {f"pictures of {stage}": lambda: part(tensors, dropped)}
        if name == STRUCTURE_FLOW:
            generator = torch.Generator(self.device).manual_seed(0)
            noise, context = part.noise(1, generator), part.context(self.condition)
            return {
                "structure": lambda: part.velocity(noise, time, context),
                "structure uncond": lambda: part.velocity(noise, time, None),
            }
        if name == STRUCTURE_DECODER:
            return {"voxels": lambda: part(self.shape)}
        if name == SLAT_FLOW:
            latents = torch.randn(len(voxels), part.config.channels, device=self.device)
            context = part.context(self.condition)
            return {
                "slat": lambda: part.velocity(latents, time, voxels, context),
                "slat uncond": lambda: part.velocity(latents, time, voxels, None),
            }
        latents = torch.randn(len(voxels), part.config.torso.channels, device=self.device)
        outputs = {GAUSSIAN_DECODER: "gaussians", MESH_DECODER: "mesh"}
        return {outputs[name]: lambda: part(latents, voxels)}


def shell(count: int, resolution: int) -> Int[Tensor, "n 4"]:
    """The `count` voxels nearest to a sphere whose radius is a third of the grid, sorted."""
    coords = torch.cartesian_prod(torch.zeros(1).long(), *[torch.arange(resolution)] * 3)
    distance = ((coords[:, 1:] + 0.5 - resolution / 2).norm(dim=1) - resolution / 3).abs()
    return coords[distance.argsort()[:count].sort().values]


def _disc(run: LifterConfig) -> LiftRequest:
    """A request for a disc on a slanted wall of noise."""
    rng, side = np.random.default_rng(0), run.input_size
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    picture = ObservedPicture.read(
        rng.integers(0, 256, (side, side, 3), dtype=np.uint8), 2 + rows, fov=50.0
    )
    return picture.request(rows**2 + columns**2 < 0.1, "disc", 0, run.input_size)


GUIDED = {"structure": (25, 19), "slat": (25, 13)}
"""Evaluations in a run with the published settings, conditional and unconditional."""
NOTES = (
    "measured: median seconds of each part at the published size with random weights, after one "
    "untimed call; the mesh without extracting its surface",
    "estimated: whole runs, from these seconds and the shares of evaluations, tokens and voxels "
    "that each method took with another model; an evaluation of some tokens is taken to cost "
    "their share, stage 2 and the decoders the share of the voxels; voxels merged for the mesh "
    "alone (preset paper) are not counted",
)


def speed_parts(
    json: Path,
    rows: Path | None = None,
    voxels: int = 10_000,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
    repeats: int = 3,
    device: str = "cpu",
) -> None:
    """Time the parts of the published model, and estimate whole runs from that.

    Args:
        json: where to write the results.
        rows: the results of loci bench speed, for the shares of every method.
        voxels: of the object.
        dtype: of the weights.
        repeats: how often each part is timed; the median counts.
        device: cpu, cuda or mps.
    """
    check_writable(json)

    from loci.objects.config import sam3d_objects

    shares = {} if rows is None else read_shares(rows)
    model = sam3d_objects()
    seconds = part_seconds(
        model.parts, model.lifter, voxels, torch.device(device), getattr(torch, dtype), repeats
    )
    estimated = {name: whole_run(seconds, share) for name, share in shares.items()}
    results = {
        "measured": {"seconds": seconds, "voxels": voxels, "dtype": dtype, "device": device},
        "estimated": estimated,
        "notes": list(NOTES),
    }
    write_json(json, results)
    print(describe(results))


def read_shares(path: Path) -> dict[str, dict[str, float]]:
    """By method, the shares of exact's evaluations, tokens and voxels.

    Raises:
        LociError: when the file has other content.
    """
    try:
        rows = json_format.loads(path.read_text(encoding="utf-8"))["rows"]
        return {name: {k: float(v) for k, v in row["shares"].items()} for name, row in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LociError(f"{path}: expected the results of loci bench speed") from error


def part_seconds(
    parts: PartConfigs,
    run: LifterConfig,
    voxels: int,
    device: torch.device,
    dtype: torch.dtype,
    repeats: int,
) -> dict[str, float]:
    """Median seconds of every part, one in memory at a time; `uncond` is without a picture."""
    inputs, found = PartInputs(parts, run, voxels, device, dtype), {}
    for name in PARTS:
        part: Any = parts.build(name).to(device, dtype).eval()
        with torch.no_grad():
            for output, call in inputs.calls(name, part).items():
                found[output] = _seconds(call, repeats)
        del part
    return found


def whole_run(seconds: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    """Seconds of the stages of a whole run in which only these shares are computed."""
    flows = {}
    for stage, (conditional, unconditional) in GUIDED.items():
        whole = conditional * seconds[stage] + unconditional * seconds[f"{stage} uncond"]
        flows[stage] = whole * shares[stage] * (shares["tokens"] if stage == "slat" else 1)
    flows["slat"] *= shares["voxels"]
    stages = {
        "pictures": seconds["pictures of structure"] + seconds["pictures of slat"],
        **flows,
        "voxels": seconds["voxels"],
        "decoding": (seconds["gaussians"] + seconds["mesh"]) * shares["voxels"],
    }
    return {**stages, "all": sum(stages.values())}


def describe(results: dict[str, Any]) -> str:
    """Both tables as text."""
    measured, estimated = results["measured"], results["estimated"]
    lines = [
        f"measured: {measured['voxels']} voxels, {measured['dtype']}, {measured['device']}",
        table(["part", "seconds"], [[name, s] for name, s in measured["seconds"].items()]),
        "",
    ]
    if estimated:
        (first, *_), stages = estimated.values(), list(next(iter(estimated.values())))
        exact = estimated.get("exact", first)
        rows = [
            [name, *(run[stage] for stage in stages), exact["all"] / run["all"]]
            for name, run in estimated.items()
        ]
        head = ["estimated", *(f"{stage} s" for stage in stages), "speed-up"]
        lines += [table(head, rows), ""]
    return "\n".join([*lines, *(f"({note})" for note in results["notes"])])


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    def once() -> float:
        began = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    once()
    return median(once() for _ in range(repeats))
