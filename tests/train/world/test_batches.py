from dataclasses import replace

import numpy as np
import pytest
import torch

from loci.actions import UNCERTAIN
from loci.data.latents import LatentWalks
from loci.train.world import batches
from loci.train.world.batches import SPAN_LATENTS, HistorySpec, draw_batch

HISTORIES = [
    HistorySpec((3, 0, 0), 1),
    HistorySpec((2, 2, 0), 3),
    HistorySpec((1, 0, 1), 1),
    HistorySpec((0, 0, 0), 2),
]


def spinning(walks: int = 3, length: int = 160) -> LatentWalks:
    """Walkers that turn on the spot; a latent's first value is its place in the walk."""
    index = torch.arange(length, dtype=torch.float32)
    latents = torch.zeros(walks, length, 2, 4, 4) + index[None, :, None, None, None]
    poses = torch.zeros(walks, length, 3, dtype=torch.float64)
    poses[..., 0] = index * np.radians(7.5)
    actions = torch.tensor([0, 3]).expand(walks, length, 2)
    return LatentWalks(latents, actions, poses, poses)


@pytest.mark.parametrize("spec", HISTORIES)
def test_a_batch_holds_what_its_recipe_says(spec: HistorySpec) -> None:
    batch = draw_batch(spinning(), spec, 4, np.random.default_rng(0))
    for level, (count, latents) in enumerate(zip(spec.spans, SPAN_LATENTS[:3], strict=True)):
        span = batch.spans[level]
        assert span.shape == (4, count, latents, 2, 4, 4)
        ends, first, last = batch.ends[level], span[:, :, 0, 0, 0, 0], span[:, :, -1, 0, 0, 0]
        assert torch.equal(last + 1, ends.float()), "a span ends where it says"
        assert bool((first % latents == 0).all()), "spans are aligned"
        assert bool((ends <= batch.now[:, None]).all()), "the memory never holds the future"
        assert all(len(set(row.tolist())) == count for row in ends), "no span is taken twice"
    assert torch.equal(batch.local[:, 0, 0, 0], batch.now.float())
    steps = torch.arange(1, 9) * spec.stride
    assert torch.equal(batch.target[:, :, 0, 0, 0], (batch.now[:, None] + steps).float())


