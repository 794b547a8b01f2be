"""`loci bench study-labels`: what labels in three states are worth to a model that learns.

Films of generated maps, carried by hand; the noise of an odometry; labels of the noisy poses by
several rules; a small model for each, from the same start with the same samples.
"""

from __future__ import annotations

import json as jsons
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loci.actions import UNCERTAIN
from loci.bench.report import confidence_intervals, mean_over_seeds, table, write_json
from loci.bench.studies.hand_films import FPS, HandFilms, hand_films
from loci.bench.studies.label_arms import (
    ARMS,
    Arm,
    ArmLabels,
    ArmThresholds,
    label_films,
    oracle,
    quality,
)
from loci.bench.studies.label_judging import Examination
from loci.bench.studies.label_training import LabelledFilms, small_transformer, train_chunks
from loci.bench.studies.labels_plot import check_drawable, draw
from loci.codecs.frame import FrameCodec
from loci.errors import LociError
from loci.io.config_files import CONFIG_NAME
from loci.io.files import check_writable
from loci.io.models import find_model
from loci.world.transformer import WorldTransformer

GROUPS = {
    "turns": ("turn left", "turn right"),
    "sideways": ("left", "right"),
    "along": ("forward", "back"),
}
"""Commands whose shares are averaged: what a picture does by itself, such as to blur, favours one
of each pair and harms the other."""
SCORES = ("obedience", *GROUPS, "turn_pixels", "still_pixels", "still_psnr", "psnr")
NAIVE: Arm = "one threshold"
"""What the others are compared with: the plainest rule that measures over a fifth of a second."""
RESULTS, FILMS = "results.jsonl", "films.npz"


@dataclass(frozen=True)
class StudyPlan:
    """How much is recorded, trained and judged.

    Args:
        films: to train on, one to a map.
        held_out: films of other maps.
        frames: of a film, 15 a second.
        base_steps: training steps without actions, before the arms part.
        steps: training steps of every arm.
        batch_size: examples a step.
        width, blocks: of the model.
        starts: held-out frames from which every command is given.
        examples: held-out examples of the next frames.
    """

    films: int = 60
    held_out: int = 10
    frames: int = 300
    base_steps: int = 800
    steps: int = 580
    batch_size: int = 16
    width: int = 128
    blocks: int = 4
    starts: int = 32
    examples: int = 64


def study_labels(
    json: Path,
    work: Path = Path("runs/study-labels"),
    plot: Path | None = None,
    seeds: int = 3,
    codec: Path = Path("doom"),
    plan: StudyPlan = StudyPlan(),
) -> None:
    """Train on labels by several rules and see which model obeys; about an hour of a core.

    Every arm and seed that is done is a line of `results.jsonl` in the work folder: the same
    command goes on after a stop.

    Args:
        json: where to write the results.
        work: a folder for films, weights and what is done.
        plot: where to write a plot, a PNG.
        seeds: repetitions: of the noise of poses, and of samples. All begin with the same weights.
        codec: a model whose codec to use: frames of 128x128, a latent for each.
        plan: how much is recorded, trained and judged.

    Raises:
        LociError: when the work folder is of another plan.
    """
    if seeds < 1:
        raise LociError(f"--seeds: {seeds}, expected at least 1")
    for path in (json, plot) if plot else (json,):
        check_writable(path)
    if plot:
        check_drawable()
    study = Study.prepare(work, codec, plan)
    for seed in range(seeds):
        for arm in ARMS:
            study.run(arm, seed)
    runs = [run for run in study.done() if run["seed"] < seeds]
    results = summarize(runs, study.examination.of_engine(), asdict(plan))
    write_json(json, results)
    if plot:
        draw(plot, results)
    print(describe(results))


