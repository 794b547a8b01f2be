"""Carries a camera through the engine by any distance and angle, not only in whole actions."""

from typing import Any

import numpy as np

UNITS_PER_BUTTON = 12 / 41
"""How far the walker moves in a tic, by the value of a button (`loci.envs.doom.wad`)."""
MAX_BUTTON = 50


class Carrier:
    """Turns motion into buttons; what they cannot express goes into the next tic.

    Args:
        game: a `vizdoom.DoomGame` with the buttons of `start_engine`.
        heading: of the walker, in degrees, counter-clockwise.
    """

    def __init__(self, game: Any, heading: float) -> None:
        self._game, self._heading = game, heading
        self._left_over = np.zeros(2)

    def carry(self, forward: float, left: float, turn: float, heading: float) -> None:
        """One tic: a turn to the left in degrees, then a move in map units along the new heading.

        The engine takes whole steps of 0.29 units, and turns in steps of 1/182 degree.

        Args:
            forward, left, turn: at most 14.6 units either way.
            heading: the engine's present one.
        """
        self._heading += turn
        wanted = np.array([forward, left]) / UNITS_PER_BUTTON + self._left_over
        buttons = np.rint(wanted).clip(-MAX_BUTTON, MAX_BUTTON)
        self._left_over = (wanted - buttons).clip(-1, 1)
        delta = (self._heading - heading + 180) % 360 - 180
        self._game.make_action([float(buttons[0]), float(-buttons[1]), float(-delta)])
