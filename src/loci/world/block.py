"""Transformer blocks and output head on patches.

A token is 2x2 latent pixels; tokens are ordered by frame, then by row.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.nn.attention import Attention, KeysValues
from loci.nn.cpu_inference import linear_gelu
from loci.nn.embeddings import RotaryEmbedding
from loci.nn.norms import (
    AffineLayerNorm,
    Modulation,
    gated_residual,
    layer_norm,
    modulate,
    modulated_norm,
    normal_parameter,
)

UpdateCache = Callable[[KeysValues], KeysValues]
"""Stores the keys and values of the tokens that are evaluated; returns those of all tokens."""
PATCH = 2
FEED_FORWARD_TOKENS = 4096
"""Tokens of each sequence that pass through a feed-forward layer at a time in inference."""


def to_tokens(latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b n p"]:
    """Patches as tokens, in the channel order of the transformer's output.

    n = t (h / 2) (w / 2), p = 4 c.
    """
    batch, channels, frames, height, width = latents.shape
    grid = (frames, height // PATCH, PATCH, width // PATCH, PATCH)
    x = latents.reshape(batch, channels, *grid).permute(0, 2, 3, 5, 4, 6, 1)
    return x.reshape(batch, -1, PATCH * PATCH * channels)


def to_latents(tokens: Float[Tensor, "b n p"], shape: torch.Size) -> Float[Tensor, "b c t h w"]:
    """The inverse of `to_tokens`, to latents of the given shape `[b, c, t, h, w]`."""
    batch, channels, frames, height, width = shape
    grid = (frames, height // PATCH, width // PATCH, PATCH, PATCH, channels)
    x = tokens.reshape(batch, *grid).permute(0, 6, 1, 2, 4, 3, 5)
    return x.reshape(batch, channels, frames, height, width)


class Block(nn.Module):
    """Self-attention, cross-attention to text (if the model has text) and feed-forward.

    Conditioning tokens, those of the memory and of the local frame, attend only to each other and
    to text and are modulated for timestep 0, so that `forward_conditioning` runs once per chunk;
    `forward` runs at every step.
    """

    def __init__(self, dim: int, ffn_dim: int, heads: int, text: bool, eps: float) -> None:
        super().__init__()
        self.modulation = normal_parameter(1, 6, dim, std=dim**-0.5)
        self.self_attn = Attention(dim, heads, eps)
        if text:
            self.norm3 = AffineLayerNorm(dim, eps)
            self.cross_attn = Attention(dim, heads, eps)
        self.ffn = nn.Sequential(
            nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim)
        )
        self.eps = eps

    def modulation_at(self, projected: Float[Tensor, "b 6 d"]) -> Modulation:
        """The learned modulation plus the projected time embedding, `[b, 1, d]` each; float32."""
        return Modulation(*(self.modulation.float() + projected).unsqueeze(2).unbind(1))

    def norm(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The norm before self-attention and feed-forward, without weights."""
        return layer_norm(x, self.eps)

    def text_keys_values(self, text: Float[Tensor, "b l d"]) -> KeysValues:
        """Keys and values of a prompt, the same at every step and for both kinds of tokens."""
        return self.cross_attn.keys_values(text)

    def attend_conditioning(
        self,
        conditioning: Float[Tensor, "b m d"],
        modulation: Modulation,
        rotation: RotaryEmbedding,
    ) -> Float[Tensor, "b m d"]:
        """Conditioning tokens attend to each other; `modulation` is that of timestep 0."""
        tokens = modulated_norm(conditioning, modulation.shift1, modulation.scale1, self.eps)
        return self.self_attn(tokens, rotation)

    def forward_conditioning(
        self,
        conditioning: Float[Tensor, "b m d"],
        modulation: Modulation,
        rotation: RotaryEmbedding,
        text_keys_values: KeysValues | None,
    ) -> Float[Tensor, "b m d"]:
        """The output of this block for conditioning tokens; `modulation` is that of timestep 0."""
        update = self.attend_conditioning(conditioning, modulation, rotation)
        conditioning = gated_residual(conditioning, update, modulation.gate1)
        return self._attend_text_and_feed_forward(conditioning, modulation, text_keys_values)

    def conditioning_keys_values(
        self,
        conditioning: Float[Tensor, "b m d"],
        rotation: RotaryEmbedding,
        modulation: Modulation,
    ) -> KeysValues:
        """Keys and values that the noisy tokens attend to, of normalised conditioning tokens."""
        tokens = modulate(conditioning, modulation.shift1, modulation.scale1)
        return self.self_attn.keys_values(tokens, rotation)

    def attend(
        self,
        x: Float[Tensor, "b n d"],
        modulation: Modulation,
        rotation: RotaryEmbedding,
        conditioning_keys_values: KeysValues,
        update_cache: UpdateCache | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Noisy tokens attend to conditioning tokens and to each other; with `update_cache`, also
        to the noisy tokens that are not evaluated now.
        """
        tokens = modulated_norm(x, modulation.shift1, modulation.scale1, self.eps)
        noisy = self.self_attn.keys_values(tokens, rotation)
        noisy = noisy if update_cache is None else update_cache(noisy)
        both = (
            torch.cat(pair, dim=2) for pair in zip(conditioning_keys_values, noisy, strict=True)
        )
        return self.self_attn.attend(self.self_attn.queries(tokens, rotation), KeysValues(*both))

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        modulation: Modulation,
        rotation: RotaryEmbedding,
        conditioning_keys_values: KeysValues,
        text_keys_values: KeysValues | None,
        update_cache: UpdateCache | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The output of this block for the noisy tokens; `update_cache` as for `attend`."""
        update = self.attend(x, modulation, rotation, conditioning_keys_values, update_cache)
        x = gated_residual(x, update, modulation.gate1)
        return self._attend_text_and_feed_forward(x, modulation, text_keys_values)

    def _attend_text_and_feed_forward(
        self, x: Tensor, modulation: Modulation, text_keys_values: KeysValues | None
    ) -> Tensor:
        if text_keys_values is not None:
            queries = self.cross_attn.queries(self.norm3(x))
            x = x + self.cross_attn.attend(queries, text_keys_values)
        tokens = modulated_norm(x, modulation.shift2, modulation.scale2, self.eps)
        return gated_residual(x, self._feed_forward(tokens), modulation.gate2)

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        """In pieces, in inference: the hidden layer of all tokens of a large chunk would be the
        largest tensor of an evaluation."""
        if torch.is_grad_enabled() or tokens.shape[1] <= FEED_FORWARD_TOKENS:
            return self._mlp(tokens)
        pieces = tokens.split(FEED_FORWARD_TOKENS, dim=1)
        return torch.cat([self._mlp(piece) for piece in pieces], dim=1)

    def _mlp(self, tokens: Tensor) -> Tensor:
        widen, _, narrow = self.ffn
        return narrow(linear_gelu(widen, tokens))


class Head(nn.Module):
    """Modulated norm and projection to patches, computed in float32."""

    def __init__(self, dim: int, out: int, eps: float) -> None:
        super().__init__()
        self.modulation = normal_parameter(1, 2, dim, std=dim**-0.5)
        self.head = nn.Linear(dim, out)
        self.eps = eps

    def forward(
        self, x: Float[Tensor, "b n d"], time: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b n p"]:
        return float_linear(self.head, self.normed(x, time))

    def normed(
        self, x: Float[Tensor, "b n d"], time: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b n d"]:
        """The modulated norm alone; float32."""
        shift, scale = (self.modulation.float() + time[:, None]).chunk(2, dim=1)
        return modulate(layer_norm(x, self.eps).float(), shift, scale)


def float_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer computed in float32 whatever the dtype of its weights."""
    assert isinstance(layer, nn.Linear)
    return F.linear(x, layer.weight.float(), layer.bias.float())
