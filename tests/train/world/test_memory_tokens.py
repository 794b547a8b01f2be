from dataclasses import replace

import numpy as np
import torch

from loci.data.latents import LatentWalks
from loci.memory.hierarchical import HierarchicalMemory, MemoryConfig
from loci.memory.poses import ActionScale, dead_reckon
from loci.memory.schedule import MergeConfig
from loci.train.world.batches import HistorySpec, draw_batch
from loci.train.world.memory_tokens import batch_poses, compress_history, window_tokens
from loci.world.conditioning import Actions
from tests.world.models import pose_rotary_config, randomised, small_world


def wandering(walks: int = 2, length: int = 320) -> LatentWalks:
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(walks, length, 16, 4, 4, generator=g)
    poses = 0.1 * torch.randn(walks, length, 3, generator=g).double().cumsum(dim=1)
    return LatentWalks(latents, torch.zeros(walks, length, 2, dtype=torch.long), poses, poses)


def test_training_compresses_as_the_endless_memory_does() -> None:
    """Codes of all three levels equal those that a walk of that length holds."""
    walks = wandering()
    model = randomised(pose_rotary_config())
    memory = HierarchicalMemory(MemoryConfig(MergeConfig()), model.memory_encoder)
    history = walks.latents.transpose(1, 2)[:1, :, :304]
    state = memory.append(memory.empty(), history, walks.poses[:1, :304])
    held = memory.tokens(state)
    assert held.poses is not None
    assert {span.level for span in held.spans} == {1, 2, 3}
    found: set[int] = set()
    for spec in (HistorySpec((4, 0, 0)), HistorySpec((0, 6, 0)), HistorySpec((0, 0, 1))):
        batch = draw_batch(walks, spec, 64, np.random.default_rng(1))
        memory_tokens = compress_history(model.memory_encoder, batch)
        level = 1 + int(np.argmax(spec.spans))
        for row in range(64):
            for k, end in enumerate(memory_tokens.ends[row].tolist()):
                spans = [s for s in held.spans if s.level == level and s.end == end]
                if batch.walks[row] == 0 and spans:
                    at = held.spans.index(spans[0])
                    assert torch.allclose(
                        memory_tokens.tokens[row, :, k], held.tokens[0, :, at], atol=1e-4
                    )
                    assert torch.allclose(memory_tokens.poses[row, k], held.poses[0, at])
                    found.add(level)
    assert found == {1, 2, 3}


def test_a_whole_past_is_what_a_walk_of_that_length_holds() -> None:
    walks = wandering()
    model = randomised(pose_rotary_config())
    spec = HistorySpec(budget=12, lengths=(280, 306))
    batch = draw_batch(walks, spec, 3, np.random.default_rng(1))
    now = int(batch.now[0])
    assert batch.now.tolist() == [now] * 3
    assert now in (280, 288, 296, 304)
    memory_tokens = compress_history(model.memory_encoder, batch)
    memory = HierarchicalMemory(MemoryConfig(MergeConfig(budget=12)), model.memory_encoder)
    past, where = walks.latents[batch.walks, :now], walks.poses[batch.walks, :now]
    held = memory.tokens(memory.append(memory.empty(), past.transpose(1, 2), where))
    assert {span.level for span in held.spans} >= {1, 2, 3}
    assert held.poses is not None
    order = [memory_tokens.ends[0].tolist().index(span.end) for span in held.spans]
    assert sorted(order) == list(range(len(memory_tokens.ends[0])))
    assert torch.allclose(memory_tokens.tokens[:, :, order], held.tokens, atol=1e-4)
    assert torch.allclose(memory_tokens.poses[:, order], held.poses)


def test_a_walk_is_conditioned_as_in_training() -> None:
    """The same history, place and keys give the same velocity through `World` and a batch."""
    world, walks = small_world(), pressed_keys()
    model = world.transformer
    batch = draw_batch(
        walks, HistorySpec((10, 0, 0), targets=4), 8, np.random.default_rng(3), revisits=0
    )
    assert batch.actions is not None
    memory_tokens = compress_history(model.memory_encoder, batch)
    trained = model.context(
        memory_tokens.tokens,
        batch.local[:, :, None],
        Actions(*batch.actions.unbind(-1)),
        poses=batch_poses(batch, memory_tokens),
    )
    row = int((batch.now - 80).abs().argmin())
    now, walk = 80, int(batch.walks[row])
    assert batch.now[row] == now, "ten windows are all there is before latent 80"
    latents, poses = walks.latents[walk].transpose(0, 1)[None], walks.poses[walk][None]
    memory = world.memory.append(world.memory.empty(), latents[:, :, :now], poses[:, :now])
    state = replace(
        world.start(np.zeros((32, 32, 3), np.uint8)),
        memory=memory,
        newest_latent=latents[:, :, now : now + 1],
        pose=poses[:, now],
    )
    noisy, timestep = torch.randn(8, 16, 4, 4, 4), torch.full((8,), 600.0)
    expected = model.velocity(noisy, timestep, trained)[row]
    ids = torch.as_tensor(walks.actions[walk, now : now + 4])[None]
    walked, _ = world.chunk_context(state, ids, torch.zeros(1, 0, 2, dtype=torch.long))
    ours = model.velocity(noisy[row : row + 1], timestep[:1], walked)[0]
    assert torch.allclose(ours, expected, atol=1e-4)


