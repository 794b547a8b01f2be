"""`loci bench study-revisits`: what revisit-dense sequences teach a world that only wandered.

Infinite-World (arXiv 2602.02393) finetunes on sequences that return to places, and reports that
about a hundred are enough, and that recall ends abruptly beyond the span seen in training. Here two
small worlds are trained on wandering sequences alone, one addressed by time, as published, and one
by poses. Both are finetuned on some revisit-dense sequences, or on as many wandering ones, for the
same number of steps. Recall is measured on held-out maps, by how long ago a view was seen.
"""

from __future__ import annotations

import json as json_format
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from loci.bench.report import write_json
from loci.bench.studies.recall_by_age import Recall, measure_recall
from loci.bench.studies.revisits_results import describe, differences, means
from loci.codecs.base import Codec
from loci.data.latents import LatentWalks, latent_walks
from loci.data.recordings import Recordings, load_recordings
from loci.envs.doom.walks import KINDS
from loci.errors import LociError
from loci.io.config_files import read_json
from loci.io.files import check_writable
from loci.memory.hierarchical import MemoryConfig
from loci.memory.schedule import MergeConfig
from loci.train.world.batches import HistorySpec
from loci.train.world.config import TrainingStage, WorldTraining
from loci.train.world.train import fit_world
from loci.world.config import WorldConfig, doom_transformer, doom_world
from loci.world.transformer import TransformerConfig, WorldTransformer
from loci.world.world import World

Addressing = Literal["time", "poses"]
Source = Literal["wander", "revisit"]
SPAN = 128
"""Frames of a training sequence."""
BUDGET = 20
"""Memory tokens, in training as in the evaluation."""
PLAN = "plan.json"
BASE_SHARE = 0.375
"""Share of the wandering walks that the bases learn from; the others are for finetuning."""


@dataclass(frozen=True)
class Arm:
    """A finetuning: from which base, on how many sequences of which kind."""

    addressing: Addressing
    source: Source
    sequences: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.addressing}-{self.source}-{self.sequences}-{self.seed}"


def study_revisits(
    json: Path,
    data: Path,
    out: Path = Path("runs/revisits"),
    model: str = "doom",
    pose_counts: tuple[int, ...] = (10, 100, 300),
    time_counts: tuple[int, ...] = (300,),
    seeds: int = 3,
    base_steps: int = 700,
    steps: int = 100,
    trials: int = 14,
    plot: Path | None = None,
) -> None:
    """Train the bases, finetune every arm, measure recall; goes on where it was stopped.

    Args:
        json: where to write the results.
        data: recordings of loci data doom, in train and test.
        out: folder of the runs; encoded walks are kept beside it.
        model: whose codec encodes the frames.
        pose_counts: numbers of sequences for the base addressed by poses.
        time_counts: the same for the base addressed by time.
        seeds: finetunings of each arm, with other sequences, batches and weights' noise.
        base_steps: optimiser steps of a base.
        steps: optimiser steps of a finetuning.
        trials: walks continued for each age of a view.
        plot: where to draw the results, as PNG.
    """
    if min(seeds, base_steps, steps, trials, *time_counts, *pose_counts) < 1:
        raise LociError(
            "counts, --seeds, --base-steps, --steps, --trials: expected at least 1 each"
        )
    for path in (json, plot):
        if path is not None:
            check_writable(path)
    _check_plan(out, {"span": SPAN, "base_steps": base_steps, "steps": steps})
    codec = World.from_pretrained(model).codec
    cache = out.parent / "latents"
    pools = Pools.of(load_recordings(data / "train"), codec, cache)
    pools.check(max(*time_counts, *pose_counts))
    test = load_recordings(data / "test")
    held_out = latent_walks(test, codec, cache, len(test.frames))
    counts: dict[Addressing, tuple[int, ...]] = {"poses": pose_counts, "time": time_counts}
    runs: list[dict[str, Any]] = []
    for addressing in counts:
        base = train_base(pools, addressing, out / f"base-{addressing}", base_steps)
        found = _measured(out / f"base-{addressing}", base, held_out, codec, trials)
        runs.append({"addressing": addressing, "source": "none", "sequences": 0, "seed": 0} | found)
        for arm in arms(addressing, counts[addressing], seeds):
            folder = out / arm.name
            tuned = _finetuned(folder, pools, arm, base, steps)
            found = _measured(folder, tuned, held_out, codec, trials)
            runs.append(vars(arm) | found)
            print(f"{arm.name}: {_line(found)}", flush=True)
    results = {"span": SPAN, "base_steps": base_steps, "steps": steps, "runs": runs}
    results |= {"means": means(runs), "differences": differences(runs)}
    write_json(json, results)
    if plot is not None:
        from loci.bench.studies.revisits_plot import draw_revisits

        draw_revisits(results, plot)
    print(describe(results))


def _check_plan(out: Path, plan: dict[str, int]) -> None:
    """That what stands in `out` was trained alike.

    Raises:
        LociError: when it was not, or the folder cannot be written.
    """
    path = out / PLAN
    if path.is_file():
        if (found := read_json(path)) != plan:
            raise LociError(f"--out: {out} holds a study of {found}, expected {plan}")
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LociError(f"--out: {out} cannot be written ({error.strerror})") from error
    write_json(path, plan)


def arms(addressing: Addressing, counts: Sequence[int], seeds: int) -> Iterator[Arm]:
    """Seed by seed, so that a study that is stopped has whole seeds."""
    for seed in range(seeds):
        for count in counts:
            for source in ("revisit", "wander"):
                yield Arm(addressing, source, count, seed)


