"""The Infinite-World transformer (arXiv 2602.02393): velocity from history, actions and noise."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loci.flow import TIMESTEPS
from loci.io.weight_checks import rename_tensors
from loci.io.weights import load_pretrained, save_pretrained
from loci.memory.hpmc import HPMCConfig, HPMCEncoder
from loci.memory.panorama_merge import PoseConditionedEncoder
from loci.memory.pose_rotary import PoseEmbedding, PoseRotaryConfig, memory_times, pose_rotation
from loci.memory.poses import relative_poses, with_spread
from loci.nn.attention import KeyValueCache
from loci.nn.embeddings import RotaryEmbedding, grid_rotary_embedding, timestep_embedding
from loci.world.block import PATCH, Block, Head, float_linear, to_latents, to_tokens
from loci.world.conditioning import (
    ActionEncoder,
    ActionEncoderConfig,
    Actions,
    BlockContext,
    ChunkContext,
    ChunkPoses,
    Prompt,
)


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and options. `TransformerConfig()` is the published model's.

    Args:
        frequencies: width of the sinusoidal embedding of the timestep: half as many frequencies.
        latent_channels: channels of the codec's latents.
        mask_channels: channels beside them: 1 in conditioning latents, 0 in noisy ones.
        text_width: width of the text states; None for a model without text.
        pose_rotary: rotary positions from dead-reckoned poses; None for positions in time only.
        memory_stream: "evolving": conditioning tokens pass through the blocks. "fixed": every block
            gets them as the compressor made them, so that keys and values are computed once per
            chunk.
        prediction: "data": the network predicts clean latents, from which the velocity follows.
        round_timestep: round the timestep to the dtype of the weights, as the published code does;
            without effect in float32.
        skip_head: hidden width of a network beside the head that sees each token's own noisy
            latents, so that the blocks need not carry them; 0 for none.
    """

    FORMER_FIELDS: ClassVar[dict[str, str]] = {
        "reckoned": "pose_rotary",
        "memory": "memory_encoder",
        "layers": "blocks",
        "detail": "skip_head",
    }

    dim: int = 1536
    ffn_dim: int = 8960
    blocks: int = 30
    heads: int = 12
    frequencies: int = 256
    latent_channels: int = 16
    mask_channels: int = 4
    text_width: int | None = 4096
    eps: float = 1e-6
    actions: ActionEncoderConfig = field(default_factory=ActionEncoderConfig)
    memory_encoder: HPMCConfig = field(default_factory=HPMCConfig)
    pose_rotary: PoseRotaryConfig | None = None
    memory_stream: Literal["evolving", "fixed"] = "evolving"
    prediction: Literal["velocity", "data"] = "velocity"
    round_timestep: bool = True
    skip_head: int = 0