def pressed_keys() -> LatentWalks:
    """Walks just long enough for one place to stand at, with true reckoning."""
    walks = wandering(length=85)
    actions = torch.randint(0, 9, (2, 85, 2), generator=torch.Generator().manual_seed(0))
    led = dead_reckon(torch.zeros(2, 3), actions[:, :-1, 0], actions[:, :-1, 1], ActionScale())
    start = torch.zeros(2, 1, 3, dtype=torch.float64)
    reckoned_poses = torch.cat([start, led], dim=1)
    return replace(walks, actions=actions, poses=reckoned_poses)


def test_ages_count_back_from_the_local_frame() -> None:
    walks, model = wandering(), randomised(pose_rotary_config())
    batch = draw_batch(walks, HistorySpec((2, 1, 0)), 4, np.random.default_rng(0))
    memory_tokens = compress_history(model.memory_encoder, batch)
    where = batch_poses(batch, memory_tokens)
    assert memory_tokens.tokens.shape[:3] == (4, 32, 5)
    assert where.memory.shape == (4, 5, 4)
    assert torch.equal(where.memory_ages, (batch.now[:, None] - memory_tokens.ends).double())
    assert bool((where.memory_ages >= 0).all())


def test_an_empty_history_has_no_tokens() -> None:
    walks, model = wandering(), randomised(pose_rotary_config())
    batch = draw_batch(walks, HistorySpec((0, 0, 0)), 4, np.random.default_rng(0))
    memory_tokens = compress_history(model.memory_encoder, batch)
    assert memory_tokens.tokens.shape == (4, 32, 0, 2, 2)
    assert batch_poses(batch, memory_tokens).memory.shape == (4, 0, 4)


def test_cached_windows_are_the_same_tokens() -> None:
    walks, model = wandering(), randomised(pose_rotary_config())
    batch = draw_batch(walks, HistorySpec((3, 2, 1)), 4, np.random.default_rng(0))
    plain = compress_history(model.memory_encoder, batch)
    cached = window_tokens(model.memory_encoder, walks, noise=0.0, seed=0)
    looked_up = compress_history(model.memory_encoder, batch, cache=cached)
    assert torch.equal(looked_up.poses, plain.poses)
    assert torch.allclose(looked_up.tokens, plain.tokens, atol=2e-2, rtol=1e-2), "half precision"
    noisy = window_tokens(model.memory_encoder, walks, noise=1.0, seed=0).tokens
    assert torch.equal(noisy[0], cached.tokens[0])
    assert not torch.allclose(noisy[1], cached.tokens[1], atol=0.1)


def test_cached_windows_depend_on_their_seed_and_nothing_else() -> None:
    encoder = randomised(pose_rotary_config()).memory_encoder

    def made(seed: int) -> torch.Tensor:
        torch.rand(1)  # whatever else draws
        return window_tokens(encoder, wandering(1, 32), 0.5, seed, faded=0.5).tokens

    assert torch.equal(made(3), made(3))
    assert not torch.equal(made(3), made(4))


def test_cached_windows_are_noisy_half_of_the_time() -> None:
    """As the history is where nothing is cached: all windows of an example, or none."""
    walks, model = wandering(), randomised(pose_rotary_config())
    batch = draw_batch(walks, HistorySpec((3, 0, 0)), 64, np.random.default_rng(0))
    clean = window_tokens(model.memory_encoder, walks, noise=0.0, seed=0)
    marked = replace(clean, tokens=torch.stack([clean.tokens[0] * 0, clean.tokens[0] * 0 + 1]))
    rng = torch.Generator().manual_seed(0)
    found = compress_history(model.memory_encoder, batch, cache=marked, rng=rng).tokens
    noisy = found.flatten(1).mean(dim=1)
    assert set(noisy.tolist()) == {0.0, 1.0}
    assert 0.3 < noisy.mean() < 0.7
    again = torch.Generator().manual_seed(0)
    same = compress_history(model.memory_encoder, batch, cache=marked, rng=again).tokens
    assert torch.equal(found, same), "by chance, and by the generator alone"


def test_the_history_of_an_example_is_as_noisy_as_it_says() -> None:
    walks, model = wandering(), randomised(pose_rotary_config())
    batch = draw_batch(walks, HistorySpec((2, 0, 0)), 2, np.random.default_rng(0))
    noise = torch.tensor([0.0, 0.5])
    rng = torch.Generator().manual_seed(0)
    plain = compress_history(model.memory_encoder, batch).tokens
    noisy = compress_history(model.memory_encoder, batch, noise, rng=rng).tokens
    assert torch.allclose(noisy[0], plain[0], atol=1e-5)
    assert not torch.allclose(noisy[1], plain[1], atol=1e-2)