@dataclass(frozen=True)
class Study:
    """Films, their true actions, and how models are judged."""

    work: Path
    plan: StudyPlan
    films: HandFilms
    thresholds: ArmThresholds
    true: np.ndarray
    examination: Examination

    @classmethod
    def prepare(cls, work: Path, codec: Path, plan: StudyPlan) -> Study:
        frame_codec = FrameCodec.from_pretrained(find_model(codec, CONFIG_NAME) / "codec")
        sizes = plan.films, plan.held_out, plan.frames
        films = hand_films(work / FILMS, frame_codec, *sizes)
        thresholds = ArmThresholds.of(films.poses, FPS)
        true = oracle(films.poses, thresholds, FPS)
        held_out = oracle(films.held_out_poses, thresholds, FPS)
        examination = Examination.prepare(films, held_out, frame_codec, plan.examples, plan.starts)
        return cls(work, plan, films, thresholds, true, examination)

    def done(self) -> list[dict[str, Any]]:
        """What has been run, one after the other.

        Raises:
            LociError: when it was run with another plan.
        """
        path = self.work / RESULTS
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        try:
            runs = [jsons.loads(line) for line in lines]
        except ValueError as error:
            raise LociError(f"{path}: damaged; remove its last line") from error
        if any(run["plan"] != asdict(self.plan) for run in runs):
            raise LociError(f"{path}: results of another plan, expected another --work")
        return runs

    def run(self, arm: Arm, seed: int) -> None:
        """Train and judge one arm, unless it is done."""
        if any(run["arm"] == arm and run["seed"] == seed for run in self.done()):
            return
        labels = label_films(self.films.poses, self.thresholds, FPS, seed)[arm]
        world = self._train(f"{arm}-{seed}", labels, self.plan.steps, seed, self.base())
        run = {"arm": arm, "seed": seed, "plan": asdict(self.plan), **quality(labels, self.true)}
        run |= self.examination.of_model(world)
        with (self.work / RESULTS).open("a", encoding="utf-8") as file:
            file.write(jsons.dumps(run) + "\n")
        shutil.rmtree(self.work / f"{arm}-{seed}", ignore_errors=True)

    def base(self) -> WorldTransformer:
        """Weights from which all arms begin: trained on the films without any action."""
        final = self.work / "base" / "final"
        if final.is_dir():
            return WorldTransformer.from_pretrained(final)
        unknown = np.full_like(self.true, UNCERTAIN)
        labels = ArmLabels(unknown, np.ones(unknown.shape[:2], bool))
        return self._train("base", labels, self.plan.base_steps, 1000)

    def _train(
        self,
        name: str,
        labels: ArmLabels,
        steps: int,
        seed: int,
        start: WorldTransformer | None = None,
    ) -> WorldTransformer:
        plan, latents = self.plan, torch.from_numpy(self.films.latents)
        actions, used = torch.from_numpy(labels.ids), torch.from_numpy(labels.used)
        films = LabelledFilms(latents, actions, used, self.true)
        model = small_transformer(plan.width, plan.blocks, latents.shape[2])
        out = self.work / name
        return train_chunks(films, model, out, steps, plan.batch_size, seed, start)


def summarize(
    runs: list[dict[str, Any]], engine: dict[str, Any], plan: dict[str, Any]
) -> dict[str, Any]:
    """Means and 95 % intervals over seeds of every arm, and of its difference from `NAIVE` with
    the same seed."""
    arms: dict[str, Any] = {}
    engine, runs = _grouped(engine), [_grouped(run) for run in runs]
    naive = {run["seed"]: run for run in runs if run["arm"] == NAIVE}
    for arm in ARMS:
        own = [run for run in runs if run["arm"] == arm]
        if not own:
            continue
        gains = [
            {key: run[key] - naive[run["seed"]][key] for key in SCORES}
            for run in own
            if run["seed"] in naive
        ]
        numbers = [key for key, value in own[0].items() if isinstance(value, float)]
        arms[arm] = {
            "mean": mean_over_seeds([{key: run[key] for key in numbers} for run in own]),
            "interval": confidence_intervals(own, numbers),
            "gain": mean_over_seeds(gains) if gains else {},
            "gain_interval": confidence_intervals(gains, SCORES),
        }
    return {"plan": plan, "engine": engine, "arms": arms, "runs": runs}


def _grouped(scores: dict[str, Any]) -> dict[str, Any]:
    means = {name: (scores[a] + scores[b]) / 2 for name, (a, b) in GROUPS.items()}
    return scores | means


def describe(results: dict[str, Any]) -> str:
    """The results as two tables."""
    names = ["both_kept", "both_wrong", *SCORES]
    rows = [["the engine", *(results["engine"].get(name) for name in names)]]
    for arm, found in results["arms"].items():
        rows.append([arm, *(_with_interval(found, name, "mean") for name in names)])
    gains = [
        [arm, *(_with_interval(found, name, "gain") for name in SCORES)]
        for arm, found in results["arms"].items()
        if arm != NAIVE and found["gain"]
    ]
    text = table(["arm", *names], rows)
    if gains:
        text += "\n\n" + table([f"less that of '{NAIVE}'", *SCORES], gains)
    return text


def _with_interval(found: dict[str, Any], name: str, kind: str) -> str:
    interval = found["interval" if kind == "mean" else f"{kind}_interval"].get(name)
    text = f"{found[kind][name]:.3f}"
    return text if interval is None else f"{text} +- {(interval[1] - interval[0]) / 2:.3f}"
