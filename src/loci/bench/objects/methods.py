"""The rows of `loci bench speed`: presets, published systems by mechanism, and baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from loci.acceleration.forecast import Taylor
from loci.acceleration.presets import LAYOUT_LATENTS, Preset, exact, fast, faster
from loci.acceleration.published.decoding import ReleasedDecoding
from loci.acceleration.published.forecasts import DynamicModes, Hermite
from loci.acceleration.published.published_presets import paper, released
from loci.acceleration.published.step_caches import EasyCache, TaylorSeer
from loci.acceleration.published.token_baselines import (
    Fast3DCache,
    MergedTokens,
    RandomTokens,
    random_drop,
)
from loci.acceleration.spectral import DecodingConfig
from loci.acceleration.step_cache import StepCacheConfig
from loci.acceleration.token_cache import TokenCacheConfig
from loci.errors import LociError
from loci.flow import shortened
from loci.objects.config import LifterConfig

EXACT = "exact"
FEWER = (1 / 2, 1 / 3, 1 / 4)
"""Shares of the steps of both flows, for the baseline of fewer steps."""
UNEQUAL = ((1 / 2, 1 / 4), (1 / 2, 1 / 8), (1 / 3, 1 / 8))
"""Shares of the structure flow's steps and of the SLAT flow's, which needs fewer."""
TOLERANCE = 0.03
"""Tolerance of the rows with an error budget."""
UNIFORM = ReleasedDecoding(high=math.inf, low=-math.inf, minimum=0)
"""Merges voxels by the factor 1.5, whatever the spectrum."""


class Method(NamedTuple):
    """One row of the comparison.

    Attributes:
        name: of the row.
        group: of rows, for the plot.
        preset: to lift with.
        steps: the share of both flows' steps that is taken.
    """

    name: str
    group: str
    preset: Preset
    steps: float = 1.0

    def config(self, config: LifterConfig) -> LifterConfig:
        """The settings with so many steps; at least one for each flow."""
        return replace(
            config,
            structure=shortened(config.structure, self.steps),
            slat=shortened(config.slat, self.steps),
        )


def methods(seed: int) -> list[Method]:
    """All rows, exact first; names are distinct.

    Args:
        seed: seed of what is random in the baselines.
    """
    fewer = [Method(f"steps x {part:.2g}", "fewer steps", exact(), part) for part in FEWER]
    return [
        Method(EXACT, EXACT, exact()),
        *fewer,
        *(Method(steps_name(*parts), "fewer steps", steps_preset(*parts)) for parts in UNEQUAL),
        *(Method(name, "baselines", preset) for name, preset in _baselines(seed).items()),
        *_ablation(released()),
        *_ablation(paper()),
        *(Method(name, "loci", preset) for name, preset in _ours().items()),
        Method("fast", "loci", fast()),
        Method("faster", "loci", faster()),
    ]


def select_methods(seed: int, names: Sequence[str]) -> list[Method]:
    """The rows of these names, and exact; all rows if no name is given.

    Raises:
        LociError: for an unknown name.
    """
    known = methods(seed)
    unknown = sorted(set(names) - {method.name for method in known})
    if unknown:
        expected = ", ".join(method.name for method in known)
        raise LociError(f"--rows: {unknown[0]!r}, expected some of: {expected}")
    return [method for method in known if not names or method.name in {EXACT, *names}]


def _baselines(seed: int) -> dict[str, Preset]:
    """With the settings of their papers; shares and factors, which they do not state, are ours."""

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    return {
        "random drop": Preset(
            "random drop", drop_voxels=lambda coords, rng: random_drop(coords, 0.5, rng)
        ),
        "random tokens": Preset(
            "random tokens",
            slat=lambda interval, scores, group_ids: RandomTokens(0.5, generator()),
        ),
        "uniform merge": Preset("uniform merge", decoding=UNIFORM),
        "merged tokens": Preset(
            "merged tokens",
            slat=lambda interval, scores, group_ids: MergedTokens(group_ids),
        ),
        "Fast3DCache": Preset(
            "Fast3DCache", slat=lambda interval, scores, group_ids: Fast3DCache()
        ),
        "TaylorSeer": Preset(
            "TaylorSeer",
            structure=lambda interval: TaylorSeer(),
            slat=lambda interval, scores, group_ids: TaylorSeer(),
        ),
        "EasyCache": Preset(
            "EasyCache",
            structure=lambda interval: EasyCache(),
            slat=lambda interval, scores, group_ids: EasyCache(),
        ),
    }


def _ours() -> dict[str, Preset]:
    """Our mechanisms alone and together, with one tolerance; other forecasts in the step caches of
    both flows; and guidance evaluated less often, alone and with fewer steps."""
    steps, tokens = (
        StepCacheConfig(layout=LAYOUT_LATENTS, tolerance=TOLERANCE),
        TokenCacheConfig(tolerance=TOLERANCE),
    )
    both, decoding = Preset("both", steps, tokens), DecodingConfig()
    found = {
        "loci structure": Preset("loci structure", structure=both.structure),
        "loci slat": Preset("loci slat", slat=both.slat),
        "loci decoding": Preset("loci decoding", decoding=decoding),
        "loci": replace(both, name="loci", decoding=decoding),
    }
    forecasts = {"line": Taylor(), "Hermite": Hermite(), "modes": DynamicModes()}
    for kind, forecast in forecasts.items():
        cached = replace(steps, forecast=forecast)
        found[f"loci {kind}"] = Preset(f"loci {kind}", cached, replace(cached, layout=()))
    for every in (2, None):
        often = "once" if every is None else f"1 in {every}"
        for part in (1, *FEWER):
            name = f"guided {often}" + (f", steps x {part:.2g}" if part < 1 else "")
            found[name] = Preset(
                name, structure_step_share=part, slat_step_share=part, guide_every=every
            )
    for parts in (*((part, part) for part in FEWER), *UNEQUAL):
        for often, every in (("", 1), ("guided 1 in 2, ", 2), ("guided once, ", None)):
            name = f"loci decoding, {often}{steps_name(*parts)}"
            base = steps_preset(*parts)
            found[name] = replace(base, name=name, decoding=decoding, guide_every=every)
    return found


def steps_name(structure: float, slat: float) -> str:
    """The name of a row with these shares of the steps of both flows."""
    if structure == slat:
        return f"steps x {structure:.2g}"
    return f"structure x {structure:.2g}, slat x {slat:.2g}"


def steps_preset(structure: float, slat: float) -> Preset:
    """A preset that takes these shares of the steps, and is exact otherwise."""
    name = steps_name(structure, slat)
    return Preset(name, structure_step_share=structure, slat_step_share=slat)


def _ablation(whole: Preset) -> list[Method]:
    """A published system by its three mechanisms: each alone, each pair, and all of them."""
    pieces = ("structure", "slat", "decoding")
    chosen = [pieces[:1], pieces[1:2], pieces[2:], pieces[:2], pieces[::2], pieces[1:], pieces]
    found = []
    for some in chosen:
        name = whole.name if some == pieces else f"{whole.name} {' + '.join(some)}"
        without = {piece: None for piece in pieces if piece not in some}
        found.append(Method(name, whole.name, replace(whole, name=name, **without)))
    return found
