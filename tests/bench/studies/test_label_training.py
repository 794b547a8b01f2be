"""Examples of labelled films, and what of them is learned."""

from pathlib import Path

import numpy as np
import pytest
import torch

from loci.bench.studies.label_training import (
    BALANCED,
    TARGETS,
    ChunkObjective,
    LabelledFilms,
    draw_starts,
    small_transformer,
    train_chunks,
)
from loci.world.transformer import WorldTransformer

MODEL = small_transformer(64, 1, 4)


def films(frames: int = 40) -> LabelledFilms:
    """Latents hold the number of their frame; from frame 20 on the first film goes ahead."""
    latents = torch.arange(frames).float().view(1, -1, 1, 1, 1).expand(2, -1, 4, 4, 4) / frames
    true = np.zeros((2, frames - 1, 2), np.int64)
    true[0, 20:, 0] = 1
    return LabelledFilms(latents, torch.from_numpy(true), torch.ones(2, frames - 1).bool(), true)


def test_an_example_is_a_frame_and_what_came_after_it() -> None:
    batch = films().batch(np.array([0]), np.array([18]))
    assert not batch.spans, "a history would show how the camera moves"
    assert round(float(batch.local[0, 0, 0, 0]) * 40) == 18
    assert (batch.target[0, :, 0, 0, 0] * 40).round().int().tolist() == [19, 20, 21, 22]
    assert batch.actions is not None
    assert batch.actions[0, :, 0].tolist() == [0, 0, 1, 1], "actions lead to the target frames"
    assert not batch.local_pose.any()
    assert not batch.target_pose.any()


def test_rare_actions_are_drawn_as_often_as_others() -> None:
    many = films(200)
    many.true[0, 20:, 0] = 0
    many.true[0, 100, 0] = 2
    at = draw_starts(many, many.by_action(), 4000, np.random.default_rng(0))
    rare = ((at[0] == 0) & (at[1] == 100)).mean()
    assert rare == pytest.approx(BALANCED / 2, abs=0.03), "between two actions"
    assert at[1].min() >= 0
    assert at[1].max() < 200 - TARGETS


def test_frames_that_are_not_used_teach_nothing() -> None:
    torch.manual_seed(0)
    world = WorldTransformer(MODEL)
    world.init_weights(gate_bias=1.0)
    objective, batch = ChunkObjective(world), films().batch(np.array([0, 1]), np.array([10, 20]))
    used = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0]]).bool()

    def gradient(used: torch.Tensor) -> torch.Tensor:
        world.zero_grad()
        output = []
        hook = world.head.register_forward_hook(lambda *a: output.append(a[2]))
        loss = objective(batch, used, torch.Generator().manual_seed(0))
        hook.remove()
        return torch.autograd.grad(loss, output[0])[0].unflatten(1, (TARGETS, -1))

    found = gradient(used).abs().sum(dim=(2, 3)) > 0
    assert torch.equal(found, used)
    assert gradient(torch.ones_like(used)).abs().sum(dim=(2, 3)).all()


def test_arms_see_the_same_samples_and_start_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    start = WorldTransformer(MODEL)
    seen: list[torch.Tensor] = []
    forward = ChunkObjective.forward

    def record(self: ChunkObjective, batch, used, rng) -> torch.Tensor:
        seen.append(torch.stack([batch.walks, batch.now]))
        return forward(self, batch, used, rng)

    monkeypatch.setattr(ChunkObjective, "forward", record)
    whole = films()
    other = LabelledFilms(
        whole.latents, torch.full_like(whole.actions, 9), torch.zeros_like(whole.used), whole.true
    )
    trained = [
        train_chunks(labels, MODEL, tmp_path / str(k), 2, 3, 0, start)
        for k, labels in enumerate((whole, other))
    ]
    assert torch.equal(torch.stack(seen[:2]), torch.stack(seen[2:]))
    weights = [dict(w.named_parameters()) for w in (start, *trained)]
    name = next(n for n in weights[0] if n.startswith("blocks.") and n.endswith("q.bias"))
    assert not torch.equal(weights[0][name], weights[1][name]), "it learns"
    assert torch.allclose(weights[0][name], weights[2][name], atol=1e-4), "from nothing, nothing"
