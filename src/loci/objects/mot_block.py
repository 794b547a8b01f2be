"""One block of the Mixture-of-Transformers: several token streams, one of them protected."""

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.layers.attention import KeysValues
from loci.layers.cross_attention import CrossAttention
from loci.layers.feed_forward import FeedForward
from loci.layers.mixing import mixed_values
from loci.layers.modulation import Modulation, gated, modulated
from loci.layers.norms import AffineLayerNorm, HeadRMSNorm, layer_norm

SHAPE = "shape"
LAYOUT = "6drotation_normalized"
"""The layout stream (rotation, translation, scale, translation scale) under its released name."""

STREAMS = (SHAPE, LAYOUT)
EPS = 1e-6

Streams = Mapping[str, Tensor]
"""`[b, n, d]` tokens by stream."""
StreamKeys = Mapping[str, KeysValues]
"""Keys and values of a condition by stream: each stream has its own projection."""


class StreamAttention(nn.Module):
    """Self-attention with weights for each stream.

    Shape queries see shape alone, so the layout never disturbs it; layout queries see the layout
    followed by the shape (SAM 3D Objects, 4.3).
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
        queries, own = zip(*(self._project(x[s], s) for s in STREAMS), strict=True)
        shape, layout = own
        seen = {SHAPE: shape, LAYOUT: _joined(layout, shape)}
        return {
            stream: self.to_out[stream](_attended(query, seen[stream]))
            for stream, query in zip(STREAMS, queries, strict=True)
        }

    def _project(self, x: Tensor, stream: str) -> tuple[Tensor, KeysValues]:
        q, k, v = self.to_qkv[stream](x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k = self.q_rms_norm[stream](q), self.k_rms_norm[stream](k)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return q, KeysValues(k, v)


class TwoStreamBlock(nn.Module):
    """Self-attention across streams, cross-attention to the picture, feed-forward."""

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

    def modulate(self, moment: Float[Tensor, "b d"]) -> Modulation:
        """The modulation at an embedded time, `[b, 1, d]` each, the same for both streams."""
        return Modulation(*self.adaLN_modulation(moment)[:, None].chunk(6, dim=-1))

    def forward(
        self, x: Streams, moment: Float[Tensor, "b d"], context: StreamKeys | None
    ) -> dict[str, Tensor]:
        """Both streams one block on; `context` None is the unconditional branch."""
        m = self.modulate(moment)
        bent = {s: modulated(layer_norm(x[s], EPS), m.shift1, m.scale1) for s in STREAMS}
        attended = self.self_attn(bent)
        out = {}
        for s in STREAMS:
            y = gated(x[s], attended[s], m.gate1)
            y = y + self._cross_attended(y, s, context)
            update = self.mlp[s](modulated(layer_norm(y, EPS), m.shift2, m.scale2))
            out[s] = gated(y, update, m.gate2)
        return out

    def _cross_attended(self, x: Tensor, stream: str, context: StreamKeys | None) -> Tensor:
        if context is None:
            return self._cross(stream).unconditional()
        return self._cross(stream)(self.norm2[stream](x), context[stream])

    def _cross(self, stream: str) -> CrossAttention:
        return cast(CrossAttention, self.cross_attn[stream])


def _joined(first: KeysValues, second: KeysValues) -> KeysValues:
    return KeysValues(*(torch.cat(pair, dim=2) for pair in zip(first, second, strict=True)))


def _attended(queries: Tensor, context: KeysValues) -> Tensor:
    return mixed_values(queries, *context).transpose(1, 2).flatten(-2)
