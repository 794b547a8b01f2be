"""Every part of the object models is saved as a folder and comes back the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loci.errors import LociError
from loci.objects.conditioning import Fuser, FuserConfig
from loci.objects.decoder_torso import TorsoConfig
from loci.objects.dinov2 import DinoConfig, DinoEmbedder, DinoEmbedderConfig
from loci.objects.gaussian_decoder import GaussianDecoder, GaussianDecoderConfig
from loci.objects.latent_flow import LatentFlow, LatentFlowConfig
from loci.objects.mesh_decoder import MeshDecoder, MeshDecoderConfig
from loci.objects.pointmap_embedder import PointmapEmbedderConfig
from loci.objects.structure_decoder import StructureDecoder, StructureDecoderConfig
from loci.objects.structure_flow import StructureFlow, StructureFlowConfig

PICTURE = DinoEmbedderConfig(DinoConfig(patch=4, dim=16, depth=2, heads=2, grid=3), 12)
MASK = DinoEmbedderConfig(DinoConfig(patch=4, dim=8, depth=1, heads=1, grid=3), 12)
POINTS = PointmapEmbedderConfig(input_size=16, dim=16, heads=2)
TORSO = TorsoConfig(channels=4, dim=24, blocks=2, heads=2, window=4, resolution=8)


def parts() -> list[nn.Module]:
    return [
        Fuser.of(FuserConfig(PICTURE, MASK, POINTS, dim=16)),
        Fuser.of(FuserConfig(PICTURE, dim=16)),
        StructureFlow(StructureFlowConfig(16, 16, blocks=1, heads=2, resolution=2)),
        StructureDecoder(StructureDecoderConfig(8, (16, 8))),
        LatentFlow(LatentFlowConfig(4, 16, 16, blocks=1, heads=2, io_channels=(8,))),
        GaussianDecoder(GaussianDecoderConfig(TORSO, gaussians=2)),
        MeshDecoder(MeshDecoderConfig(TORSO, narrowing=(2,), norm_groups=4)),
    ]


@pytest.mark.parametrize("index", range(7))
def test_a_saved_part_comes_back_the_same(index: int, tmp_path: Path) -> None:
    part: Any = parts()[index]
    part.save_pretrained(tmp_path / "part")
    again = type(part).from_pretrained(tmp_path / "part")
    assert again.config == part.config
    assert not again.training
    weights = again.state_dict()
    assert weights.keys() == part.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in part.state_dict().items())


def test_a_part_can_be_saved_in_half_the_bytes(tmp_path: Path) -> None:
    part = parts()[2]
    assert isinstance(part, StructureFlow)
    part.save_pretrained(tmp_path, torch.bfloat16)
    assert StructureFlow.from_pretrained(tmp_path).t_embedder.mlp[0].weight.dtype == torch.bfloat16


def test_another_part_in_the_folder_is_named(tmp_path: Path) -> None:
    part = parts()[3]
    assert isinstance(part, StructureDecoder)
    part.save_pretrained(tmp_path)
    with pytest.raises(LociError, match=r"config\.json: expected a StructureFlowConfig"):
        StructureFlow.from_pretrained(tmp_path)


def test_a_fuser_of_foreign_embedders_says_that_it_cannot_be_saved(tmp_path: Path) -> None:
    fuser = Fuser([DinoEmbedder(PICTURE)], [Fuser.of(FuserConfig(PICTURE, dim=16)).sources[0]], 16)
    with pytest.raises(ValueError, match="foreign"):
        fuser.save_pretrained(tmp_path)
