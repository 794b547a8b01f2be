from dataclasses import replace

import numpy as np
import torch

from loci.train.world.batches import HistorySpec
from loci.train.world.self_forcing import (
    BatchSource,
    random_rollout,
    self_forced_walks,
    self_forcing_rollout,
)
from loci.world.config import doom_world
from tests.train.world.test_memory_tokens import wandering
from tests.world.models import pose_rotary_config, randomised

WORLD = doom_world()
CHUNK = WORLD.chunk


def test_the_model_continues_a_walk_under_its_actions() -> None:
    walks, model = wandering(), randomised(pose_rotary_config())
    rollout = random_rollout(model, walks, WORLD, np.random.default_rng(0), count=2, chunks=2)
    forced = self_forced_walks(walks, rollout)
    history, truth = forced.walks.past, walks.latents[rollout.rows]
    assert torch.equal(forced.walks.latents, truth), "targets stay the true frames"
    assert forced.stop - forced.start - 1 == 2 * CHUNK
    generated = slice(forced.start + 1, forced.stop)
    assert torch.equal(history[:, : forced.start + 1], truth[:, : forced.start + 1])
    assert torch.equal(history[:, forced.stop :], truth[:, forced.stop :])
    same = torch.isclose(history[:, generated], truth[:, generated]).float().mean()
    assert same < 0.01, "every latent in between is generated"
    assert forced.fits(HistorySpec((1, 0, 0)))
    assert not forced.fits(HistorySpec((0, 0, 40)))


def test_chunks_continue_what_was_generated_before_them() -> None:
    """The first of two chunks is as it would be alone; the second would differ after the truth."""
    walks, model = wandering(), randomised(pose_rotary_config())
    rows = torch.tensor([0])

    def rolled_out(start: int, chunks: int) -> torch.Tensor:
        return self_forcing_rollout(model, walks, WORLD, rows, start, chunks, seed=3)

    both = rolled_out(24, 2)
    assert torch.equal(both[:, :CHUNK], rolled_out(24, 1))
    alone = rolled_out(24 + CHUNK, 1)
    assert not torch.allclose(both[:, CHUNK:], alone, atol=1e-3), "its history was generated"


def test_actions_of_the_recording_steer_a_rollout() -> None:
    walks, model = wandering(), randomised(pose_rotary_config())
    other = replace(walks, actions=torch.full_like(walks.actions, 3))
    first, second = (
        self_forcing_rollout(model, some, WORLD, torch.tensor([0]), 24, 1, seed=3)
        for some in (walks, other)
    )
    assert not torch.allclose(first, second, atol=1e-3)


def test_a_rollout_goes_where_the_poses_of_a_film_are() -> None:
    walks, model = wandering(), randomised(pose_rotary_config())
    unknown = replace(walks, actions=torch.full_like(walks.actions, 9))
    elsewhere = replace(unknown, poses=unknown.poses * 2)
    first, second = (
        self_forcing_rollout(model, some, WORLD, torch.tensor([0]), 24, 1, seed=3)
        for some in (unknown, elsewhere)
    )
    assert not torch.allclose(first, second, atol=1e-3)


def test_a_source_gives_continued_walks_as_often_as_it_is_told_and_comes_back() -> None:
    walks, model = wandering(), randomised(pose_rotary_config())
    source, spec = BatchSource(walks, WORLD, seed=0), HistorySpec((1, 0, 0))
    source.cache_tokens(model.memory_encoder, noise=0.1)
    assert source.choose(spec, 1.0, np.random.default_rng(0)).walks is walks, "none are there yet"
    source.roll_out(model, 0.1, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    forced = [source.choose(spec, 0.3, rng).walks is not walks for _ in range(300)]
    assert 0.2 < np.mean(forced) < 0.4
    again = BatchSource(walks, WORLD, seed=0)
    again.load_state_dict(source.state_dict())
    again.cache_tokens(model.memory_encoder, noise=0.1)
    one, other = (s.choose(spec, 1.0, np.random.default_rng(0)) for s in (source, again))
    assert one.within == other.within
    assert torch.equal(one.walks.past, other.walks.past)
    assert one.tokens is not None
    assert other.tokens is not None
    assert torch.equal(one.tokens.tokens, other.tokens.tokens)
    assert source.choose(HistorySpec((0, 0, 40)), 1.0, rng).walks is walks, "nothing would fit"
