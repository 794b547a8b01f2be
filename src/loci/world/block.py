"""Latents as tokens: one for every 2x2 latents of a frame, frame after frame, row after row."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.nn.attention import Attention, KeysValues
from loci.nn.norms import AffineLayerNorm, Modulation, gated, layer_norm, learned, modulated
from loci.nn.rotary import Rotation
from loci.world.partial import Seen

PATCH = 2


def to_tokens(latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b n p"]:
    """The four latents of every patch side by side, as the transformer's head gives them.

    n = t (h / 2) (w / 2), p = 4 c.
    """
    batch, channels, frames, height, width = latents.shape
    grid = (frames, height // PATCH, PATCH, width // PATCH, PATCH)
    x = latents.reshape(batch, channels, *grid).permute(0, 2, 3, 5, 4, 6, 1)
    return x.reshape(batch, -1, PATCH * PATCH * channels)


def to_latents(tokens: Float[Tensor, "b n p"], shape: torch.Size) -> Float[Tensor, "b c t h w"]:
    """The inverse: tokens as latents of a shape `[b, c, t, h, w]`."""
    batch, channels, frames, height, width = shape
    grid = (frames, height // PATCH, width // PATCH, PATCH, PATCH, channels)
    x = tokens.reshape(batch, *grid).permute(0, 6, 1, 2, 4, 3, 5)
    return x.reshape(batch, channels, frames, height, width)


class Block(nn.Module):
    """Self-attention, cross-attention to text (if the model has text), feed-forward (2.6).

    The memory stream is a function of the memory and the text alone, so `advance_memory` runs
    once per chunk; `forward` runs at every step.
    """

    def __init__(self, dim: int, ffn_dim: int, heads: int, text: bool, eps: float) -> None:
        super().__init__()
        self.modulation = learned(1, 6, dim, std=dim**-0.5)
        self.self_attn = Attention(dim, heads, eps)
        if text:
            self.norm3 = AffineLayerNorm(dim, eps)
            self.cross_attn = Attention(dim, heads, eps)
        self.ffn = nn.Sequential(
            nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim)
        )
        self.eps = eps

    def modulate(self, projected: Float[Tensor, "b 6 d"]) -> Modulation:
        """The block's own table plus the projected time embedding, `[b, 1, d]` each; float32."""
        return Modulation(*(self.modulation.float() + projected).unsqueeze(2).unbind(1))

    def norm(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The norm in front of self-attention and feed-forward; it has no weights."""
        return layer_norm(x, self.eps)

    def text_keys(self, text: Float[Tensor, "b l d"]) -> KeysValues:
        """Keys and values of a prompt, the same at every step and for both streams."""
        return self.cross_attn.keys_values(text)

    def attend_memory(
        self, memory: Float[Tensor, "b m d"], still: Modulation, at: Rotation
    ) -> Float[Tensor, "b m d"]:
        """Memory attends to memory, modulated for t = 0."""
        return self.self_attn(modulated(self.norm(memory), still.shift1, still.scale1), at)

    def advance_memory(
        self,
        memory: Float[Tensor, "b m d"],
        still: Modulation,
        at: Rotation,
        text: KeysValues | None,
    ) -> Float[Tensor, "b m d"]:
        """The memory stream's way through this block."""
        memory = gated(memory, self.attend_memory(memory, still, at), still.gate1)
        return self._finish(memory, still, text)

    def memory_keys(
        self, normed_memory: Float[Tensor, "b m d"], at: Rotation, moment: Modulation
    ) -> KeysValues:
        """What the noise sees of the memory: keys and values modulated for `moment`."""
        tokens = modulated(normed_memory, moment.shift1, moment.scale1)
        return self.self_attn.keys_values(tokens, at)

    def attend(
        self,
        x: Float[Tensor, "b n d"],
        now: Modulation,
        at: Rotation,
        memory: KeysValues,
        seen: Seen | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Noisy tokens attend to memory and to each other, or to what `seen` makes of them."""
        tokens = modulated(self.norm(x), now.shift1, now.scale1)
        own = self.self_attn.keys_values(tokens, at)
        own = own if seen is None else seen(own)
        both = (torch.cat(pair, dim=2) for pair in zip(memory, own, strict=True))
        return self.self_attn.attend(self.self_attn.queries(tokens, at), KeysValues(*both))

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        now: Modulation,
        at: Rotation,
        memory: KeysValues,
        text: KeysValues | None,
        seen: Seen | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The noisy stream's way through this block; `seen` as for `attend`."""
        x = gated(x, self.attend(x, now, at, memory, seen), now.gate1)
        return self._finish(x, now, text)

    def _finish(self, x: Tensor, now: Modulation, text: KeysValues | None) -> Tensor:
        if text is not None:
            x = x + self.cross_attn.attend(self.cross_attn.queries(self.norm3(x)), text)
        update = self.ffn(modulated(self.norm(x), now.shift2, now.scale2))
        return gated(x, update, now.gate2)
