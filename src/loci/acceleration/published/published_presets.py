"""Fast-SAM3D as presets: `released` and `paper`."""

from loci.acceleration.presets import LAYOUT_LATENTS, Preset
from loci.acceleration.published.decoding import PaperDecoding, ReleasedDecoding
from loci.acceleration.published.step_caches import PublishedStepCacheConfig
from loci.acceleration.published.token_carving import CarvingConfig


def released() -> Preset:
    """The released code of Fast-SAM3D with the settings of its script."""
    return Preset(
        "released",
        PublishedStepCacheConfig("released", layout=LAYOUT_LATENTS),
        CarvingConfig("released"),
        ReleasedDecoding(),
        prunes_interior=False,
    )


def paper() -> Preset:
    """Fast-SAM3D as its paper describes it (arXiv 2602.05293)."""
    return Preset(
        "paper",
        PublishedStepCacheConfig("paper", layout=LAYOUT_LATENTS),
        CarvingConfig("paper"),
        PaperDecoding(),
        prunes_interior=False,
    )
