"""Latents to a mesh: the torso, two subdivisions, and a surface from the finest voxels."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.geometry.feature_mesh import CHANNELS, features_to_mesh
from loci.geometry.mesh import Mesh
from loci.layers.sparse import Voxels, subdivide
from loci.layers.sparse_conv import RereadPointwise, SparseConv3
from loci.layers.sparse_norm import SparseGroupNorm
from loci.layers.weights import load_pretrained, save_pretrained
from loci.objects.decoder_torso import DecoderTorso, TorsoConfig


@dataclass(frozen=True)
class MeshDecoderConfig:
    """Sizes. The defaults are the released model (SAM 3D Objects, 10).

    Each entry of `narrowing` is a subdivision, with the divisor of the torso's width behind it.
    `closed` is whether solid objects are spared a second surface inside (`features_to_mesh`).
    """

    torso: TorsoConfig = field(default_factory=TorsoConfig)
    narrowing: tuple[int, ...] = (4, 8)
    norm_groups: int = 32
    closed: bool = False

    @property
    def resolution(self) -> int:
        """Voxels along the side of the finest grid."""
        return self.torso.resolution * 2 ** len(self.narrowing)


class SubdivideBlock(nn.Module):
    """Eight voxels from each, two convolutions among them, around a skip."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.act_layers = nn.Sequential(SparseGroupNorm(norm_groups, in_channels), nn.SiLU())
        self.out_layers = nn.Sequential(
            SparseConv3(in_channels, out_channels),
            SparseGroupNorm(norm_groups, out_channels),
            nn.SiLU(),
            SparseConv3(out_channels, out_channels),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else RereadPointwise(in_channels, out_channels)

    def forward(self, feats: Float[Tensor, "n c"], voxels: Voxels) -> Float[Tensor, "n8 d"]:
        """Features of `voxels.finer`."""
        norm, _ = self.act_layers
        conv1, norm2, _, conv2 = self.out_layers
        h = subdivide(F.silu(norm(feats, voxels)))
        h = F.silu(norm2(conv1(h, voxels.finer), voxels.finer))
        return conv2(h, voxels.finer) + subdivide(self.skip_connection(feats))


class MeshDecoder(DecoderTorso):
    """101 channels for each of the finest voxels; `meshes` makes surfaces of them."""

    def __init__(self, config: MeshDecoderConfig | None = None) -> None:
        config = config or MeshDecoderConfig()
        super().__init__(config.torso)
        self.config = config
        widths = [config.torso.dim // divisor for divisor in (1, *config.narrowing)]
        self.upsample = nn.ModuleList(
            SubdivideBlock(wide, narrow, config.norm_groups)
            for wide, narrow in zip(widths, widths[1:], strict=False)
        )
        self.out_layer = nn.Linear(widths[-1], sum(CHANNELS.values()))

    def forward(
        self, latents: Float[Tensor, "n c"], voxels: Voxels
    ) -> tuple[Float[Tensor, "m 101"], Voxels]:
        """Channels (float32) of the finest voxels, and those voxels."""
        x = self.tokens(latents, voxels)
        for block in self.upsample:
            x, voxels = block(x, voxels), voxels.finer
        return self.out_layer(x).float(), voxels

    def meshes(self, feats: Float[Tensor, "m 101"], voxels: Voxels) -> list[Mesh]:
        """The surface of each item that has voxels."""
        c = self.config
        return [
            features_to_mesh(feats[rows], voxels.coords[rows, 1:], c.resolution, c.closed)
            for rows in voxels.items
        ]

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`, as `dtype` if given."""
        save_pretrained(folder, self.config, self, dtype)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "MeshDecoder":
        """Load a folder or hub id written by `save_pretrained`; strict, in the saved type."""
        return load_pretrained(cls, MeshDecoderConfig, source)

    def decode(self, latents: Float[Tensor, "n c"], voxels: Voxels) -> list[Mesh]:
        """Denormalised latents to the mesh of each item."""
        return self.meshes(*self(latents, voxels))
