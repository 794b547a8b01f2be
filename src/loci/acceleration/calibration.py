"""The calibration of one model: what its error tolerances mean, and its spectral thresholds.

`loci bench calibrate` writes it into the model's folder, beside the weights.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from loci.acceleration.error_budget import ErrorScale
from loci.acceleration.spectral import SpectralThresholds
from loci.io.config_files import load_config, save_config

CALIBRATION_NAME = "calibration.json"
"""The file in a model's folder that holds its ModelCalibration."""


@dataclass(frozen=True)
class ModelCalibration:
    """Fitted on training data; None for what was not measured.

    Args:
        structure: errors of the structure flow.
        slat: errors of the SLAT flow.
        walk: errors of a chunk of a walk.
        decoding: thresholds that choose the decoding factor.
    """

    FORMER_NAMES: ClassVar[tuple[str, ...]] = ("Laws",)
    FORMER_FIELDS: ClassVar[dict[str, str]] = {"latents": "slat"}

    structure: ErrorScale | None = None
    slat: ErrorScale | None = None
    walk: ErrorScale | None = None
    decoding: SpectralThresholds | None = None

    @classmethod
    def load_from(cls, folder: Path) -> "ModelCalibration":
        """Reads the calibration in a model's folder; empty if there is none.

        Raises:
            LociError: when the file is damaged.
        """
        path = folder / CALIBRATION_NAME
        return load_config(path, cls) if path.is_file() else cls()

    def write(self, folder: Path) -> None:
        """Writes it into a model's folder; removes the file if nothing was measured.

        Raises:
            LociError: when it cannot be written.
        """
        if self == ModelCalibration():
            (folder / CALIBRATION_NAME).unlink(missing_ok=True)
        else:
            save_config(folder / CALIBRATION_NAME, self)
