"""The protocol of environments: frames for actions, poses if they are known, and units."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8

from loci.memory.poses import ActionScale

MapPose = tuple[float, float, float]
"""x, y in the environment's units; heading in degrees, counter-clockwise.

The model's poses (`loci.memory.poses`) are (heading, x, y) in radians and cells:
`EnvironmentInfo.model_poses` converts. An object's `Pose` (`loci.objects`) is that of an object in
a camera's frame.
"""


@dataclass(frozen=True)
class EnvironmentInfo:
    """What the numbers of an environment, or of a video, mean; part of `meta.json`.

    Args:
        environment: its name.
        frame_size: height and width of the frames in pixels.
        fps: frames per second.
        fov_degrees: horizontal field of view of the frames; None if unknown.
        move_units: how far an action moves in one frame, in units of the poses; None if unknown.
        turn_degrees: how far an action turns in one frame; None if unknown.
        cell_units: units of the poses per cell, the model's unit of length.
    """

    environment: str
    frame_size: tuple[int, int]
    fps: float = 15.0
    fov_degrees: float | None = None
    move_units: float | None = None
    turn_degrees: float | None = None
    cell_units: float = 1.0

    @property
    def action_scale(self) -> ActionScale | None:
        """What an action does in one frame, in radians and cells; None if unknown."""
        if self.move_units is None or self.turn_degrees is None:
            return None
        return ActionScale(math.radians(self.turn_degrees), self.move_units / self.cell_units)

    def model_poses(self, poses: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Poses of the environment (x, y, heading in degrees), as rows of an array, to those of the
        model: heading in radians, x and y in cells; float64."""
        x, y, heading = np.moveaxis(np.asarray(poses, np.float64), -1, 0)
        return np.stack([np.radians(heading), x / self.cell_units, y / self.cell_units], axis=-1)


class Environment(Protocol):
    """A place that can be walked through and recorded."""

    @property
    def info(self) -> EnvironmentInfo: ...

    def frame(self) -> UInt8[np.ndarray, "h w 3"]:
        """What is seen now."""
        ...

    def pose(self) -> MapPose | None:
        """Where the walker is now; None where the environment does not know."""
        ...

    def step(self, move: int, view: int) -> None:
        """Carry out one action for one frame; ids as in `loci.actions`.

        Raises:
            LociError: for an action that the environment does not have.
        """
        ...

    def close(self) -> None: ...
