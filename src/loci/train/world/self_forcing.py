"""A past of the model's own making, so that it learns to live with it: finetuning against drift."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.data.recordings import LatentWalks
from loci.flow import euler_timesteps, sample
from loci.memory.hierarchical import HierarchicalMemory
from loci.memory.hpmc import HPMCEncoder
from loci.train.world.batches import Recipe, places
from loci.train.world.memory_tokens import WindowTokenCache, window_tokens
from loci.world.conditioning import Actions, ChunkPoses
from loci.world.presets import doom_world
from loci.world.transformer import WorldTransformer

CHUNK = 8
STEPS = 4


@dataclass(frozen=True)
class SelfForcedWalks:
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


def self_forced(
    model: WorldTransformer,
    walks: LatentWalks,
    rng: np.random.Generator,
    count: int = 16,
    chunks: int = 8,
) -> SelfForcedWalks:
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
    return SelfForcedWalks(some, start, stop)


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
    memory = HierarchicalMemory(doom_world().horizon, model.latent_encoder)
    past = walks.latents[rows, :start].float().transpose(1, 2).to(device)
    state = memory.append(memory.empty(), past, walks.reckoned[rows, :start])
    local, made = walks.latents[rows, start].float()[:, :, None].to(device), []
    for at in range(start, start + CHUNK * chunks, CHUNK):
        codes = memory.codes(state)
        assert codes.poses is not None
        ages = torch.tensor([state.length - span.end for span in codes.spans])
        poses = walks.reckoned[rows, at : at + CHUNK + 1]
        address = ChunkPoses(codes.poses, ages.expand(len(rows), -1), poses[:, 0], poses[:, 1:])
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


@dataclass(frozen=True)
class WalkSource:
    """Walks to draw from, within which places, and the codes of their windows if these are kept."""

    walks: LatentWalks
    within: range | None = None
    kept: WindowTokenCache | None = None


class BatchSource:
    """The walks of a run, and what is made from them on the way.

    None of it is part of a checkpoint: it can all be made again.
    """

    def __init__(self, walks: LatentWalks, seed: int) -> None:
        self.walks, self.seed = walks, seed
        self.kept: WindowTokenCache | None = None
        self.own: tuple[SelfForcedWalks, WindowTokenCache | None] | None = None

    def keep_windows(self, encoder: HPMCEncoder, noise: float) -> None:
        """Encode all windows, once: from now on the encoder's windows must stay as they are."""
        self.kept = window_tokens(encoder, self.walks, noise, self.seed)

    def walk_on(self, model: WorldTransformer, noise: float, rng: np.random.Generator) -> None:
        """Let the model go on with some walks, in place of those it went on with before."""
        own, kept = self_forced(model, self.walks, rng), None
        if self.kept is not None:
            kept = window_tokens(model.latent_encoder, own.walks, noise, self.seed)
        self.own = own, kept

    def source(self, recipe: Recipe, own: float, rng: np.random.Generator) -> WalkSource:
        """The model's own walks with probability `own`, where the recipe fits them."""
        if self.own is not None and rng.random() < own:
            history, kept = self.own
            if history.has_room_for(recipe):
                return WalkSource(history.walks, history.places, kept)
        return WalkSource(self.walks, kept=self.kept)