class WorldTransformer(nn.Module):
    """Velocity of noisy latents, conditioned on memory, local frame, actions and text.

    `context` is computed once per chunk, `velocity` at every step; `forward` does both. The module
    keeps no state between calls, so that one instance serves many walks. None of these calls
    `memory_encoder`: the memory does, to compress latents and to merge (`HierarchicalMemory`).
    """

    FORMER_TENSORS: ClassVar[dict[str, str]] = {
        "latent_encoder.": "memory_encoder.",  # also as published
        "detail.": "skip_head.",
    }

    def __init__(self, config: TransformerConfig | None = None) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_rename_former_tensors)
        self.config = c = config or TransformerConfig()
        in_channels = c.latent_channels + c.mask_channels
        window = (1, PATCH, PATCH)
        self.patch_embedding = nn.Conv3d(in_channels, c.dim, kernel_size=window, stride=window)
        if c.text_width is not None:
            self.text_embedding = nn.Sequential(
                nn.Linear(c.text_width, c.dim),
                nn.GELU(approximate="tanh"),
                nn.Linear(c.dim, c.dim),
            )
        self.time_embedding = nn.Sequential(
            nn.Linear(c.frequencies, c.dim), nn.SiLU(), nn.Linear(c.dim, c.dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(c.dim, 6 * c.dim))
        self.action_encoder = ActionEncoder(c.actions, c.dim)
        if c.pose_rotary is None:
            self.memory_encoder = HPMCEncoder(c.memory_encoder)
        else:
            self.memory_encoder = PoseConditionedEncoder(c.memory_encoder, c.pose_rotary)
            self.pose_embedding = PoseEmbedding(c.dim)
        has_text = c.text_width is not None
        self.blocks = nn.ModuleList(
            Block(c.dim, c.ffn_dim, c.heads, has_text, c.eps) for _ in range(c.blocks)
        )
        out = PATCH * PATCH * c.latent_channels
        self.head = Head(c.dim, out, c.eps)
        if c.skip_head:
            self.skip_head = nn.Sequential(
                nn.Linear(c.dim + out, c.skip_head), nn.SiLU(), nn.Linear(c.skip_head, out)
            )

    def context(
        self,
        memory: Float[Tensor, "b c k h w"] | None,
        local: Float[Tensor, "b c 1 h w"],
        actions: Actions | None,
        prompt: Prompt | None = None,
        poses: ChunkPoses | None = None,
    ) -> ChunkContext:
        """Everything of a chunk that does not depend on the noise or the timestep.

        Args:
            memory: the compressed history, k maps: latents, or memory tokens of the transformer's
                width on the patch grid; None for an empty memory.
            local: the newest latent, uncompressed: the local frame of the paper.
            actions: ids of the chunk's frames; None where their poses alone say how they are
                reached, as between frames that no single action connects.
            prompt: needed exactly if the model has text.
            poses: needed exactly if the model has pose-conditioned rotary positions.

        Raises:
            ValueError: for odd latent sizes, or conditions that the model does not take.
        """
        self._check(local, prompt, poses)
        grid = local.shape[-2] // PATCH, local.shape[-1] // PATCH
        tokens = self._conditioning_tokens(memory, local, poses)
        frame_embedding = self._frame_embedding(actions, poses, len(local))
        frames = tokens.shape[1] // math.prod(grid), frame_embedding.shape[1]
        rotation = self._rotation(*frames, *grid, local.device, poses)
        conditioning_rotation = rotation.slice(None, tokens.shape[1])
        target_rotation = rotation.slice(tokens.shape[1], None)
        blocks = self._encode_conditioning(tokens, conditioning_rotation, self._text(prompt))
        return ChunkContext(blocks, conditioning_rotation, target_rotation, frame_embedding)

    def velocity(
        self,
        noisy: Float[Tensor, "b c t h w"],
        timestep: Float[Tensor, "b"],
        context: ChunkContext,
    ) -> Float[Tensor, "b c t h w"]:
        """Predicted noise - data at timesteps from 0 to 1000; float32.

        Raises:
            ValueError: when the context was made for another number of frames.
        """
        return to_latents(self.token_velocity(noisy, timestep, context), noisy.shape)

    def token_velocity(
        self,
        noisy: Float[Tensor, "b c t h w"],
        timestep: Float[Tensor, "b"],
        context: ChunkContext,
        indices: Int[Tensor, "k"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "b k p"]:
        """`velocity` as tokens (`to_tokens`): of all tokens, or of some.

        Args:
            noisy: latents of the whole chunk.
            timestep: the timestep, from 0 to 1000.
            context: the conditioning of the chunk.
            indices: indices of the tokens to evaluate, ascending; None for all.
            cache: keys and values of this chunk: tokens not evaluated are attended to as of their
                last evaluation; None to leave them out of attention.

        Raises:
            ValueError: as `velocity`; for indices that do not ascend, or before the cache has all.
        """
        if context.frame_embedding.shape[1] != noisy.shape[2]:
            frames, actions = noisy.shape[2], context.frame_embedding.shape[1]
            raise ValueError(f"{frames} noisy latents need as many action latents, got {actions}")
        if indices is not None and bool((indices.diff() <= 0).any()):
            raise ValueError("indices must be ascending")
        time, projected = self._time(timestep)
        x = self._patches(noisy, mask=0.0)
        tokens_per_frame = x.shape[1] // noisy.shape[2]
        x = x + context.frame_embedding.repeat_interleave(tokens_per_frame, dim=1)
        x = _select(x, indices)
        rotation = context.target_rotation
        rotation = rotation if indices is None else rotation.select(indices)
        for i, (block, block_context) in enumerate(zip(self._blocks, context.blocks, strict=True)):
            modulation = block.modulation_at(projected)
            conditioning, conditioning_keys_values, text_keys_values = block_context
            if conditioning_keys_values is None:
                conditioning_keys_values = block.conditioning_keys_values(
                    conditioning, context.conditioning_rotation, modulation
                )
            update = None if cache is None else partial(cache.update, i, indices=indices)
            x = block(x, modulation, rotation, conditioning_keys_values, text_keys_values, update)
        out = self.head(x, time)
        if self.config.skip_head:
            tokens = _select(to_tokens(noisy), indices).to(x)
            normed = self.head.normed(x, time).to(x)
            out = out + self.skip_head(torch.cat([normed, tokens], dim=-1))
        if self.config.prediction == "velocity":
            return out
        level = (timestep / TIMESTEPS).view(-1, 1, 1).clamp(min=1e-3).to(out.device)
        return (_select(to_tokens(noisy), indices).float() - out) / level

    def forward(
        self,
        noisy: Float[Tensor, "b c t h w"],
        timestep: Float[Tensor, "b"],
        memory: Float[Tensor, "b c k h w"] | None,
        local: Float[Tensor, "b c 1 h w"],
        actions: Actions,
        prompt: Prompt | None = None,
        poses: ChunkPoses | None = None,
    ) -> Float[Tensor, "b c t h w"]:
        """`velocity` with a fresh `context`."""
        return self.velocity(noisy, timestep, self.context(memory, local, actions, prompt, poses))

    def add_mask_channels(
        self, latents: Float[Tensor, "b c t h w"], mask: float
    ) -> Float[Tensor, "b c+m t h w"]:
        """Latents with their mask channels: 1 for conditioning, 0 for noise."""
        shape = (latents.shape[0], self.config.mask_channels, *latents.shape[2:])
        return torch.cat([latents, latents.new_full(shape, mask)], dim=1)

    def init_weights(self, gate_bias: float = 0.0) -> None:
        """Initial weights for training.

        Args:
            gate_bias: added to the gates of every block. With 1 every block has an effect from the
                first step on, which a small model needs that is trained from scratch for a short
                time.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.data.flatten(1))
        embeddings = [self.time_embedding]
        if self.config.text_width is not None:
            embeddings.append(self.text_embedding)
        for embedding in embeddings:
            for layer in (embedding[0], embedding[2]):
                nn.init.normal_(cast(nn.Linear, layer).weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)
        if isinstance(self.memory_encoder, PoseConditionedEncoder):
            self.memory_encoder.panorama.init_weights()
        with torch.no_grad():
            for block in self._blocks:
                block.modulation[:, [2, 5]] += gate_bias

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`, as `dtype` if given."""
        save_pretrained(folder, self.config, self, dtype)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "WorldTransformer":
        """Load a folder or hub id written by `save_pretrained`; strict, in the saved type."""
        return load_pretrained(cls, TransformerConfig, source)

    @property
    def _blocks(self) -> Iterator[Block]:  # one at a time: they may be streamed
        return cast("Iterator[Block]", iter(self.blocks))

    def _check(self, local: Tensor, prompt: Prompt | None, poses: ChunkPoses | None) -> None:
        height, width = local.shape[-2:]
        if height % PATCH or width % PATCH:
            raise ValueError(f"latent height and width must be even, got {height}x{width}")
        if (prompt is None) != (self.config.text_width is None):
            takes = "needs a prompt" if prompt is None else "was trained without text"
            raise ValueError(f"this model {takes}")
        if (poses is None) != (self.config.pose_rotary is None):
            takes = "needs poses" if poses is None else "takes no poses"
            raise ValueError(f"this model {takes}")

    def _patches(self, latents: Tensor, mask: float) -> Tensor:
        sequence = self.add_mask_channels(latents.to(self.patch_embedding.weight.dtype), mask)
        # Contiguous: else the channels of a token lie far apart in every block, and sums and
        # norms take several times as long.
        return self.patch_embedding(sequence).flatten(2).transpose(1, 2).contiguous()

    def _conditioning_tokens(
        self, memory: Tensor | None, local: Tensor, poses: ChunkPoses | None
    ) -> Tensor:
        """The tokens of the memory, if there is any, then those of the local frame."""
        tokens = self._patches(local, mask=1.0)
        if memory is None or memory.shape[2] == 0:
            return tokens
        if poses is None:
            both = torch.cat([memory.to(local), local], dim=2)
            return self._patches(both, mask=1.0)
        embedded = self.pose_embedding(self._relative(poses.memory, poses))[:, :, None]
        remembered = memory.flatten(3).permute(0, 2, 3, 1) + embedded
        return torch.cat([remembered.flatten(1, 2).to(tokens), tokens], dim=1)

    def _frame_embedding(
        self, actions: Actions | None, poses: ChunkPoses | None, batch: int
    ) -> Float[Tensor, "b t d"]:
        """The embeddings of the target frames' actions and poses, as far as they are given."""
        embeddings = []
        if actions is not None:
            embedded = self.action_encoder(actions.move, actions.view)
            embeddings.append(embedded.expand(batch, -1, -1))
        if poses is not None:
            embeddings.append(self.pose_embedding(self._relative(poses.target, poses)))
        if not embeddings:
            raise ValueError("a chunk needs actions or poses, got neither")
        return sum(embeddings[1:], embeddings[0])

    def _rotation(
        self,
        frames: int,
        targets: int,
        height: int,
        width: int,
        device: torch.device,
        poses: ChunkPoses | None,
    ) -> RotaryEmbedding:
        """Of `frames` frames of the memory and the local frame, then `targets` target frames."""
        config = self.config.pose_rotary
        if config is None or poses is None:
            head_dim = self.config.dim // self.config.heads
            return grid_rotary_embedding(frames + targets, height, width, head_dim, device)
        parts = (poses.memory, poses.local[:, None], poses.target)
        sequence = torch.cat([with_spread(part) for part in parts], dim=1)
        steps = torch.arange(targets + 1).expand(sequence.shape[0], -1)
        times = torch.cat([memory_times(poses.memory_ages.cpu().double()), steps], dim=1)
        present = slice(-(frames + targets), None)  # without the memory if it is empty
        relative = self._relative(sequence[:, present], poses)
        return pose_rotation(config, relative, times[:, present], height, width, device)

    def _relative(self, sequence: Tensor, poses: ChunkPoses) -> Tensor:
        """Poses relative to that of the local frame."""
        assert self.config.pose_rotary is not None
        relative = relative_poses(sequence, poses.local)
        return torch.zeros_like(relative) if self.config.pose_rotary.time_only else relative

    def _text(self, prompt: Prompt | None) -> Tensor | None:
        if prompt is None:
            return None
        states = prompt.states * prompt.mask[..., None].to(prompt.states.dtype)
        return self.text_embedding(states.to(self.patch_embedding.weight.dtype))

    def _encode_conditioning(
        self, tokens: Tensor, rotation: RotaryEmbedding, text: Tensor | None
    ) -> tuple[BlockContext, ...]:
        """The conditioning tokens in front of every block, at timestep 0."""
        _, projected = self._time(torch.zeros(tokens.shape[0], device=tokens.device))
        contexts = []
        for i, block in enumerate(self._blocks):
            modulation = block.modulation_at(projected)
            text_keys_values = None if text is None else block.text_keys_values(text)
            normed, keys_values = block.norm(tokens), None
            if self.config.memory_stream == "fixed":
                keys_values = block.conditioning_keys_values(normed, rotation, modulation)
            elif i + 1 < len(self.blocks):
                tokens = block.forward_conditioning(tokens, modulation, rotation, text_keys_values)
            contexts.append(BlockContext(normed, keys_values, text_keys_values))
        return tuple(contexts)

    def _time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.round_timestep:
            timestep = timestep.to(self.patch_embedding.weight.dtype).float()
        device = self.head.modulation.device
        waves = timestep_embedding(timestep, self.config.frequencies).to(device)
        hidden = F.silu(float_linear(self.time_embedding[0], waves))
        time = float_linear(self.time_embedding[2], hidden)
        return time, float_linear(self.time_projection[1], F.silu(time)).unflatten(-1, (6, -1))


def _rename_former_tensors(
    module: nn.Module, tensors: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """So that trainings from before a rename are resumed."""
    rename_tensors(tensors, prefix, WorldTransformer.FORMER_TENSORS)


def _select(x: Tensor, indices: Tensor | None) -> Tensor:
    """The tokens of `[b, n, d]` at `indices`; all for None."""
    return x if indices is None else x[:, indices]
