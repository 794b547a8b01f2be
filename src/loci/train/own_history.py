"""A past of the model's own making, so that it learns to live with it: finetuning against drift."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.data.latent_walks import LatentWalks
from loci.data.revisits import Recipe, places
from loci.flow.sampler import sample
from loci.flow.schedule import euler_timesteps
from loci.memory.horizon import HorizonMemory
from loci.presets import doom_world
from loci.world.context import Actions, Address
from loci.world.transformer import WorldTransformer

CHUNK = 8
STEPS = 4


@dataclass(frozen=True)
class OwnHistory:
    """Walks whose past was generated from `start` on; their targets are still the true frames."""

    walks: LatentWalks
    start: int
    stop: int

    @property
    def places(self) -> range:
        """Local frames that the model made itself."""
        return range(self.start + 1, self.stop)

    def has_room_for(self, recipe: Recipe) -> bool:
        """Whether some of these places have enough history behind them, and targets before."""
        return bool(places(self.walks, recipe, self.places))


def own_history(
    model: WorldTransformer,
    walks: LatentWalks,
    rng: np.random.Generator,
    count: int = 16,
    chunks: int = 8,
) -> OwnHistory:
    """Random walks, of which the model continues a part under the recorded actions."""
    rows = torch.from_numpy(rng.choice(walks.count, size=min(count, walks.count), replace=False))
    latest = walks.length - CHUNK * (chunks + 1)
    start = CHUNK * int(rng.integers(1, latest // CHUNK))
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    made = walk_on(model, walks, rows, start, chunks, noise)
    stop = start + 1 + made.shape[1]
    history = walks.latents[rows].clone()
    history[:, start + 1 : stop] = made.to(history)
    some = replace(
        walks,
        latents=walks.latents[rows],
        actions=walks.actions[rows],
        reckoned=walks.reckoned[rows],
        true=walks.true[rows],
        history=history,
    )
    return OwnHistory(some, start, stop)


@torch.no_grad()
def walk_on(
    model: WorldTransformer,
    walks: LatentWalks,
    rows: Int[Tensor, "b"],
    start: int,
    chunks: int,
    noise: torch.Generator,
) -> Float[Tensor, "b n c h w"]:
    """Generated latents `start + 1 ...` of some walks, from their true past and actions."""
    device = model.patch_embedding.weight.device
    memory = HorizonMemory(doom_world().horizon, model.latent_encoder)
    past = walks.latents[rows, :start].float().transpose(1, 2).to(device)
    state = memory.append(memory.empty(), past, walks.reckoned[rows, :start])
    local, made = walks.latents[rows, start].float()[:, :, None].to(device), []
    for at in range(start, start + CHUNK * chunks, CHUNK):
        codes = memory.codes(state)
        assert codes.poses is not None
        ages = torch.tensor([state.length - span.end for span in codes.spans])
        poses = walks.reckoned[rows, at : at + CHUNK + 1]
        address = Address(codes.poses, ages.expand(len(rows), -1), poses[:, 0], poses[:, 1:])
        actions = Actions(*walks.actions[rows, at : at + CHUNK].to(device).unbind(-1))
        context = model.context(codes.tokens, local, actions, address=address)
        shape = (*local.shape[:2], CHUNK, *local.shape[3:])
        latents = sample(
            lambda now, t, context=context: {"video": model.velocity(now["video"], t, context)},
            {"video": torch.randn(shape, generator=noise).to(device)},
            euler_timesteps(STEPS, 2.0, even=True),
        )["video"]
        state = memory.append(state, torch.cat([local, latents[:, :, :-1]], dim=2), poses[:, :-1])
        local = latents[:, :, -1:]
        made.append(latents)
    return torch.cat(made, dim=2).transpose(1, 2).cpu()
