"""The blocks of the stage-2 flow: residual convolutions, and attention bent to a time."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.layers.attention import KeysValues
from loci.layers.feed_forward import FeedForward
from loci.layers.modulation import Modulation, gated, modulated
from loci.layers.norms import AffineLayerNorm, layer_norm
from loci.layers.sparse import Voxels, downsample, upsample
from loci.layers.sparse_attention import VoxelAttention, VoxelCrossAttention
from loci.layers.sparse_conv import SparseConv3

EPS = 1e-6


def per_voxel(rows: Float[Tensor, "b d"], voxels: Voxels) -> Float[Tensor, "n d"]:
    """Every voxel's row of its item; a single row is left to broadcast, which saves memory."""
    return rows if rows.shape[0] == 1 else rows[voxels.coords[:, 0]]


class ResidualBlock(nn.Module):
    """Two sparse convolutions bent to a time, around a skip (SAM 3D Objects, 8).

    `resample` is 0, -1 (to the coarser voxels first) or 1 (to the finer voxels first).
    """

    def __init__(
        self, in_channels: int, out_channels: int, moment_dim: int, resample: int = 0
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = AffineLayerNorm(in_channels, EPS)
        self.conv1 = SparseConv3(in_channels, out_channels)
        self.conv2 = SparseConv3(out_channels, out_channels)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(moment_dim, 2 * out_channels))
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Linear(in_channels, out_channels)

    def forward(
        self, feats: Float[Tensor, "n c"], moment: Float[Tensor, "b e"], fine: Voxels
    ) -> Float[Tensor, "m d"]:
        """Features one block on.

        Args:
            feats: of `fine`, or of its parents if the block upsamples.
            moment: the embedded time, one row or one for every item.
            fine: the finer of the two voxel sets the block deals with.
        """
        voxels = fine
        if self.resample < 0:
            feats, voxels = downsample(feats, fine), fine.coarser.voxels
        elif self.resample > 0:
            feats = upsample(feats, fine)
        scale, shift = per_voxel(self.emb_layers(moment), voxels).chunk(2, dim=-1)
        h = self.conv1(F.silu(self.norm1(feats)), voxels)
        h = modulated(layer_norm(h, EPS), shift, scale)
        return self.conv2(F.silu(h), voxels) + self.skip_connection(feats)


class VoxelFlowBlock(nn.Module):
    """Self-attention over an item's voxels, cross-attention to the picture, feed-forward."""

    def __init__(self, dim: int, condition_dim: int, heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        self.norm2 = AffineLayerNorm(dim, EPS)
        self.self_attn = VoxelAttention(dim, heads, norm=True)
        self.cross_attn = VoxelCrossAttention(dim, condition_dim, heads)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(
        self,
        feats: Float[Tensor, "n d"],
        moment: Float[Tensor, "b d"],
        voxels: Voxels,
        context: KeysValues | None,
    ) -> Float[Tensor, "n d"]:
        """One block on; `context` None is the unconditional branch."""
        rows = per_voxel(self.adaLN_modulation(moment), voxels)
        m = Modulation(*rows.chunk(6, dim=-1))
        h = modulated(layer_norm(feats, EPS), m.shift1, m.scale1)
        feats = gated(feats, self.self_attn(h, voxels.by_item), m.gate1)
        feats = feats + self.cross_attn(self.norm2(feats), context, voxels)
        h = modulated(layer_norm(feats, EPS), m.shift2, m.scale2)
        return gated(feats, self.mlp(h), m.gate2)
