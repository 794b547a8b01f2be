"""Evaluating some tokens of a chunk, while the others are attended to as they were."""

from dataclasses import replace

import pytest
import torch

from loci.flow import EvaluateAll, batched_guidance, euler_timesteps, sample
from loci.nn.attention import KeyValueCache
from loci.world.block import to_latents, to_tokens
from loci.world.config import SamplingConfig
from loci.world.sampling import TOKENS, ChunkVelocity, sample_latents
from tests.world.models import pose_rotary_config, published_like, randomised
from tests.world.test_transformer import noise_for, published_inputs, reckoned_inputs

SOME = torch.tensor([0, 3, 4, 9, 13])
KINDS = pytest.mark.parametrize(
    ("config", "inputs", "frames"),
    [
        (published_like(), published_inputs(), 5),
        (replace(published_like(), memory_stream="fixed"), published_inputs(), 5),
        (pose_rotary_config(), reckoned_inputs(), 4),
    ],
    ids=["released", "released-fixed", "reckoned"],
)


def test_tokens_are_patches_frame_after_frame() -> None:
    latents = noise_for(reckoned_inputs(), 4)
    tokens = to_tokens(latents)
    assert tokens.shape == (2, 4 * 2 * 2, 4 * 16)
    assert torch.equal(to_latents(tokens, latents.shape), latents)
    # The sixth token: the second frame's patch at row 0, column 1; its third latent is below left.
    assert torch.equal(tokens[:, 5, 32:48], latents[:, :, 1, 1, 2])


@KINDS
def test_all_rows_are_the_plain_velocity_to_the_last_bit(config, inputs, frames) -> None:
    model, noisy = randomised(config), noise_for(inputs, frames)
    context, cache = model.context(**inputs), KeyValueCache()
    every = torch.arange(to_tokens(noisy).shape[1])
    for t in (1000.0, 600.0):
        timestep = torch.full((2,), t)
        plain = to_tokens(model.velocity(noisy, timestep, context))
        whole = model.token_velocity(noisy, timestep, context, cache=cache)
        assert torch.equal(whole, plain)
        indices = model.token_velocity(noisy, timestep, context, indices=every, cache=cache)
        assert torch.equal(indices, plain)
        noisy = noisy + 0.1


@KINDS
def test_a_part_is_as_in_the_whole_where_nothing_changed(config, inputs, frames) -> None:
    model, noisy = randomised(config), noise_for(inputs, frames)
    context, cache, timestep = model.context(**inputs), KeyValueCache(), torch.full((2,), 700.0)
    whole = model.token_velocity(noisy, timestep, context, cache=cache)
    for indices in (SOME, torch.tensor([2]), SOME):
        part = model.token_velocity(noisy, timestep, context, indices=indices, cache=cache)
        assert torch.allclose(part, whole[:, indices], atol=1e-5)


def test_a_carved_token_stays_in_sight_as_it_was() -> None:
    model, inputs = randomised(pose_rotary_config()), reckoned_inputs()
    context, cache, timestep = model.context(**inputs), KeyValueCache(), torch.full((2,), 700.0)
    noisy = noise_for(inputs, 4)
    whole = model.token_velocity(noisy, timestep, context, cache=cache)
    carved = torch.ones(16, dtype=torch.bool)
    carved[SOME] = False
    moved = to_tokens(noisy)
    moved[:, carved] += 1
    elsewhere = to_latents(moved, noisy.shape)
    part = model.token_velocity(elsewhere, timestep, context, indices=SOME, cache=cache)
    assert torch.allclose(part, whole[:, SOME], atol=1e-5), "their new state was not looked at"
    alone = ChunkVelocity(model, context, noisy.shape, cached=False)
    hidden = alone.part(SOME)({TOKENS: to_tokens(noisy).flatten(0, 1)}, torch.full((32,), 700.0))
    assert not torch.allclose(hidden[TOKENS].view_as(part), part, atol=1e-3), "nobody else is there"
    # Once evaluated, a token is seen as it is now.
    model.token_velocity(elsewhere, timestep, context, indices=carved.nonzero()[:, 0], cache=cache)
    again = KeyValueCache()
    model.token_velocity(elsewhere, timestep, context, cache=again)
    assert torch.allclose(cache.blocks[0].keys, again.blocks[0].keys, atol=1e-5)


def test_every_chunk_begins_with_an_empty_cache() -> None:
    model, inputs = randomised(pose_rotary_config()), reckoned_inputs(batch=1)
    context, noise = model.context(**inputs), noise_for(inputs, 4)
    cache, timestep = KeyValueCache(), torch.full((1,), 700.0)
    with pytest.raises(ValueError, match="only after all of them were"):
        model.token_velocity(noise, timestep, context, indices=SOME, cache=cache)
    assert cache.empty
    model.token_velocity(noise, timestep, context, cache=cache)
    assert not cache.empty
    with pytest.raises(ValueError, match="ascending"):
        model.token_velocity(noise, timestep, context, indices=SOME.flip(0), cache=cache)
    with pytest.raises(ValueError, match="ascending"):
        model.token_velocity(noise, timestep, context, indices=torch.tensor([3, 3]))
    flow = ChunkVelocity(model, context, noise.shape, cached=True)
    state, time = {TOKENS: to_tokens(noise)[0]}, torch.full((16,), 700.0)
    first = flow.part(SOME)(state, time)[TOKENS]
    assert torch.equal(first, flow.whole(state, time)[TOKENS][SOME]), "all were evaluated instead"


class EveryToken(EvaluateAll):
    """Asks for all tokens by their indices from the second step on."""

    attends_to_cached = True

    def select(self, step, timesteps, state):
        return torch.arange(len(state[TOKENS])) if step else None

    def fill(self, step, timesteps, state, indices, part):
        return part


@pytest.mark.parametrize("guidance", [1, 2])
def test_a_chunk_sampled_by_all_of_its_rows_is_the_chunk(guidance: int) -> None:
    config, inputs = published_like(), published_inputs(batch=guidance)
    model, noise = randomised(config), noise_for(inputs, 5)[:1]
    context, sampling = model.context(**inputs), SamplingConfig(steps=3)
    plain = sample_latents(model, noise, context, sampling)
    assert plain.shape == noise.shape
    assert torch.equal(sample_latents(model, noise, context, sampling, policy=EveryToken()), plain)

    def by_hand(state, timestep):
        return {TOKENS: model.velocity(state[TOKENS], timestep, context)}

    velocity = batched_guidance(by_hand, sampling.guidance_scale) if guidance > 1 else by_hand
    grid = euler_timesteps(3, sampling.shift, sampling.uniform)
    assert torch.equal(sample(velocity, {TOKENS: noise}, grid)[TOKENS], plain)
