from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from loci.train.trainer import RunDirectory
from loci.train.world.batches import Recipe
from loci.train.world.evaluate import RecallEvaluation, answer, evaluate
from tests.train.world.test_batches import spinning
from tests.world.models import small_world

RECIPES = {"near": Recipe((4, 0, 0), 3), "whole": Recipe(stride=3, whole=12)}


def prepared() -> RecallEvaluation:
    """On the spot, before frames whose brightness tells their number."""
    walks = spinning(walks=2, length=200)
    latents = torch.randn(2, 200, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    walks = replace(walks, latents=latents)
    frames = np.arange(200, dtype=np.uint8).reshape(1, -1, 1, 1, 1)
    frames = np.broadcast_to(frames, (2, 200, 32, 32, 3))
    return RecallEvaluation.prepare(walks, frames, small_world().codec, RECIPES)


def test_the_same_questions_every_time_and_the_true_frames_of_them() -> None:
    exam, again = prepared(), prepared()
    for name, batch in exam.batches.items():
        assert torch.equal(batch.now, again.batches[name].now)
        assert batch.hidden.any()
        shown = (exam.frames[name][:, :, 0, 0, 0] + 1) * 127.5
        assert torch.equal(shown.round().long(), batch.target_frames)


def test_what_is_remembered_is_true_wrong_or_nothing() -> None:
    exam, world = prepared(), small_world()
    model, batch = world.transformer, exam.batches["near"]
    true, wrong, none = (
        answer(model, batch, memory, world.codec, steps=1) for memory in ("true", "wrong", "none")
    )
    changed = (true - none).abs().amax(dim=(1, 2, 3, 4))
    assert bool((changed > 0).all()), "memory changes every answer"
    assert not torch.equal(true, wrong)
    assert not torch.equal(wrong, none)


def test_an_examination_marks_every_memory_and_draws_a_sheet(tmp_path: Path) -> None:
    exam, world = prepared(), small_world()
    marks = evaluate(world.transformer, exam, RunDirectory(tmp_path))
    kinds = ("true", "wrong", "none", "ceiling")
    assert set(marks) == {f"{name}_{kind}" for name in RECIPES for kind in kinds}
    assert all(np.isfinite(value) for value in marks.values())
    assert {path.name for path in tmp_path.iterdir()} == {"exam_near.png", "exam_whole.png"}
