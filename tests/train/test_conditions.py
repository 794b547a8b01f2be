import numpy as np
import torch

from loci.data.latent_walks import LatentWalks
from loci.data.revisits import Recipe, draw
from loci.memory.hierarchy import HierarchyConfig
from loci.memory.horizon import HorizonConfig, HorizonMemory
from loci.train.conditions import address, remember

from ..world.models import randomised, reckoned


def wandering(walks: int = 2, length: int = 320) -> LatentWalks:
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(walks, length, 16, 4, 4, generator=g)
    poses = 0.1 * torch.randn(walks, length, 3, generator=g).double().cumsum(dim=1)
    return LatentWalks(latents, torch.zeros(walks, length, 2, dtype=torch.long), poses, poses)


def test_training_compresses_as_the_endless_memory_does() -> None:
    """Codes of all three levels equal those that a walk of that length holds."""
    walks = wandering()
    model = randomised(reckoned())
    memory = HorizonMemory(HorizonConfig(HierarchyConfig()), model.latent_encoder)
    history = walks.latents.transpose(1, 2)[:1, :, :304]
    state = memory.append(memory.empty(), history, walks.reckoned[:1, :304])
    held = memory.codes(state)
    assert held.poses is not None
    assert {span.level for span in held.spans} == {1, 2, 3}
    found = 0
    for recipe in (Recipe((4, 0, 0)), Recipe((0, 6, 0)), Recipe((0, 0, 1))):
        batch = draw(walks, recipe, 16, np.random.default_rng(1))
        remembered = remember(model.latent_encoder, batch)
        level = 1 + int(np.argmax(recipe.spans))
        for row in range(16):
            for k, end in enumerate(remembered.ends[row].tolist()):
                spans = [s for s in held.spans if s.level == level and s.end == end]
                if batch.walks[row] == 0 and spans:
                    at = held.spans.index(spans[0])
                    assert torch.allclose(
                        remembered.codes[row, :, k], held.tokens[0, :, at], atol=1e-4
                    )
                    assert torch.allclose(remembered.poses[row, k], held.poses[0, at])
                    found += 1
    assert found > 10


def test_ages_count_back_from_the_local_frame() -> None:
    walks, model = wandering(), randomised(reckoned())
    batch = draw(walks, Recipe((2, 1, 0)), 4, np.random.default_rng(0))
    remembered = remember(model.latent_encoder, batch)
    where = address(batch, remembered)
    assert remembered.codes.shape[:3] == (4, 32, 5)
    assert where.memory.shape == (4, 5, 3)
    assert torch.equal(where.ages, (batch.now[:, None] - remembered.ends).double())
    assert bool((where.ages >= 0).all())


def test_an_empty_history_has_no_codes() -> None:
    walks, model = wandering(), randomised(reckoned())
    batch = draw(walks, Recipe((0, 0, 0)), 4, np.random.default_rng(0))
    remembered = remember(model.latent_encoder, batch)
    assert remembered.codes.shape == (4, 32, 0, 2, 2)
    assert address(batch, remembered).memory.shape == (4, 0, 3)
