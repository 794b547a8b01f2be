"""How a world is walked, and the named configurations: the published model and the small ones."""

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from loci.flow import euler_timesteps, log_snr_timesteps
from loci.memory.hierarchical import MemoryConfig
from loci.memory.hpmc import HPMCConfig, WindowPlan
from loci.memory.panorama_merge import POSE_FEATURES
from loci.memory.pose_rotary import PoseRotaryConfig
from loci.memory.poses import ActionScale
from loci.memory.schedule import MergeConfig
from loci.world.conditioning import ActionEncoderConfig
from loci.world.transformer import TransformerConfig


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling steps of a chunk. `SamplingConfig()` is the published model's.

    Args:
        steps: number of steps.
        shift: timestep shift; above 1, more steps are spent at high noise.
        uniform: timesteps are evenly spaced before the shift, instead of as in the published code.
        guidance_scale: scale of classifier-free guidance; 1 for none.
        order: 1 for Euler steps, 2 for second-order multistep steps, DPM-Solver++(2M).
        log_snr: timesteps evenly spaced in log((1 - s) / s) between these two
            (`loci.flow.log_snr_timesteps`), in place of shift and uniform.
    """

    FORMER_FIELDS: ClassVar[dict[str, str]] = {"even": "uniform", "guidance": "guidance_scale"}

    steps: int = 30
    shift: float = 7.0
    uniform: bool = False
    guidance_scale: float = 5.0
    order: int = 1
    log_snr: tuple[float, float] | None = None

    def timesteps(self) -> Float[Tensor, "steps"]:
        """Descending, from 1000; the run ends at 0, which is not listed."""
        if self.log_snr is not None:
            return log_snr_timesteps(self.steps, *self.log_snr)
        return euler_timesteps(self.steps, self.shift, self.uniform)


def _published_memory() -> MemoryConfig:
    """The memory of the published model as long as its windows cover the history without gaps,
    then windows of the same size."""
    windows = WindowPlan()
    return MemoryConfig(MergeConfig(window=windows.window), windows)


@dataclass(frozen=True)
class WorldConfig:
    """How a world is walked. `WorldConfig()` is the published model's.

    Args:
        size: height and width of the frames; None to choose the published size whose aspect ratio
            is nearest to the picture's.
        fps: frames per second of a walk.
        chunk: new frames per chunk.
        overlap: a chunk generates the newest frame again as its first latent, which is dropped.
        reencode: the history holds latents of the decoded frames, otherwise the sampled latents.
        memory_excludes_local: the memory holds everything before the local frame (the newest
            latent, which the model sees uncompressed), otherwise that frame as well.
        codec: name of its class in `loci.codecs.CODECS`.
        text: whether the model takes a prompt.
        moves, views: the action ids the model was trained on; all if empty.
        action_scale: what an action does in one frame, for models that use dead-reckoned poses.
        fov: horizontal field of view in degrees of the frames it was trained on; None if unknown.
        static: nothing moves by itself: a chunk without motion repeats the newest latent, instead
            of generating it again.
        sampling: steps, timesteps and guidance of a chunk.
        memory: how the memory is organised.
    """

    FORMER_FIELDS: ClassVar[dict[str, str]] = {
        "stride": "action_scale",
        "horizon": "memory",
        "lag": "memory_excludes_local",
    }

    size: tuple[int, int] | None = None
    fps: int = 30
    chunk: int = 80
    overlap: bool = True
    reencode: bool = True
    memory_excludes_local: bool = False
    codec: str = "wan"
    text: bool = True
    moves: tuple[int, ...] = ()
    views: tuple[int, ...] = ()
    action_scale: ActionScale | None = None
    fov: float | None = None
    static: bool = False
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    memory: MemoryConfig = field(default_factory=_published_memory)


_DOOM_WIDTH, _DOOM_LATENTS = 256, 48


def doom_transformer(pose_rotary: bool = True) -> TransformerConfig:
    """The transformer of the shipped model `doom`.

    Args:
        pose_rotary: with False its rotary positions are in time only, for comparison.
    """
    return TransformerConfig(
        dim=_DOOM_WIDTH,
        ffn_dim=4 * _DOOM_WIDTH,
        blocks=8,
        heads=4,
        frequencies=128,
        latent_channels=_DOOM_LATENTS,
        text_width=None,
        actions=ActionEncoderConfig(embedding=32, hidden=64, strides=(1, 1)),
        memory_encoder=HPMCConfig(
            in_channels=_DOOM_LATENTS + POSE_FEATURES,
            out_channels=_DOOM_WIDTH,
            hidden=64,
            heads=2,
            blocks_per_level=1,
            spatial_stride=2,
        ),
        pose_rotary=PoseRotaryConfig(time_only=not pose_rotary),
        memory_stream="fixed",
        prediction="data",
        round_timestep=False,
        skip_head=2 * _DOOM_WIDTH,
    )


def doom_world() -> WorldConfig:
    """How the shipped model `doom` is walked: 128x128 frames, eight to a chunk, a latent per frame.

    The sampled latents become the history: the codec works frame by frame, so that decoding and
    encoding them again would gain nothing.
    """
    return WorldConfig(
        size=(128, 128),
        fps=15,
        chunk=8,
        overlap=False,
        reencode=False,
        memory_excludes_local=True,
        codec="frame",
        text=False,
        moves=tuple(range(9)),
        views=(0, 3, 4),
        action_scale=ActionScale(),
        fov=88.7,
        static=True,
        sampling=SamplingConfig(steps=8, guidance_scale=1.0, order=2, log_snr=(-4.75, 2.75)),
        # As many tokens at a time as it was trained with: 8 merged spans and 12 of 64 keyframes.
        memory=MemoryConfig(
            MergeConfig(window=8, budget=72, merge_by="views", keyframes=64), attended_keyframes=12
        ),
    )
