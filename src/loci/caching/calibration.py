"""What was measured of one model on training objects: what a tolerance and a spectrum mean for it.

The file stands beside the model's weights and is written after they are trained.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from loci.caching.error_budget import ErrorScale
from loci.caching.spectral import Thresholds
from loci.io.weights import load_config, save_config

CALIBRATION_NAME = "calibration.json"
"""The file in a model's folder that holds its ModelCalibration."""


@dataclass(frozen=True)
class ModelCalibration:
    """None for what was not measured.

    Args:
        structure: from predicted to true errors of the structure flow.
        latents: of the latent flow.
        walk: of a chunk of a walk.
        decoding: the joint spectral ratios that part objects by how finely they are decoded.
    """

    FORMER_NAMES: ClassVar[tuple[str, ...]] = ("Laws",)

    structure: ErrorScale | None = None
    latents: ErrorScale | None = None
    walk: ErrorScale | None = None
    decoding: Thresholds | None = None

    @classmethod
    def beside(cls, folder: Path) -> "ModelCalibration":
        """Those of a model's folder; empty where nothing was measured.

        Raises:
            LociError: when the file is damaged.
        """
        path = folder / CALIBRATION_NAME
        return load_config(path, cls) if path.is_file() else cls()

    def write(self, folder: Path) -> None:
        """Into a model's folder, whole or not at all; no file if nothing was measured.

        Raises:
            LociError: when it cannot be written.
        """
        if self == ModelCalibration():
            (folder / CALIBRATION_NAME).unlink(missing_ok=True)
        else:
            save_config(folder / CALIBRATION_NAME, self)
