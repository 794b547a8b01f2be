"""What both decoders begin with: windowed attention over the voxels."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from loci.layers.feed_forward import FeedForward
from loci.layers.norms import layer_norm
from loci.layers.positions import sincos_positions
from loci.layers.sparse import Voxels
from loci.layers.sparse_attention import VoxelAttention
from loci.layers.sparse_groups import Groups

EPS = 1e-6


@dataclass(frozen=True)
class TorsoConfig:
    """Sizes. The defaults are the released decoders (SAM 3D Objects, 9)."""

    channels: int = 8
    dim: int = 768
    blocks: int = 12
    heads: int = 12
    mlp_ratio: float = 4
    window: int = 8
    resolution: int = 64


class WindowBlock(nn.Module):
    """Attention inside groups of voxels, feed-forward; both behind a norm without weights."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        self.attn = VoxelAttention(dim, heads, norm=False)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio))

    def forward(self, feats: Float[Tensor, "n d"], groups: Groups) -> Float[Tensor, "n d"]:
        feats = feats + self.attn(layer_norm(feats, EPS), groups)
        return feats + self.mlp(layer_norm(feats, EPS))


class DecoderTorso(nn.Module):
    """Latents to tokens: a linear layer, positions, blocks in windows that shift by half a side.

    Decoders inherit from it, because the released files keep its weights without a prefix.
    """

    def __init__(self, config: TorsoConfig) -> None:
        super().__init__()
        self.torso = config
        self.input_layer = nn.Linear(config.channels, config.dim)
        self.blocks = nn.ModuleList(
            WindowBlock(config.dim, config.heads, config.mlp_ratio) for _ in range(config.blocks)
        )

    def tokens(self, latents: Float[Tensor, "n c"], voxels: Voxels) -> Float[Tensor, "n d"]:
        """A token for every voxel, in the type of the weights.

        Raises:
            ValueError: when latents and voxels differ in number.
        """
        if latents.shape[0] != len(voxels):
            raise ValueError(f"{latents.shape[0]} latents for {len(voxels)} voxels")
        x = self.input_layer(latents.to(self.input_layer.weight.dtype))
        x = x + sincos_positions(voxels.coords[:, 1:], self.torso.dim).to(x.dtype)
        side = self.torso.window
        for i, block in enumerate(self.blocks):
            x = block(x, voxels.windows(side, shift=side // 2 if i % 2 else 0))
        return x
