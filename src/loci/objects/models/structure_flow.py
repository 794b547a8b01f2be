"""The flow of stage 1: velocities of structure and layout latents, generated together.

A Mixture-of-Transformers with two token streams, each with its own weights. Layout tokens attend to
structure tokens, but not the other way round.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.io.weights import load_pretrained, save_pretrained
from loci.nn.attention import CrossAttention, FeedForward, KeysValues, dot_product_attention
from loci.nn.embeddings import TimestepEmbedder, cube_embedding
from loci.nn.norms import (
    AffineLayerNorm,
    HeadRMSNorm,
    Modulation,
    constant_tensor,
    gated_residual,
    layer_norm,
    modulated_norm,
    normal_parameter,
)

SHAPE = "shape"
LAYOUT_STREAM = "6drotation_normalized"
"""The published name of the layout stream: rotation, translation, scale, translation scale."""

STREAMS = (SHAPE, LAYOUT_STREAM)
EPS = 1e-6

Streams = Mapping[str, Tensor]
"""`[b, n, d]` tokens by stream."""
StreamKeys = Mapping[str, KeysValues]
"""Keys and values of the condition by stream."""


class StreamAttention(nn.Module):
    """Self-attention with weights for each stream.

    Shape queries attend to the shape only; layout queries attend to the layout, followed by the
    shape.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} does not split into {heads} heads")
        self.heads = heads
        self.to_qkv = nn.ModuleDict({s: nn.Linear(dim, 3 * dim) for s in STREAMS})
        self.q_rms_norm = nn.ModuleDict({s: HeadRMSNorm(heads, dim // heads) for s in STREAMS})
        self.k_rms_norm = nn.ModuleDict({s: HeadRMSNorm(heads, dim // heads) for s in STREAMS})
        self.to_out = nn.ModuleDict({s: nn.Linear(dim, dim) for s in STREAMS})

    def forward(self, x: Streams) -> dict[str, Tensor]:
        queries, pairs = zip(*(self._project(x[s], s) for s in STREAMS), strict=True)
        shape, layout = pairs
        keys_values = {SHAPE: shape, LAYOUT_STREAM: _joined(layout, shape)}
        return {
            stream: self.to_out[stream](_attended(query, keys_values[stream]))
            for stream, query in zip(STREAMS, queries, strict=True)
        }

    def _project(self, x: Tensor, stream: str) -> tuple[Tensor, KeysValues]:
        q, k, v = self.to_qkv[stream](x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k = self.q_rms_norm[stream](q), self.k_rms_norm[stream](k)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return q, KeysValues(k, v)


class TwoStreamBlock(nn.Module):
    """Self-attention across streams, cross-attention to the condition, feed-forward."""

    def __init__(self, dim: int, condition_dim: int, heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm2 = nn.ModuleDict({s: AffineLayerNorm(dim, EPS) for s in STREAMS})
        self.self_attn = StreamAttention(dim, heads)
        self.cross_attn = nn.ModuleDict(
            {s: CrossAttention(dim, condition_dim, heads) for s in STREAMS}
        )
        self.mlp = nn.ModuleDict({s: FeedForward(dim, hidden) for s in STREAMS})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def condition_keys(self, condition: Float[Tensor, "b m c"]) -> dict[str, KeysValues]:
        """Keys and values of a condition, the same at every step."""
        return {s: self._cross(s).keys_values(condition) for s in STREAMS}

    def modulation_at(self, time_embedding: Float[Tensor, "b d"]) -> Modulation:
        """The modulation at an embedded time, `[b, 1, d]` each, the same for both streams."""
        return Modulation(*self.adaLN_modulation(time_embedding)[:, None].chunk(6, dim=-1))

    def forward(
        self, x: Streams, time_embedding: Float[Tensor, "b d"], keys_values: StreamKeys | None
    ) -> dict[str, Tensor]:
        """The block's output; `keys_values` None is the unconditional branch."""
        m = self.modulation_at(time_embedding)
        modulated = {s: modulated_norm(x[s], m.shift1, m.scale1, EPS) for s in STREAMS}
        attended = self.self_attn(modulated)
        out = {}
        for s in STREAMS:
            y = gated_residual(x[s], attended[s], m.gate1)
            y = y + self._cross_attended(y, s, keys_values)
            update = self.mlp[s](modulated_norm(y, m.shift2, m.scale2, EPS))
            out[s] = gated_residual(y, update, m.gate2)
        return out

    def _cross_attended(self, x: Tensor, stream: str, keys_values: StreamKeys | None) -> Tensor:
        if keys_values is None:
            return self._cross(stream).unconditional()
        return self._cross(stream)(self.norm2[stream](x), keys_values[stream])

    def _cross(self, stream: str) -> CrossAttention:
        return cast(CrossAttention, self.cross_attn[stream])


def _joined(first: KeysValues, second: KeysValues) -> KeysValues:
    return KeysValues(*(torch.cat(pair, dim=2) for pair in zip(first, second, strict=True)))


def _attended(queries: Tensor, keys_values: KeysValues) -> Tensor:
    return dot_product_attention(queries, *keys_values).transpose(1, 2).flatten(-2)


LAYOUT_CHANNELS = {LAYOUT_STREAM: 6, "translation": 3, "scale": 3, "translation_scale": 1}
"""Channels of the layout latents, one token each, in the order of the layout stream."""

Latents = Mapping[str, Tensor]
"""`shape` `[b, resolution^3, channels]` and the layout latents `[b, 1, channels]`."""
StructureContext = tuple[StreamKeys, ...]
"""Keys and values of a condition for every block."""


@dataclass(frozen=True)
class StructureFlowConfig:
    """Sizes. The defaults are those of SAM 3D Objects as published."""

    dim: int = 1024
    condition_dim: int = 1024
    blocks: int = 24
    heads: int = 16
    mlp_ratio: float = 4
    resolution: int = 16
    shape_channels: int = 8
    frequencies: int = 256


class LatentMapping(nn.Module):
    """Projections of one latent into the transformer and out of it.

    The position embedding of the shape is a fixed sine-cosine table, stored with the weights; that
    of a layout latent is learned.
    """

    pos_emb: Tensor

    def __init__(self, channels: int, dim: int, resolution: int | None = None) -> None:
        super().__init__()
        if resolution is None:
            self.pos_emb = normal_parameter(1, dim)
        else:
            self.register_buffer("pos_emb", constant_tensor(cube_embedding(resolution, dim)))
        self.input_layer = nn.Linear(channels, dim)
        self.out_layer = nn.Linear(dim, channels)

    def into(self, latent: Float[Tensor, "b n c"]) -> Float[Tensor, "b n d"]:
        """Tokens with position embedding, in the type of the weights."""
        return self.input_layer(latent.to(self.input_layer.weight.dtype)) + self.pos_emb

    def out_of(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n c"]:
        """The latent's velocity; float32."""
        return self.out_layer(layer_norm(tokens, 1e-5)).float()


class StructureFlow(nn.Module):
    """v(latents, time; condition), v = data - noise, for all five latents at once.

    `context` is computed once per run and `velocity` at every step; `forward` does both. Time is on
    the 0..1000 scale of SAM 3D Objects: 0 is noise, 1000 is data.
    """

    def __init__(self, config: StructureFlowConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or StructureFlowConfig()
        self.d_embedder = TimestepEmbedder(c.dim, c.frequencies)
        self.t_embedder = TimestepEmbedder(c.dim, c.frequencies)
        self.blocks = nn.ModuleList(
            TwoStreamBlock(c.dim, c.condition_dim, c.heads, c.mlp_ratio) for _ in range(c.blocks)
        )
        mapping = {name: LatentMapping(n, c.dim) for name, n in LAYOUT_CHANNELS.items()}
        mapping[SHAPE] = LatentMapping(c.shape_channels, c.dim, c.resolution)
        self.latent_mapping = nn.ModuleDict(mapping)

    def latent_shapes(self) -> dict[str, tuple[int, int]]:
        """Tokens and channels of every latent, by name in alphabetical order, in which noise is
        drawn."""
        shapes = {name: (1, channels) for name, channels in LAYOUT_CHANNELS.items()}
        shapes[SHAPE] = (self.config.resolution**3, self.config.shape_channels)
        return dict(sorted(shapes.items()))

    def noise(
        self, batch: int = 1, generator: torch.Generator | None = None
    ) -> dict[str, Float[Tensor, "b n c"]]:
        """Standard normal latents, drawn in the published order, on the model's device; float32."""
        device = self._some_weight.device
        return {
            name: torch.randn(batch, *shape, generator=generator, device=device)
            for name, shape in self.latent_shapes().items()
        }

    def context(self, condition: Float[Tensor, "b m c"] | None) -> StructureContext | None:
        """Keys and values of a condition for every step; None is the unconditional branch."""
        if condition is None:
            return None
        condition = condition.to(self._some_weight.dtype)
        return tuple(block.condition_keys(condition) for block in self._blocks)

    def embed_time(
        self, time: Float[Tensor, "b"], step: Float[Tensor, "b"] | None
    ) -> Float[Tensor, "b d"]:
        """Embedded time plus embedded shortcut step, both on the 0..1000 scale.

        As published, runs without shortcuts add the embedding of step 0, which is not 0. None adds
        nothing.
        """
        time_embedding = self.t_embedder(time)
        return time_embedding if step is None else time_embedding + self.d_embedder(step)

    def project(self, latents: Latents) -> dict[str, Float[Tensor, "b n d"]]:
        """The two token streams."""
        tokens = {name: self._mapping(name).into(latents[name]) for name in self.latent_mapping}
        layout = torch.cat([tokens[name] for name in LAYOUT_CHANNELS], dim=1)
        return {SHAPE: tokens[SHAPE], LAYOUT_STREAM: layout}

    def velocity(
        self,
        latents: Latents,
        time: Float[Tensor, "b"],
        context: StructureContext | None,
        step: Float[Tensor, "b"] | None = None,
    ) -> dict[str, Float[Tensor, "b n c"]]:
        """Predicted data - noise; float32.

        Args:
            latents: the state by name.
            time: 0 (noise) .. 1000 (data).
            context: from `context`; None for the unconditional branch.
            step: the shortcut's step length (0..1000); None stands for 0.
        """
        time_embedding = self.embed_time(time, torch.zeros_like(time) if step is None else step)
        return self._run(latents, time_embedding, context)

    def forward(
        self,
        latents: Latents,
        time: Float[Tensor, "b"],
        condition: Float[Tensor, "b m c"] | None,
        step: Float[Tensor, "b"] | None = None,
    ) -> dict[str, Float[Tensor, "b n c"]]:
        """`velocity` with a fresh `context`."""
        return self.velocity(latents, time, self.context(condition), step)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`, as `dtype` if given."""
        save_pretrained(folder, self.config, self, dtype)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "StructureFlow":
        """Load a folder or hub id written by `save_pretrained`; strict, in the saved type."""
        return load_pretrained(cls, StructureFlowConfig, source)

    def _run(
        self, latents: Latents, time_embedding: Tensor, context: StructureContext | None
    ) -> dict[str, Tensor]:
        streams = self.project(latents)
        for i, block in enumerate(self._blocks):
            streams = block(streams, time_embedding, None if context is None else context[i])
        tokens = {SHAPE: streams[SHAPE]}
        tokens |= zip(LAYOUT_CHANNELS, streams[LAYOUT_STREAM].split(1, dim=1), strict=True)
        return {name: self._mapping(name).out_of(tokens[name]) for name in latents}

    @property
    def _some_weight(self) -> Tensor:
        """Has the element type and device of all weights."""
        return next(self.t_embedder.parameters())

    @property
    def _blocks(self) -> Iterator[TwoStreamBlock]:
        """One at a time: they may be streamed from disk."""
        return cast(Iterator[TwoStreamBlock], iter(self.blocks))

    def _mapping(self, name: str) -> LatentMapping:
        return cast(LatentMapping, self.latent_mapping[name])


def expand_context(context: StructureContext | None, batch: int) -> StructureContext | None:
    """A context of one item, expanded to a batch without copies; others are returned as is."""
    if context is None:
        return None
    return tuple(
        {
            stream: KeysValues(*(x.expand(batch, *x.shape[1:]) if len(x) == 1 else x for x in pair))
            for stream, pair in keys.items()
        }
        for keys in context
    )
