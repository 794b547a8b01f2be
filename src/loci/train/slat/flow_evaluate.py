"""What a stage-2 flow makes of pictures of objects it has not seen, on their true voxels at their
true places."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from loci.geometry.gaussians.render import render_gaussians
from loci.nn.sparse.tensor import Voxels
from loci.objects.inputs.preprocess import latent_inputs
from loci.objects.models.condition import EmbedderFuser
from loci.objects.models.slat_flow import LatentStatistics, SlatFlow
from loci.objects.presets import home
from loci.objects.sampling import latent_noise, sample_latents
from loci.train.slat.parts import SlatVAE
from loci.train.slat.targets import clean_scene, encoded, pixels_of
from loci.train.slat.vae_data import SeenView, SlatDataset, SlatObject
from loci.train.slat.vae_evaluate import PIXELS, WHITE, picture_psnr, sheet_rows, spread
from loci.train.structure.scenes import Sight
from loci.train.trainer import RunDirectory


class Case(NamedTuple):
    """One object, the picture shown, another view to compare with, the voxels, their latents."""

    item: SlatObject
    shown: Sight
    seen: SeenView
    voxels: Voxels
    latents: Tensor


@dataclass(frozen=True)
class SlatFlowEvaluation:
    """Held-out cases, and what is needed to judge sampled latents by."""

    cases: tuple[Case, ...]
    parts: SlatVAE
    statistics: LatentStatistics

    @classmethod
    def prepare(
        cls, test: SlatDataset, parts: SlatVAE, statistics: LatentStatistics, count: int
    ) -> SlatFlowEvaluation:
        """`count` objects spread over `test`; one view is shown, one half a turn of views on is
        compared."""
        cases = []
        for number in spread(len(test), count):
            shown = number % test.views
            seen = test.recorded(number, (shown + test.views // 2) % test.views).seen(PIXELS)
            voxels, latents, _ = encoded([test.items[number]], parts.encoder)
            sight = test.recorded(number, shown).sight
            cases.append(Case(test.items[number], sight, seen, voxels, latents))
        return cls(tuple(cases), parts, statistics)

    @torch.no_grad()
    def examine(self, fuser: EmbedderFuser, flow: SlatFlow, run: RunDirectory) -> dict[str, float]:
        """Means over the cases; writes a sheet: truth, encoder's latents, sampled, constant.

        error is the root of the mean squared difference between sampled and encoder's latents,
        error_constant that of the mean latents, both in their deviations; psnr compares renders
        with a view that was not shown: of sampled latents, of the encoder's (ceiling), and of the
        mean latents (constant).
        """
        size = fuser_size(fuser)
        settings = replace(home().run.latents, statistics=self.statistics)
        rows: dict[str, list[Tensor]] = {name: [] for name in ("truth", *PSNRS)}
        scores: dict[str, list[float]] = {}
        for number, case in enumerate(self.cases):
            rng = torch.Generator().manual_seed(number)
            scene = clean_scene(case.shown, rng)
            condition = fuser(latent_inputs(scene.rgb, scene.mask, size))
            aligned = pixels_of(case.item, case.shown, scene) if flow.config.aligned else None
            noise = latent_noise(flow, case.voxels, rng)
            sampled = sample_latents(flow, condition, case.voxels, noise, settings, aligned=aligned)
            constant = self.statistics.denormalise(torch.zeros_like(sampled))
            rows["truth"].append(case.seen.over(WHITE))
            found = {
                "error": self._error(sampled, case),
                "error_constant": self._error(constant, case),
            }
            for name, latents in zip(PSNRS, (case.latents, sampled, constant), strict=True):
                drawn = self._drawn(latents, case)
                rows[name].append(drawn)
                found[name] = picture_psnr(drawn, case.seen)
            for name, value in found.items():
                scores.setdefault(name, []).append(value)
        run.sheet("latents", sheet_rows(*rows.values()))
        return {name: sum(values) / len(values) for name, values in scores.items()}

    def _error(self, latents: Tensor, case: Case) -> float:
        scale = latents.new_tensor(self.statistics.std)
        return float(((latents - case.latents) / scale).square().mean().sqrt())

    def _drawn(self, latents: Tensor, case: Case) -> Tensor:
        gaussians = self.parts.gaussians.decode(latents, case.voxels)[0]
        return render_gaussians(gaussians, case.seen.camera, PIXELS, WHITE).colour


PSNRS = ("psnr_ceiling", "psnr", "psnr_constant")


def fuser_size(fuser: EmbedderFuser) -> int:
    """The side of the pictures a fuser was made for."""
    assert fuser.config is not None
    return fuser.config.picture.input_size
