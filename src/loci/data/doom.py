"""The Doom engine as a source of frames with exact poses: one tic a step, no inertia.

The walker of our maps stops dead after every tic, so a step is 12 map units or nothing, and 7.5
degrees or nothing, wherever no wall is in the way.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from loci.data.doom_maps import DoomMap, make_map
from loci.data.doom_wad import write_wad
from loci.errors import LociError

FRAME = 64  # pixels a side
STEP = 12.0  # map units a frame
TURN = 7.5  # degrees a frame
RENDER_FOV = 105.0  # degrees, over the rendered width of 256 pixels
FOV = math.degrees(2 * math.atan(0.75 * math.tan(math.radians(RENDER_FOV / 2))))  # over the 192 kept
WARM_UP = 10  # tics at the start of an episode in which the engine ignores input

# Ids of the published vocabulary: buttons (forward, left) of a move, turn of a view (left is +).
MOVES: dict[int, tuple[int, int]] = {
    0: (0, 0), 1: (41, 0), 2: (-41, 0), 3: (0, 41), 4: (0, -41),
    5: (29, 29), 6: (29, -29), 7: (-29, 29), 8: (-29, -29),
}  # fmt: skip
VIEWS: dict[int, int] = {0: 0, 3: 1, 4: -1}

Pose = tuple[float, float, float]  # x, y in map units, heading in degrees, counter-clockwise


class DoomWalker:
    """Steps the engine through a list of maps.

    The engine is a process of its own: use the walker in a `with` block, or call `close`.
    Raises LociError if ViZDoom is not installed.
    """

    def __init__(self, maps: Sequence[DoomMap]) -> None:
        try:
            import vizdoom
        except ImportError as error:
            raise LociError("Doom worlds need ViZDoom: pip install 'genius-loci[doom]'") from error
        if not 1 <= len(maps) <= 99:
            raise LociError(f"a walker takes 1 to 99 maps, not {len(maps)}")
        self._folder = tempfile.TemporaryDirectory(prefix="loci-doom-")
        wad = Path(self._folder.name) / "maps.wad"
        write_wad(wad, maps)
        self._heading = 0.0
        self._game = _start_engine(vizdoom, wad)

    def enter(self, index: int) -> None:
        """Go to the start of map `index`."""
        self._game.set_doom_map(f"MAP{index + 1:02d}")
        self._game.new_episode()
        for _ in range(WARM_UP):
            self._game.make_action([0, 0, 0])
        self._heading = self.pose()[2]

    def look(self) -> np.ndarray:
        """The current view: uint8 [64, 64, 3]."""
        wide = self._game.get_state().screen_buffer[:, 32:224].astype(np.uint16)
        rows = wide[0::3] + wide[1::3] + wide[2::3]
        return ((rows[:, 0::3] + rows[:, 1::3] + rows[:, 2::3] + 4) // 9).astype(np.uint8)

    def pose(self) -> Pose:
        x, y, heading = self._game.get_state().game_variables
        return float(x), float(y), float(heading)

    def step(self, move: int, view: int) -> None:
        """Turn first, then move along the new heading."""
        self._heading += TURN * VIEWS[view]
        # The engine rounds turns to 1/182 degree; steering at the reckoned heading keeps that from adding up.
        turn = (self._heading - self.pose()[2] + 180) % 360 - 180
        forward, left = MOVES[move]
        self._game.make_action([forward, -left, -turn])

    def close(self) -> None:
        self._game.close()
        self._folder.cleanup()

    def __enter__(self) -> DoomWalker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start_engine(vizdoom: Any, wad: Path) -> Any:
    game = vizdoom.DoomGame()
    button, variable = vizdoom.Button, vizdoom.GameVariable
    game.set_doom_game_path(str(Path(vizdoom.__file__).parent / "freedoom2.wad"))
    game.set_doom_scenario_path(str(wad))
    game.set_doom_map("MAP01")
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_256X192)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    for part in ("hud", "weapon", "crosshair", "decals", "particles", "messages", "corpses"):
        getattr(game, f"set_render_{part}")(False)
    moves = [button.MOVE_FORWARD_BACKWARD_DELTA, button.MOVE_LEFT_RIGHT_DELTA]
    game.set_available_buttons([*moves, button.TURN_LEFT_RIGHT_DELTA])
    for move in moves:
        game.set_button_max_value(move, 0)  # unlimited
    game.set_available_game_variables(
        [variable.POSITION_X, variable.POSITION_Y, variable.ANGLE]
    )
    game.set_episode_timeout(0)
    game.set_doom_config_path(str(wad.with_suffix(".ini")))
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.add_game_args(f"+movebob 0 +fov {RENDER_FOV:g} +cl_capfps 0 +vid_vsync 0 +r_fakecontrast 0")
    game.init()
    return game
