"""Evaluation of the stage-2 flow: latents sampled from pictures of held-out objects, on their true
voxels at their true poses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from loci.geometry.gaussians.render import render_gaussians
from loci.nn.sparse.voxels import Voxels
from loci.objects.config import home
from loci.objects.inputs.preprocess import slat_inputs
from loci.objects.models.condition import EmbedderFuser
from loci.objects.models.slat_flow import SlatFlow, SlatStatistics
from loci.objects.sampling import sample_slat
from loci.train.run_directory import RunDirectory
from loci.train.slat.parts import SlatVAE
from loci.train.slat.targets import aligned_pixels, clean_scene, encode_objects
from loci.train.slat.vae_data import SlatDataset, SlatObject, TargetView
from loci.train.slat.vae_evaluate import PIXELS, WHITE, evenly_spaced, render_psnr, sheet_rows
from loci.train.structure.scenes import ObjectView

SCORES = ("psnr_ceiling", "psnr", "psnr_constant")


class EvaluationCase(NamedTuple):
    """One object: the view that is given, another to compare a render with, voxels, latents."""

    item: SlatObject
    view: ObjectView
    target: TargetView
    voxels: Voxels
    latents: Tensor


@dataclass(frozen=True)
class SlatFlowEvaluation:
    """Held-out cases, and what decodes and normalises latents."""

    cases: tuple[EvaluationCase, ...]
    codec: SlatVAE
    statistics: SlatStatistics

    @classmethod
    def prepare(
        cls, test: SlatDataset, codec: SlatVAE, statistics: SlatStatistics, count: int
    ) -> SlatFlowEvaluation:
        """`count` objects spread over `test`: one view is given, one half a turn of views on is
        compared."""
        cases = []
        for number in evenly_spaced(len(test), count):
            given = number % test.views
            other = test.view(number, (given + test.views // 2) % test.views).target(PIXELS)
            voxels, latents, _ = encode_objects([test.items[number]], codec.encoder)
            view = test.view(number, given).view
            target = other.to(latents.device)
            cases.append(EvaluationCase(test.items[number], view, target, voxels, latents))
        return cls(tuple(cases), codec, statistics)

    @torch.no_grad()
    def score(self, fuser: EmbedderFuser, flow: SlatFlow, run: RunDirectory) -> dict[str, float]:
        """Means over the cases; writes a sheet: truth, encoder's latents, sampled, constant.

        error is the root mean squared difference between sampled and encoder's latents,
        error_constant that of the mean latents, both in standard deviations; psnr compares renders
        with a view that was not given: of sampled latents, of the encoder's (ceiling), and of the
        mean latents (constant). Runs on the models' device.
        """
        size = fuser_size(fuser)
        settings = replace(home().lifter.slat, statistics=self.statistics)
        rows: dict[str, list[Tensor]] = {name: [] for name in ("truth", *SCORES)}
        scores: dict[str, list[float]] = {}
        for number, case in enumerate(self.cases):
            device = case.latents.device
            rng = torch.Generator().manual_seed(number)
            scene = clean_scene(case.view, rng)
            inputs = slat_inputs(scene.rgb, scene.mask, size)
            condition = fuser({name: x.to(device) for name, x in inputs.items()})
            aligned = None
            if flow.config.aligned:
                aligned = aligned_pixels(case.item, case.view, scene).to(device)
            shape = (len(case.voxels), flow.config.channels)
            noise = torch.randn(shape, generator=rng).to(device)
            sampled = sample_slat(flow, condition, case.voxels, noise, settings, aligned=aligned)
            constant = self.statistics.denormalize(torch.zeros_like(sampled))
            rows["truth"].append(case.target.over(WHITE))
            found = {
                "error": self._error(sampled, case),
                "error_constant": self._error(constant, case),
            }
            for name, latents in zip(SCORES, (case.latents, sampled, constant), strict=True):
                render = self._render(latents, case)
                rows[name].append(render)
                found[name] = render_psnr(render, case.target)
            for name, value in found.items():
                scores.setdefault(name, []).append(value)
        run.sheet("latents", sheet_rows(*rows.values()))
        return {name: sum(values) / len(values) for name, values in scores.items()}

    def _error(self, latents: Tensor, case: EvaluationCase) -> float:
        scale = latents.new_tensor(self.statistics.std)
        return float(((latents - case.latents) / scale).square().mean().sqrt())

    def _render(self, latents: Tensor, case: EvaluationCase) -> Tensor:
        gaussians = self.codec.gaussians.decode(latents, case.voxels)[0]
        return render_gaussians(gaussians, case.target.camera, PIXELS, WHITE).color


def fuser_size(fuser: EmbedderFuser) -> int:
    """The side of the pictures a fuser was made for."""
    assert fuser.config is not None
    return fuser.config.picture.input_size
