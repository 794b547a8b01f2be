"""Group normalisation over the voxels of each item."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.layers.sparse import Voxels


class SparseGroupNorm(nn.GroupNorm):
    """Statistics over a group's channels and all voxels of an item; computed in float32."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, feats: Float[Tensor, "n c"], voxels: Voxels
    ) -> Float[Tensor, "n c"]:
        weight, bias = self.weight.float(), self.bias.float()
        normed = [
            F.group_norm(feats[rows].float().T[None], self.num_groups, weight, bias, self.eps)[0].T
            for rows in voxels.items
        ]
        return torch.cat(normed).to(feats.dtype) if normed else feats
