import numpy as np
import torch

from loci.train.world.batches import Recipe
from loci.train.world.self_forcing import CHUNK, self_forced, walk_on
from tests.train.world.test_memory_tokens import wandering
from tests.world.models import randomised, reckoned


def test_the_model_continues_a_walk_under_its_actions() -> None:
    walks, model = wandering(), randomised(reckoned())
    own = self_forced(model, walks, np.random.default_rng(0), count=2, chunks=2)
    history, truth = own.walks.past, own.walks.latents
    assert own.stop - own.start - 1 == 2 * CHUNK
    made = slice(own.start + 1, own.stop)
    assert torch.equal(history[:, : own.start + 1], truth[:, : own.start + 1])
    assert torch.equal(history[:, own.stop :], truth[:, own.stop :])
    same = torch.isclose(history[:, made], truth[:, made]).float().mean()
    assert same < 0.01, "every latent in between is the model's own"
    assert own.has_room_for(Recipe((1, 0, 0)))
    assert not own.has_room_for(Recipe((0, 0, 40)))


def test_chunks_stand_on_what_was_generated_before_them() -> None:
    """Two chunks at once are one chunk, and another that starts from it."""
    walks, model = wandering(), randomised(reckoned())
    rows, noise = torch.tensor([0]), torch.Generator().manual_seed(3)
    both = walk_on(model, walks, rows, 24, 2, noise)
    again = walk_on(model, walks, rows, 24, 1, torch.Generator().manual_seed(3))
    assert torch.equal(both[:, :CHUNK], again)
    alone = walk_on(model, walks, rows, 24 + CHUNK, 1, torch.Generator().manual_seed(3))
    assert not torch.allclose(both[:, CHUNK:], alone, atol=1e-3), "its past was its own"
