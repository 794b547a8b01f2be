"""Self-attention and cross-attention of voxel tokens."""

from jaxtyping import Float
from torch import Tensor, nn

from loci.nn.attention import CrossAttention, KeysValues
from loci.nn.norms import HeadRMSNorm
from loci.nn.sparse.voxels import Groups, Voxels


class VoxelAttention(nn.Module):
    """Self-attention within groups of voxels, optionally with RMS-normalised heads."""

    def __init__(self, dim: int, heads: int, norm: bool) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} does not split into {heads} heads")
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.q_rms_norm = HeadRMSNorm(heads, dim // heads) if norm else nn.Identity()
        self.k_rms_norm = HeadRMSNorm(heads, dim // heads) if norm else nn.Identity()
        self.to_out = nn.Linear(dim, dim)

    def forward(self, feats: Float[Tensor, "n d"], groups: Groups) -> Float[Tensor, "n d"]:
        q, k, v = self.to_qkv(feats).unflatten(-1, (3, self.heads, -1)).unbind(1)
        attended = groups.attend(self.q_rms_norm(q), self.k_rms_norm(k), v)
        return self.to_out(attended.flatten(1))


class VoxelCrossAttention(CrossAttention):
    """Every voxel attends to the condition of its item."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, feats: Float[Tensor, "n d"], keys_values: KeysValues | None, voxels: Voxels
    ) -> Float[Tensor, "n d"]:
        """`keys_values` has an entry per item; None is the condition of all zeros (broadcast)."""
        if keys_values is None:
            return self.unconditional()[0]
        queries = self.to_q(feats).unflatten(-1, (self.heads, -1))
        return self.to_out(voxels.by_item.attend_to(queries, *keys_values).flatten(1))