@dataclass(frozen=True)
class Pools:
    """Sequences of `SPAN` frames: for the bases, and for finetuning of either kind."""

    base: LatentWalks
    wander: LatentWalks
    revisit: LatentWalks

    @classmethod
    def of(cls, recordings: Recordings, codec: Codec, cache: Path) -> Pools:
        """Cut recorded walks by their kind. The first `SPAN` frames of each are left out: half of
        all walks begin with a full turn.

        Raises:
            LociError: when the walks have no kinds, or are too short.
        """
        kinds = recordings.walk_attributes.get("kinds")
        if kinds is None or recordings.frames.shape[1] < 2 * SPAN:
            raise LociError(
                f"--data: expected walks of loci data doom, of at least {2 * SPAN} frames"
            )
        walks = latent_walks(recordings, codec, cache, len(recordings.frames))
        wander = np.flatnonzero(kinds == KINDS.index("wander"))
        revisit = np.flatnonzero(kinds == KINDS.index("revisit"))
        first = max(1, round(BASE_SHARE * len(wander)))
        return cls(cut(walks, wander[:first]), cut(walks, wander[first:]), cut(walks, revisit))

    def check(self, sequences: int) -> None:
        """That there are as many sequences of either kind."""
        for name, pool in (("wandering", self.wander), ("revisit-dense", self.revisit)):
            if pool.count < sequences:
                raise LociError(
                    f"--data: {pool.count} {name} sequences to finetune on, expected {sequences}"
                )

    def drawn(self, arm: Arm) -> LatentWalks:
        """The sequences of an arm: of one seed, the smaller sets are parts of the larger ones."""
        pool = self.wander if arm.source == "wander" else self.revisit
        order = np.random.default_rng([arm.seed, arm.source == "revisit"]).permutation(pool.count)
        return _rows(pool, torch.from_numpy(order[: arm.sequences]))


def cut(walks: LatentWalks, rows: np.ndarray) -> LatentWalks:
    """Some walks in sequences of `SPAN` frames, without their first one; read into memory."""
    count = walks.length // SPAN - 1
    index = torch.from_numpy(rows)

    def pieces(values: Tensor) -> Tensor:
        return values[index, SPAN : SPAN * (count + 1)].unflatten(1, (count, SPAN)).flatten(0, 1)

    parts = walks.latents, walks.actions, walks.poses, walks.true_poses
    return LatentWalks(*map(pieces, parts))


def _rows(walks: LatentWalks, rows: Tensor) -> LatentWalks:
    parts = walks.latents, walks.actions, walks.poses, walks.true_poses
    return LatentWalks(*(part[rows] for part in parts))


def small_transformer(addressing: Addressing) -> TransformerConfig:
    """A quarter of the width-squared of `doom`, and fewer blocks."""
    full = doom_transformer(addressing == "poses")
    encoder = replace(full.memory_encoder, out_channels=128, hidden=32)
    return replace(
        full, dim=128, ffn_dim=512, blocks=6, heads=2, skip_head=256, memory_encoder=encoder
    )


def study_world() -> WorldConfig:
    """As `doom` is walked, with a memory merged by age, like that of the batches."""
    world = doom_world()
    sampling = replace(world.sampling, steps=4)
    return replace(world, sampling=sampling, memory=MemoryConfig(MergeConfig(8, BUDGET)))


def _training(out: Path, addressing: Addressing, steps: int, seed: int) -> WorldTraining:
    # Some windows that saw the targets, with large turns between targets; and whole histories up to
    # the span. Where sequences hold revisits, they are preferred.
    histories = (
        HistorySpec((4, 0, 0), 1),
        HistorySpec((4, 0, 0), 2),
        HistorySpec((6, 0, 0), 3),
        HistorySpec(budget=BUDGET, lengths=(8, SPAN - 8)),
        HistorySpec(stride=3, budget=BUDGET, lengths=(8, SPAN - 24)),
    )
    stage = TrainingStage(1.0, histories, noise=0.15, revisits=0.6, moves=0.2)
    return WorldTraining(
        out=out,
        model=small_transformer(addressing),
        world=study_world(),
        stages=(stage,),
        steps=steps,
        batch_size=16,
        seed=seed,
        faded=0.1,
        learning_rate=1e-3,
        hold_fraction=0.6,
        checkpoint_seconds=60.0,
    )


def train_base(pools: Pools, addressing: Addressing, out: Path, steps: int) -> WorldTransformer:
    """A small world, trained on wandering sequences from nothing."""
    if (out / "final").is_dir():
        return WorldTransformer.from_pretrained(out / "final").float()
    return fit_world(pools.base, None, _training(out, addressing, steps, seed=0))


def _finetuned(
    out: Path, pools: Pools, arm: Arm, base: WorldTransformer, steps: int
) -> WorldTransformer:
    if (out / "final").is_dir():
        return WorldTransformer.from_pretrained(out / "final").float()
    config = _training(out, arm.addressing, steps, arm.seed + 1)
    config = replace(config, learning_rate=4e-4, warmup_steps=10)
    return fit_world(pools.drawn(arm), None, config, base)


def _measured(
    folder: Path, model: WorldTransformer, held_out: LatentWalks, codec: Codec, trials: int
) -> dict[str, Any]:
    """Recall of a model, kept beside it."""
    path = folder / f"recall-{trials}.json"
    if not path.is_file():
        found: Recall = measure_recall(model, study_world(), held_out, codec, trials)
        path.write_text(json_format.dumps(found) + "\n", encoding="utf-8")
    return read_json(path)


def _line(found: dict[str, Any]) -> str:
    return "  ".join(f"{k} {v:.1f}" for k, v in found.items() if k.startswith("seen_"))
