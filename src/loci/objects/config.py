"""How a lifter is run (`LifterConfig`), and the named models: `sam3d_objects` and `home`."""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from loci.io.config_files import LIFTER_NAME as LIFTER_NAME
from loci.objects.inputs.pixel_aligned import ALIGNED_CHANNELS
from loci.objects.inputs.preprocess import INPUT_SIZE
from loci.objects.models.condition import FuserConfig, PointmapEmbedderConfig
from loci.objects.models.dinov2 import DinoConfig, DinoEmbedderConfig, Tokens
from loci.objects.models.efficientnet import STRIDE
from loci.objects.models.slat_decoders import GaussianDecoderConfig, MeshDecoderConfig, TorsoConfig
from loci.objects.models.slat_flow import SlatFlowConfig, SlatStatistics
from loci.objects.models.structure_flow import StructureFlowConfig
from loci.objects.models.structure_vae import StructureDecoderConfig
from loci.objects.parts import ALL_DECODERS, DECODERS, GAUSSIAN_DECODERS, PARTS, PartConfigs
from loci.objects.placement.pose import Convention
from loci.objects.placement.refinement import RefinementConfig
from loci.objects.placement.voxels import VOXEL_LIMIT
from loci.objects.sampling import SlatSampling, StructureSampling


@dataclass(frozen=True)
class LifterConfig:
    """How the parts are run. The defaults are those of SAM 3D Objects as published.

    Attributes:
        input_size: side in pixels to which pictures, masks and pointmaps are resized.
        structure: sampling of stage 1.
        slat: sampling of stage 2.
        prune_depth: depth in voxels from which the interior of an object is dropped; 0 keeps it.
        voxel_limit: most voxels in stage 2.
        convention: of the decoded pose.
        decoders: the parts that decode the latents.
        refinement: how poses are refined between the stages; None for not at all.
        guesses: shapes sampled per object, of which the one that fits mask and depths best goes on
            to stage 2. Where they cannot be compared, as without refinement, only one is sampled.

    Raises:
        ValueError: for fewer than one guess, or for both Gaussian decoders.
    """

    FORMER_FIELDS: ClassVar[dict[str, str]] = {"latents": "slat", "prune": "prune_depth"}

    input_size: int = INPUT_SIZE
    structure: StructureSampling = field(default_factory=StructureSampling)
    slat: SlatSampling = field(default_factory=SlatSampling)
    prune_depth: int = 1
    voxel_limit: int = VOXEL_LIMIT
    convention: Convention = "ScaleShiftInvariant"
    decoders: tuple[str, ...] = DECODERS
    refinement: RefinementConfig | None = None
    guesses: int = 1

    def __post_init__(self) -> None:
        if self.guesses < 1:
            raise ValueError(f"guesses: {self.guesses}, expected at least 1")
        if set(GAUSSIAN_DECODERS) <= set(self.decoders):
            names = " and ".join(GAUSSIAN_DECODERS)
            raise ValueError(f"decoders: {names}, expected one of the two")

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all parts that a run needs, in its order."""
        shared = tuple(name for name in PARTS if name not in DECODERS)
        return (*shared, *(name for name in ALL_DECODERS if name in self.decoders))


MASK_SIZE, PATCHES = 112, 8
"""The small model: side of its masks in pixels, and patches along the side of any input."""


class LiftModelConfig(NamedTuple):
    """A model: sizes of its parts, and how they are run."""

    parts: PartConfigs
    lifter: LifterConfig


def sam3d_objects() -> LiftModelConfig:
    """SAM 3D Objects as published: 3.2 billion parameters, 25 steps in each stage."""
    return LiftModelConfig(PartConfigs(), LifterConfig())


def home() -> LiftModelConfig:
    """The shipped small model: 32^3 voxels from 4^3 structure tokens, 8 Gaussians per voxel.

    Voxels are not pruned because it is trained on surface voxels only. The statistics of the
    latents are placeholders until it is trained.
    """
    parts = PartConfigs(
        structure_fuser=FuserConfig(
            picture=_picture_embedder("normal"),
            mask=_mask_embedder(dim=96, depth=3, heads=2),
            pointmap=PointmapEmbedderConfig(input_size=64, patch=8, dim=48, heads=2),
            dim=192,
            full_frame=("rgb_image_mask",),
            mask_background=True,
            normalize_tokens=True,
        ),
        structure_flow=StructureFlowConfig(
            192, 192, blocks=5, heads=3, mlp_ratio=3, resolution=4, shape_channels=32
        ),
        structure_decoder=StructureDecoderConfig(32, (128, 64, 16, 8), 1, 1),
        slat_fuser=FuserConfig(
            picture=_picture_embedder("prenorm"),
            mask=_mask_embedder(dim=96, depth=1, heads=3, tokens="prenorm"),
            dim=128,
            full_frame=(),
            mask_background=True,
            normalize_tokens=True,
        ),
        slat_flow=SlatFlowConfig(
            dim=128,
            condition_dim=128,
            blocks=4,
            heads=4,
            io_channels=(48,),
            frequencies=64,
            aligned=ALIGNED_CHANNELS,
        ),
        gaussian_decoder=GaussianDecoderConfig(
            _torso(3), gaussians=8, scale_start=0.006, opacity_start=0.8, rotation_rate=1.0
        ),
        mesh_decoder=MeshDecoderConfig(_torso(2), narrowing=(4,), norm_groups=8, closed=True),
        gaussian_decoder_4=None,
    )
    lifter = LifterConfig(
        input_size=STRIDE * PATCHES,
        structure=StructureSampling(steps=12, guidance_strength=1.0, temperature=0.6),
        slat=SlatSampling(
            steps=8,
            guidance_strength=0.0,
            temperature=0.7,
            statistics=SlatStatistics((0.0,) * 8, (1.0,) * 8),
        ),
        prune_depth=0,
        refinement=RefinementConfig(),
    )
    return LiftModelConfig(parts, lifter)


def _picture_embedder(tokens: Tokens) -> DinoEmbedderConfig:
    backbone = DinoConfig(STRIDE, 192, 2, 3, registers=2, grid=PATCHES, stem="lite")
    return DinoEmbedderConfig(backbone, STRIDE * PATCHES, tokens)


def _mask_embedder(
    dim: int, depth: int, heads: int, tokens: Tokens = "normal"
) -> DinoEmbedderConfig:
    backbone = DinoConfig(MASK_SIZE // PATCHES, dim, depth, heads, registers=1, grid=PATCHES)
    return DinoEmbedderConfig(backbone, MASK_SIZE, tokens)


def _torso(blocks: int) -> TorsoConfig:
    return TorsoConfig(dim=96, blocks=blocks, heads=3, resolution=32)
