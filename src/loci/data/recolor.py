"""Random colours for a whole walk, so that a model takes its palette from the first picture."""

import numpy as np
from jaxtyping import UInt8

Frames = UInt8[np.ndarray, "*n 3"]


class Recolor:
    """One random change of colours, the same for every frame of a walk.

    Channels are exchanged, then saturation, gains of the channels and a gamma are drawn.

    Args:
        rng: of the choices.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        exchanged = np.eye(3)[rng.permutation(3)]
        saturation = rng.uniform(0.3, 1.5)
        gray = np.full((3, 3), 1 / 3)
        mixed = saturation * exchanged + (1 - saturation) * gray
        gains = rng.uniform(0.7, 1.3, 3) * rng.uniform(0.8, 1.25)
        self.matrix = (gains[:, None] * mixed).astype(np.float32)
        self.gamma = float(np.exp(rng.uniform(-0.45, 0.45)))

    def __call__(self, frames: Frames) -> Frames:
        linear = np.clip(frames.astype(np.float32) / 255 @ self.matrix.T, 0, 1)
        return np.round(255 * linear**self.gamma).astype(np.uint8)
