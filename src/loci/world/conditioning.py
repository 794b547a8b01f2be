"""The conditioning of a chunk: computed once, used at every sampling step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loci.nn.attention import KeysValues
from loci.nn.embeddings import RotaryEmbedding
from loci.nn.norms import normal_parameter


class Prompt(NamedTuple):
    """Text states `[b, length, width]` and their mask `[b, length]` (1 = a real token)."""

    states: Tensor
    mask: Tensor


class Actions(NamedTuple):
    """Action ids (0 to 9) of each frame of the chunk, `[b or 1, n]` each."""

    move: Int[Tensor, "b n"]
    view: Int[Tensor, "b n"]


class ChunkPoses(NamedTuple):
    """Dead-reckoned poses (heading, x, y) of a chunk's sequence, in the coordinates of the walk.

    Attributes:
        memory: poses of the memory tokens; the spread of their headings may be a fourth number.
        memory_ages: latents from the last one of each memory token's span to the local frame.
        local: the pose of the local frame, the newest before the chunk.
        target: poses of the frames to be generated.
    """

    memory: Float[Tensor, "b k p"]
    memory_ages: Float[Tensor, "b k"]
    local: Float[Tensor, "b 3"]
    target: Float[Tensor, "b t 3"]


class BlockContext(NamedTuple):
    """The conditioning of one block.

    Attributes:
        conditioning_tokens: those of the memory, then of the local frame, as this block gets
            them, normalised.
        conditioning_keys_values: their keys and values, if these do not depend on the timestep
            (memory stream "fixed"), else None.
        text_keys_values: keys and values of the prompt; None for models without text.
    """

    conditioning_tokens: Tensor
    conditioning_keys_values: KeysValues | None
    text_keys_values: KeysValues | None


class ChunkContext(NamedTuple):
    """All that `WorldTransformer.velocity` needs besides the noisy latents and the timestep."""

    blocks: tuple[BlockContext, ...]
    conditioning_rotation: RotaryEmbedding
    target_rotation: RotaryEmbedding
    frame_embedding: Float[Tensor, "b t d"]
    """Added to every token of a target frame: the embedding of its action, and of its pose."""

    def entry(self, index: int) -> "ChunkContext":
        """The context of one batch entry alone, without copies."""
        one = slice(index, index + 1)

        def rotation(whole: RotaryEmbedding) -> RotaryEmbedding:
            return RotaryEmbedding(*(x[one] if x.ndim == 3 else x for x in whole))

        def pair(whole: KeysValues | None) -> KeysValues | None:
            return None if whole is None else KeysValues(*(x[one] for x in whole))

        blocks = tuple(
            BlockContext(
                block.conditioning_tokens[one],
                pair(block.conditioning_keys_values),
                pair(block.text_keys_values),
            )
            for block in self.blocks
        )
        rotations = rotation(self.conditioning_rotation), rotation(self.target_rotation)
        return ChunkContext(blocks, *rotations, self.frame_embedding[one])


def stack_contexts(contexts: Sequence[ChunkContext]) -> ChunkContext:
    """The contexts of several walks' chunks as one batch.

    They must have equally many conditioning tokens, rotary positions of their own and no text.
    """

    def stack_rotations(parts: Sequence[RotaryEmbedding]) -> RotaryEmbedding:
        return RotaryEmbedding(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def stack_blocks(parts: tuple[BlockContext, ...]) -> BlockContext:
        pairs = [
            p.conditioning_keys_values for p in parts if p.conditioning_keys_values is not None
        ]
        keys_values = None
        if pairs:
            keys_values = KeysValues(*(torch.cat(part) for part in zip(*pairs, strict=True)))
        return BlockContext(torch.cat([p.conditioning_tokens for p in parts]), keys_values, None)

    return ChunkContext(
        tuple(stack_blocks(parts) for parts in zip(*(c.blocks for c in contexts), strict=True)),
        stack_rotations([c.conditioning_rotation for c in contexts]),
        stack_rotations([c.target_rotation for c in contexts]),
        torch.cat([c.frame_embedding for c in contexts]),
    )


@dataclass(frozen=True)
class ActionEncoderConfig:
    """Sizes of the action encoder. `ActionEncoderConfig()` is the published model's."""

    vocabulary: int = 10
    embedding: int = 256
    hidden: int = 512
    groups: int = 2
    strides: tuple[int, int] = (2, 2)


class ActionEncoder(nn.Module):
    """Embeds `move` and `view` ids; two strided convolutions reduce frames to latents in time."""

    def __init__(self, config: ActionEncoderConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        c = config
        if 2 * c.embedding != c.hidden:
            raise ValueError(f"hidden must be twice the embedding, got {c.hidden}, {c.embedding}")
        self.embedding_move, self.embedding_view = (
            nn.Embedding.from_pretrained(
                normal_parameter(c.vocabulary, c.embedding, std=1.0), freeze=False
            )
            for _ in range(2)
        )

        def stage(stride: int) -> nn.Sequential:
            conv = nn.Conv1d(c.hidden, c.hidden, kernel_size=3, stride=stride, padding=1)
            return nn.Sequential(conv, nn.GroupNorm(c.groups, c.hidden, eps=1e-5))

        self.encode_1, self.encode_2 = stage(c.strides[0]), stage(c.strides[1])
        self.proj = nn.Linear(c.hidden, dim)

    def forward(self, move: Int[Tensor, "b n"], view: Int[Tensor, "b n"]) -> Float[Tensor, "b t d"]:
        """Ids 0 to 9 per frame to one vector per latent; as published n -> ceil(ceil(n / 2) / 2).

        Group norm spans the whole sequence, so that the actions of the whole chunk are needed.

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