@pytest.mark.parametrize(("revisits", "most"), [(0.0, 1), (1.0, 8)])
def test_only_for_revisits_several_local_frames_are_looked_at(
    revisits: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, hidden = [], np.zeros(8, bool)

    def nothing_hidden(poses: np.ndarray, now: int, targets: np.ndarray):
        looked.append(now)
        return np.zeros((8, (now + 1) // 2), bool), hidden

    monkeypatch.setattr(batches, "_revisited", nothing_hidden)
    draw_batch(spinning(), HISTORIES[0], 5, np.random.default_rng(0), revisits)
    assert len(looked) == 5 * most


def test_a_whole_past_follows_the_hierarchy_at_every_length() -> None:
    walks, rng, seen = spinning(length=400), np.random.default_rng(0), set()
    for _ in range(12):
        batch = draw_batch(
            walks, HistorySpec(stride=2, budget=12, lengths=(60, 500)), 2, rng, moves=0.5
        )
        now = int(batch.now[0])
        assert now % 8 == 0
        assert 60 <= now < 400 - 16
        seen.add(now)
        covered = [
            frame
            for latents, ends in zip(SPAN_LATENTS, batch.ends, strict=True)
            for end in ends[0].tolist()
            for frame in range(end - latents, end)
        ]
        assert sorted(covered) == list(range(now)), "without gap or overlap"
        tokens = sum(batch.ends[level].shape[1] * (2 if level == 0 else 1) for level in range(4))
        assert tokens <= 12
    assert len(seen) > 6
    with pytest.raises(ValueError, match="does not fit"):
        draw_batch(walks, HistorySpec(budget=12, lengths=(395, 500)), 1, rng)
    with pytest.raises(ValueError, match="levels"):
        draw_batch(spinning(length=3000), HistorySpec(budget=8, lengths=(2800, 2900)), 1, rng)


def test_targets_of_a_stride_have_no_single_action() -> None:
    rng = np.random.default_rng(0)
    single = draw_batch(spinning(), HistorySpec((1, 0, 0), 1), 2, rng).actions
    assert single is not None
    assert single[0, 0].tolist() == [0, 3]
    assert draw_batch(spinning(), HistorySpec((1, 0, 0), 3), 2, rng).actions is None


def test_an_uncertain_action_stays_uncertain() -> None:
    """Id 9 is a label of films, not the mark of targets that lie apart."""
    walks = spinning()
    walks = replace(walks, actions=torch.full_like(walks.actions, UNCERTAIN))
    batch = draw_batch(walks, HistorySpec((1, 0, 0), 1), 2, np.random.default_rng(0))
    assert batch.actions is not None
    assert (batch.actions == UNCERTAIN).all()


def test_revisits_are_preferred_and_known() -> None:
    """On the spot, a view is hidden once seen a full turn ago and turned away from."""
    rng = np.random.default_rng(0)
    batch = draw_batch(spinning(), HistorySpec((6, 0, 0), 4), 32, rng, revisits=1.0)
    assert batch.hidden.float().mean() > 0.4
    for i in range(32):
        turned = (batch.target_frames[i] - batch.now[i]) * 7.5
        seen_before = batch.target_frames[i] >= 48 - 2
        expected = (turned > 40) & (360 - turned > 40) & seen_before
        assert bool((batch.hidden[i] <= expected).all())


def test_useful_spans_are_chosen_more_often_than_chance() -> None:
    rng = np.random.default_rng(0)
    batch = draw_batch(spinning(8, 400), HistorySpec((4, 0, 0), 3), 64, rng, revisits=1.0)
    saw = 0
    for i in range(64):
        headings = batch.span_poses[0][i, ..., 0].flatten()
        apart = (batch.target_pose[i, :, 0, None] - headings).abs() % (2 * np.pi)
        near = (torch.minimum(apart, 2 * np.pi - apart) < np.radians(20)).any(dim=1)
        saw += int((near & batch.hidden[i]).sum())
    assert saw > 0.6 * int(batch.hidden.sum())


def test_moves_of_every_direction_are_drawn_alike() -> None:
    """However rare a direction is in the walks."""
    walks = spinning(8, 400)
    moves = torch.ones(8, 400, dtype=torch.long)
    for walk in range(8):
        moves[walk, 100 + 8 * walk : 103 + 8 * walk] = 1 + torch.arange(3)
    walks = replace(walks, actions=torch.stack([moves, torch.zeros_like(moves)], dim=-1))
    rng = np.random.default_rng(0)
    few = draw_batch(walks, HistorySpec((1, 0, 0)), 300, rng, revisits=0.0, moves=0.0)
    many = draw_batch(walks, HistorySpec((1, 0, 0)), 300, rng, revisits=0.0, moves=1.0)
    assert few.actions is not None
    assert many.actions is not None
    rare = [
        (ids[..., 0] == 3).any(dim=1).float().mean().item() for ids in (few.actions, many.actions)
    ]
    assert rare[0] < 0.1
    assert rare[1] > 0.3


def test_what_is_shown_and_what_is_asked_for_may_differ() -> None:
    """A history that the model generated, and the true frames as targets, within some range."""
    walks = spinning()
    own = replace(walks, history=-walks.latents)
    spec, rng = HistorySpec((2, 1, 0)), np.random.default_rng(0)
    batch = draw_batch(own, spec, 16, rng, within=range(40, 50))
    assert bool(((batch.now >= 40) & (batch.now < 50)).all())
    assert torch.equal(batch.local[:, 0, 0, 0], -batch.now.float())
    assert bool((batch.spans[0] <= 0).all())
    assert torch.equal(batch.target[:, 0, 0, 0, 0], batch.now + 1.0)
    with pytest.raises(ValueError, match="does not fit"):
        draw_batch(own, spec, 1, rng, within=range(10))
