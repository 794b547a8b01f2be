"""What was measured of one model on training objects: what a tolerance and a spectrum mean for it.

The file stands beside the model's weights and is written after they are trained.
"""

from dataclasses import dataclass
from pathlib import Path

from loci.caching.error_budget import Calibration
from loci.caching.spectral import Thresholds
from loci.io.weights import load_config, save_config

LAWS_NAME = "calibration.json"
"""The file in a model's folder that holds its Laws."""


@dataclass(frozen=True)
class Laws:
    """None for what was not measured.

    Args:
        structure: from predicted to true errors of the structure flow.
        latents: of the latent flow.
        walk: of a chunk of a walk.
        decoding: the joint spectral ratios that part objects by how finely they are decoded.
    """

    structure: Calibration | None = None
    latents: Calibration | None = None
    walk: Calibration | None = None
    decoding: Thresholds | None = None

    @classmethod
    def beside(cls, folder: Path) -> "Laws":
        """Those of a model's folder; empty where nothing was measured.

        Raises:
            LociError: when the file is damaged.
        """
        path = folder / LAWS_NAME
        return load_config(path, cls) if path.is_file() else cls()

    def write(self, folder: Path) -> None:
        """Into a model's folder, whole or not at all; no file if nothing was measured.

        Raises:
            LociError: when it cannot be written.
        """
        if self == Laws():
            (folder / LAWS_NAME).unlink(missing_ok=True)
        else:
            save_config(folder / LAWS_NAME, self)
