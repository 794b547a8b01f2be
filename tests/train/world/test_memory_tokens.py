from dataclasses import replace

import numpy as np
import torch

from loci.data.recordings import LatentWalks
from loci.memory.hierarchical import HierarchicalMemory, HierarchicalMemoryConfig
from loci.memory.poses import ActionScale, dead_reckon
from loci.memory.schedule import HierarchyConfig
from loci.train.world.batches import Recipe, draw
from loci.train.world.memory_tokens import chunk_poses, compress_history, window_tokens
from loci.world.conditioning import Actions
from tests.world.models import randomised, reckoned, small_world


def wandering(walks: int = 2, length: int = 320) -> LatentWalks:
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(walks, length, 16, 4, 4, generator=g)
    poses = 0.1 * torch.randn(walks, length, 3, generator=g).double().cumsum(dim=1)
    return LatentWalks(latents, torch.zeros(walks, length, 2, dtype=torch.long), poses, poses)


def test_training_compresses_as_the_endless_memory_does() -> None:
    """Codes of all three levels equal those that a walk of that length holds."""
    walks = wandering()
    model = randomised(reckoned())
    memory = HierarchicalMemory(HierarchicalMemoryConfig(HierarchyConfig()), model.latent_encoder)
    history = walks.latents.transpose(1, 2)[:1, :, :304]
    state = memory.append(memory.empty(), history, walks.reckoned[:1, :304])
    held = memory.codes(state)
    assert held.poses is not None
    assert {span.level for span in held.spans} == {1, 2, 3}
    found: set[int] = set()
    for recipe in (Recipe((4, 0, 0)), Recipe((0, 6, 0)), Recipe((0, 0, 1))):
        batch = draw(walks, recipe, 64, np.random.default_rng(1))
        remembered = compress_history(model.latent_encoder, batch)
        level = 1 + int(np.argmax(recipe.spans))
        for row in range(64):
            for k, end in enumerate(remembered.ends[row].tolist()):
                spans = [s for s in held.spans if s.level == level and s.end == end]
                if batch.walks[row] == 0 and spans:
                    at = held.spans.index(spans[0])
                    assert torch.allclose(
                        remembered.codes[row, :, k], held.tokens[0, :, at], atol=1e-4
                    )
                    assert torch.allclose(remembered.poses[row, k], held.poses[0, at])
                    found.add(level)
    assert found == {1, 2, 3}


def test_a_whole_past_is_what_a_walk_of_that_length_holds() -> None:
    walks = wandering()
    model = randomised(reckoned())
    recipe = Recipe(whole=12, lengths=range(280, 306))
    batch = draw(walks, recipe, 3, np.random.default_rng(1))
    now = int(batch.now[0])
    assert batch.now.tolist() == [now] * 3
    assert now in (280, 288, 296, 304)
    remembered = compress_history(model.latent_encoder, batch)
    memory = HierarchicalMemory(
        HierarchicalMemoryConfig(HierarchyConfig(budget=12)), model.latent_encoder
    )
    past, where = walks.latents[batch.walks, :now], walks.reckoned[batch.walks, :now]
    held = memory.codes(memory.append(memory.empty(), past.transpose(1, 2), where))
    assert {span.level for span in held.spans} >= {1, 2, 3}
    assert held.poses is not None
    order = [remembered.ends[0].tolist().index(span.end) for span in held.spans]
    assert sorted(order) == list(range(len(remembered.ends[0])))
    assert torch.allclose(remembered.codes[:, :, order], held.tokens, atol=1e-4)
    assert torch.allclose(remembered.poses[:, order], held.poses)


def test_a_walk_is_conditioned_as_in_training() -> None:
    """The same history, place and keys give the same velocity through `World` and a batch."""
    world, walks = small_world(), pressed_keys()
    model = world.transformer
    batch = draw(walks, Recipe((10, 0, 0), targets=4), 8, np.random.default_rng(3), revisits=0)
    remembered = compress_history(model.latent_encoder, batch)
    trained = model.context(
        remembered.codes,
        batch.local[:, :, None],
        Actions(*batch.actions.unbind(-1)),
        address=chunk_poses(batch, remembered),
    )
    row = int((batch.now - 80).abs().argmin())
    now, walk = 80, int(batch.walks[row])
    assert batch.now[row] == now, "ten windows are all there is before latent 80"
    latents, poses = walks.latents[walk].transpose(0, 1)[None], walks.reckoned[walk][None]
    memory = world.memory.append(world.memory.empty(), latents[:, :, :now], poses[:, :now])
    state = replace(
        world.start(np.zeros((32, 32, 3), np.uint8)),
        memory=memory,
        local=latents[:, :, now : now + 1],
        pose=poses[:, now],
    )
    noisy, timestep = torch.randn(8, 16, 4, 4, 4), torch.full((8,), 600.0)
    expected = model.velocity(noisy, timestep, trained)[row]
    walked = world.context(state, walks.actions[walk, now : now + 4].numpy())
    ours = model.velocity(noisy[row : row + 1], timestep[:1], walked)[0]
    assert torch.allclose(ours, expected, atol=1e-4)


def pressed_keys() -> LatentWalks:
    """Walks just long enough for one place to stand at, with true reckoning."""
    walks = wandering(length=85)
    actions = torch.randint(0, 9, (2, 85, 2), generator=torch.Generator().manual_seed(0))
    led = dead_reckon(torch.zeros(2, 3), actions[:, :-1, 0], actions[:, :-1, 1], ActionScale())
    start = torch.zeros(2, 1, 3, dtype=torch.float64)
    reckoned_poses = torch.cat([start, led], dim=1)
    return replace(walks, actions=actions, reckoned=reckoned_poses)


def test_ages_count_back_from_the_local_frame() -> None:
    walks, model = wandering(), randomised(reckoned())
    batch = draw(walks, Recipe((2, 1, 0)), 4, np.random.default_rng(0))
    remembered = compress_history(model.latent_encoder, batch)
    where = chunk_poses(batch, remembered)
    assert remembered.codes.shape[:3] == (4, 32, 5)
    assert where.memory.shape == (4, 5, 4)
    assert torch.equal(where.ages, (batch.now[:, None] - remembered.ends).double())
    assert bool((where.ages >= 0).all())


def test_an_empty_history_has_no_codes() -> None:
    walks, model = wandering(), randomised(reckoned())
    batch = draw(walks, Recipe((0, 0, 0)), 4, np.random.default_rng(0))
    remembered = compress_history(model.latent_encoder, batch)
    assert remembered.codes.shape == (4, 32, 0, 2, 2)
    assert chunk_poses(batch, remembered).memory.shape == (4, 0, 4)


def test_kept_windows_are_the_same_codes() -> None:
    walks, model = wandering(), randomised(reckoned())
    batch = draw(walks, Recipe((3, 2, 1)), 4, np.random.default_rng(0))
    plain = compress_history(model.latent_encoder, batch)
    kept = window_tokens(model.latent_encoder, walks, noise=0.0, seed=0)
    looked_up = compress_history(model.latent_encoder, batch, kept=kept)
    assert torch.equal(looked_up.poses, plain.poses)
    assert torch.allclose(looked_up.codes, plain.codes, atol=2e-2, rtol=1e-2), "half precision"
    noisy = window_tokens(model.latent_encoder, walks, noise=1.0, seed=0).codes
    assert torch.equal(noisy[0], kept.codes[0])
    assert not torch.allclose(noisy[1], kept.codes[1], atol=0.1)
