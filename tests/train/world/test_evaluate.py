from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from loci.train.trainer import RunDirectory
from loci.train.world.batches import HistorySpec
from loci.train.world.evaluate import RecallEvaluation, evaluate_recall, predict_frames
from tests.train.world.test_batches import spinning
from tests.world.models import small_world

HISTORIES = {"near": HistorySpec((4, 0, 0), 3), "whole": HistorySpec(stride=3, budget=12)}


def prepared() -> RecallEvaluation:
    """On the spot, before frames whose brightness tells their number."""
    walks = spinning(walks=2, length=200)
    latents = torch.randn(2, 200, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    walks = replace(walks, latents=latents)
    frames = np.arange(200, dtype=np.uint8).reshape(1, -1, 1, 1, 1)
    frames = np.broadcast_to(frames, (2, 200, 32, 32, 3))
    return RecallEvaluation.prepare(walks, frames, small_world().codec, HISTORIES)


def test_the_same_batches_every_time_and_the_true_frames_of_them() -> None:
    evaluation, again = prepared(), prepared()
    for name, batch in evaluation.batches.items():
        assert torch.equal(batch.now, again.batches[name].now)
        assert batch.hidden.any()
        shown = (evaluation.frames[name][:, :, 0, 0, 0] + 1) * 127.5
        assert torch.equal(shown.round().long(), batch.target_frames)


def test_what_is_remembered_is_true_wrong_or_nothing() -> None:
    evaluation, world = prepared(), small_world()
    model, batch = world.transformer, evaluation.batches["near"]
    true, wrong, none = (
        predict_frames(model, batch, memory, world.codec, steps=1)
        for memory in ("true", "wrong", "none")
    )
    changed = (true - none).abs().amax(dim=(1, 2, 3, 4))
    assert bool((changed > 0).all()), "memory changes every answer"
    assert not torch.equal(true, wrong)
    assert not torch.equal(wrong, none)


def test_an_evaluation_scores_every_memory_and_draws_a_sheet(tmp_path: Path) -> None:
    evaluation, world = prepared(), small_world()
    scores = evaluate_recall(world.transformer, evaluation, RunDirectory(tmp_path))
    kinds = ("true", "wrong", "none", "ceiling")
    assert set(scores) == {f"{name}_{kind}" for name in HISTORIES for kind in kinds}
    assert all(np.isfinite(value) for value in scores.values())
    assert {path.name for path in tmp_path.iterdir()} == {"recall_near.png", "recall_whole.png"}
