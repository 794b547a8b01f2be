"""Named configurations of the object models: the released one and the small one we train."""

from typing import NamedTuple

from loci.objects.inputs.pixel_aligned import ALIGNED
from loci.objects.models.condition import FuserConfig, PointmapEmbedderConfig
from loci.objects.models.dinov2 import DinoConfig, DinoEmbedderConfig, Tokens
from loci.objects.models.efficientnet import STRIDE
from loci.objects.models.slat_decoders import GaussianDecoderConfig, MeshDecoderConfig, TorsoConfig
from loci.objects.models.slat_flow import LatentStatistics, SlatFlowConfig
from loci.objects.models.structure_flow import StructureFlowConfig
from loci.objects.models.structure_vae import StructureDecoderConfig
from loci.objects.parts import PartConfigs
from loci.objects.pipeline import LifterConfig
from loci.objects.placement.refinement import RefinementConfig
from loci.objects.sampling import SlatSampling, StructureSampling

_SIDE, _PATCHES = 112, 8  # of what the small model's mask embedders see, in pixels, in patches


class ObjectModel(NamedTuple):
    """Sizes of the parts, and how they are run."""

    parts: PartConfigs
    run: LifterConfig


def sam3d_objects() -> ObjectModel:
    """The released SAM 3D Objects: 3.2 billion parameters, 25 steps in either stage."""
    return ObjectModel(PartConfigs(), LifterConfig())


def home() -> ObjectModel:
    """The shipped small model: 32^3 voxels from 4^3 shape tokens, 8 Gaussians a voxel.

    Voxels are not pruned: those it learns from are the surface alone. The statistics of the
    latents are measured when it is trained.
    """
    parts = PartConfigs(
        structure_fuser=FuserConfig(
            picture=_eyes("normal"),
            mask=_picture(dim=96, depth=3, heads=2),
            pointmap=PointmapEmbedderConfig(input_size=64, patch=8, dim=48, heads=2),
            dim=192,
            full_frame=("rgb_image_mask",),
            cutout=True,
            even=True,
        ),
        structure_flow=StructureFlowConfig(
            192, 192, blocks=5, heads=3, mlp_ratio=3, resolution=4, shape_channels=32
        ),
        structure_decoder=StructureDecoderConfig(32, (128, 64, 16, 8), 1, 1),
        latent_fuser=FuserConfig(
            picture=_eyes("prenorm"),
            mask=_picture(dim=96, depth=1, heads=3, tokens="prenorm"),
            dim=128,
            full_frame=(),
            cutout=True,
            even=True,
        ),
        latent_flow=SlatFlowConfig(
            dim=128,
            condition_dim=128,
            blocks=4,
            heads=4,
            io_channels=(48,),
            frequencies=64,
            aligned=ALIGNED,
        ),
        gaussian_decoder=GaussianDecoderConfig(
            _torso(3), gaussians=8, scale_start=0.006, opacity_start=0.8, rotation_rate=1.0
        ),
        mesh_decoder=MeshDecoderConfig(_torso(2), narrowing=(4,), norm_groups=8, closed=True),
        gaussian_decoder_4=None,
    )
    run = LifterConfig(
        input_size=STRIDE * _PATCHES,
        structure=StructureSampling(steps=12, guidance=1.0, temperature=0.6),
        latents=SlatSampling(
            steps=8,
            guidance=0.0,
            temperature=0.7,
            statistics=LatentStatistics((0.0,) * 8, (1.0,) * 8),
        ),
        prune=0,
        refinement=RefinementConfig(),
    )
    return ObjectModel(parts, run)


def _eyes(tokens: Tokens) -> DinoEmbedderConfig:
    backbone = DinoConfig(STRIDE, 192, 2, 3, registers=2, grid=_PATCHES, stem="lite")
    return DinoEmbedderConfig(backbone, STRIDE * _PATCHES, tokens)


def _picture(dim: int, depth: int, heads: int, tokens: Tokens = "normal") -> DinoEmbedderConfig:
    backbone = DinoConfig(_SIDE // _PATCHES, dim, depth, heads, registers=1, grid=_PATCHES)
    return DinoEmbedderConfig(backbone, _SIDE, tokens)


def _torso(blocks: int) -> TorsoConfig:
    return TorsoConfig(dim=96, blocks=blocks, heads=3, resolution=32)
