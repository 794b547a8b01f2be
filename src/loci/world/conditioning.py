"""What a chunk is conditioned on, computed once and reused at every sampling step."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loci.nn.attention import KeysValues
from loci.nn.norms import learned
from loci.nn.rotary import Rotation


class Prompt(NamedTuple):
    """Text states `[b, length, width]` and their mask `[b, length]` (1 = a real token)."""

    states: Tensor
    mask: Tensor


class Actions(NamedTuple):
    """Action ids per RGB frame of the chunk, `[b or 1, n]` each."""

    move: Int[Tensor, "b n"]
    view: Int[Tensor, "b n"]


class ChunkPoses(NamedTuple):
    """Reckoned poses (heading, x, y) of everything in a chunk's sequence, in one world frame.

    Those of codes may have the spread of their headings as a fourth number.
    `ages` counts the latents from a memory's last one to the local frame.
    """

    memory: Float[Tensor, "b k p"]
    ages: Float[Tensor, "b k"]
    local: Float[Tensor, "b 3"]
    target: Float[Tensor, "b t 3"]


class LayerMemory(NamedTuple):
    """One block's view of the conditioning.

    `normed_memory` is the normalised input of the block's memory stream; `memory` its keys and
    values where they do not depend on the timestep (a fixed stream), else None.
    """

    normed_memory: Tensor
    memory: KeysValues | None
    text: KeysValues | None


class ChunkContext(NamedTuple):
    """All that `WorldTransformer.velocity` needs besides the noisy latents and the timestep."""

    layers: tuple[LayerMemory, ...]
    memory_at: Rotation
    target_at: Rotation
    target_offset: Float[Tensor, "b t d"]
    """Added to every token of a target frame: its action, and its reckoned pose."""


@dataclass(frozen=True)
class ActionEncoderConfig:
    """Sizes of the encoder (Infinite-World, 4.2). The defaults are the released ones."""

    vocabulary: int = 10
    embedding: int = 256
    hidden: int = 512
    groups: int = 2
    strides: tuple[int, int] = (2, 2)


class ActionEncoder(nn.Module):
    """Embeds `move` and `view`, then two convolutions over time bring frames down to latents."""

    def __init__(self, config: ActionEncoderConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        c = config
        if 2 * c.embedding != c.hidden:
            raise ValueError(f"hidden must be twice the embedding, got {c.hidden}, {c.embedding}")
        self.embedding_move, self.embedding_view = (
            nn.Embedding.from_pretrained(learned(c.vocabulary, c.embedding, std=1.0), freeze=False)
            for _ in range(2)
        )

        def stage(stride: int) -> nn.Sequential:
            conv = nn.Conv1d(c.hidden, c.hidden, kernel_size=3, stride=stride, padding=1)
            return nn.Sequential(conv, nn.GroupNorm(c.groups, c.hidden, eps=1e-5))

        self.encode_1, self.encode_2 = stage(c.strides[0]), stage(c.strides[1])
        self.proj = nn.Linear(c.hidden, dim)

    def forward(self, move: Int[Tensor, "b n"], view: Int[Tensor, "b n"]) -> Float[Tensor, "b t d"]:
        """Ids 0..9 per RGB frame to one vector per latent: n -> ceil(ceil(n/2)/2) as released.

        The group norm sees the whole sequence, so a chunk's actions must be complete.

        Raises:
            ValueError: when the two streams differ in shape or are empty.
        """
        if move.shape != view.shape or move.ndim != 2 or move.shape[1] == 0:
            shapes = f"{list(move.shape)} and {list(view.shape)}"
            raise ValueError(f"move and view must both be [batch, frames > 0], got {shapes}")
        x = torch.cat([self.embedding_move(move), self.embedding_view(view)], dim=-1)
        x = x.transpose(1, 2)
        x = F.relu(self.encode_2(F.relu(self.encode_1(x))))
        return self.proj(x.transpose(1, 2))
