"""The Doom engine as a walker: what each action does, and what is seen from where it leads.

Action ids are those of `loci.actions`; these worlds have no looking up and down.
"""

import contextlib
import math
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, UInt8

from loci.envs.base import EnvironmentInfo, MapPose
from loci.envs.doom.maps import CELL, DoomMap, make_map
from loci.envs.doom.wad import write_wad
from loci.errors import LociError, install_hint

STEP = 12.0  # map units that a move covers in one frame, along diagonals too
TURN = 7.5  # degrees that a turn covers in one frame
FULL_TURN = 48  # frames
FPS = 15

FORWARD, BACK = 1, 2
STRAFE_LEFT, STRAFE_RIGHT = 3, 4
BEARING = {1: 0, 2: 180, 3: 90, 4: -90, 5: 45, 6: -45, 7: 135, 8: -135}  # of a move, in degrees
OPPOSITE = {0: 0, 1: 2, 2: 1, 3: 4, 4: 3, 5: 8, 8: 5, 6: 7, 7: 6}
LEFT, RIGHT = 3, 4  # views
TURN_SIGN = {0: 0, LEFT: 1, RIGHT: -1}

_KEPT = 0.75  # of the width that the engine renders, the middle of it


def _frame_fov(engine_fov: float) -> float:
    return math.degrees(2 * math.atan(_KEPT * math.tan(math.radians(engine_fov / 2))))


FOV = _frame_fov(105)  # 88.7 degrees across a frame
UNSET_FOV = _frame_fov(90)
"""73.7 degrees: what frames have where the engine is left at its default of 90. All 64-pixel
recordings of version 1, and the shipped model trained on them, have it, whatever they say."""
_RESOLUTIONS = {64: "RES_256X192", 128: "RES_512X384"}

Run = tuple[int, int, int]  # move, view, frames


def stepped(pose: MapPose, move: int, view: int) -> MapPose:
    """The pose after one action, if nothing stands in the way: a turn first, then the move."""
    x, y, heading = pose
    heading += TURN * TURN_SIGN[view]
    if move == 0:
        return x, y, heading
    angle = math.radians(heading + BEARING[move])
    return x + STEP * math.cos(angle), y + STEP * math.sin(angle), heading


def other_way(view: int) -> int:
    """Right for left, left for right."""
    return LEFT + RIGHT - view


def turn_between(heading: float, goal: float) -> float:
    """The shorter turn from one heading to another, degrees in [-180, 180)."""
    return (goal - heading + 180) % 360 - 180


@dataclass(frozen=True)
class RenderSettings:
    """How frames are rendered.

    Args:
        size: pixels a side of a frame, 64 or 128. The engine renders 4:3 pictures of four times
            that width; their middle square is kept, three by three pixels averaged to one.
        fov: horizontal field of view of a frame in degrees, 40 to 100.

    Raises:
        LociError: for another size, or a field of view out of range.
    """

    size: int = 128
    fov: float = FOV

    def __post_init__(self) -> None:
        if self.size not in _RESOLUTIONS:
            raise LociError(f"frames of {self.size} pixels a side, expected 64 or 128")
        if not 40 <= self.fov <= 100:
            raise LociError(f"a field of view of {self.fov:g} degrees, expected 40 to 100")

    @property
    def engine_fov(self) -> int:
        """Field of view of the whole rendered picture; the engine takes whole degrees."""
        return round(math.degrees(2 * math.atan(math.tan(math.radians(self.fov / 2)) / _KEPT)))

    @property
    def info(self) -> EnvironmentInfo:
        """Frames and units of Doom so rendered."""
        return EnvironmentInfo(
            environment="doom",
            frame_size=(self.size, self.size),
            fps=FPS,
            fov_degrees=round(_frame_fov(self.engine_fov), 4),
            move_units=STEP,
            turn_degrees=TURN,
            cell_units=float(CELL),
        )


MAX_MAPS = 99  # in one file
_WARM_UP = 10  # tics at the start of a map in which the engine ignores actions
# Buttons (forward, left) of every move; see the player class in `wad.py`.
_BUTTONS = (
    *((0, 0), (41, 0), (-41, 0), (0, 41), (0, -41)),
    *((29, 29), (29, -29), (-29, 29), (-29, -29)),
)


class DoomWalker:
    """Steps a walker through maps.

    The engine is a process of its own: use the walker in a `with` block, or `close` it.

    Args:
        maps: 1 to 99 of them.
        rendering: size and field of view of the frames.

    Raises:
        LociError: when ViZDoom is missing or does not start, or for none or more than 99 maps.
    """

    def __init__(self, maps: Sequence[DoomMap], rendering: RenderSettings | None = None) -> None:
        if not 1 <= len(maps) <= MAX_MAPS:
            raise LociError(f"{len(maps)} Doom maps, expected 1 to {MAX_MAPS}")
        self._heading = 0.0
        self.rendering = rendering or RenderSettings()
        self._folder = tempfile.TemporaryDirectory(prefix="loci-doom-")
        folder = Path(self._folder.name).resolve()
        try:
            write_wad(folder / "maps.wad", maps)
            self._game = start_engine(folder, _RESOLUTIONS[self.rendering.size])
        except BaseException:
            self._folder.cleanup()
            raise

    def enter(self, index: int) -> None:
        """Go to the start of a map."""
        self._game.set_doom_map(f"MAP{index + 1:02d}")
        self._game.new_episode()
        # On the command line, before a game is under way, the engine ignores it.
        self._game.send_game_command(f"fov {self.rendering.engine_fov}")
        for _ in range(_WARM_UP):
            self._game.make_action([0, 0, 0])
        self._heading = self.pose()[2]

    @property
    def info(self) -> EnvironmentInfo:
        """Its frames and units."""
        return self.rendering.info

    def frame(self) -> UInt8[np.ndarray, "s s 3"]:
        """What is seen from here."""
        side = self.rendering.size
        kept = slice(side // 2, side // 2 + 3 * side)
        wide = self._game.get_state().screen_buffer[:, kept].astype(np.uint16)
        rows = wide[0::3] + wide[1::3] + wide[2::3]
        return ((rows[:, 0::3] + rows[:, 1::3] + rows[:, 2::3] + 4) // 9).astype(np.uint8)

    def pose(self) -> MapPose:
        """x and y in map units, heading in degrees, counter-clockwise."""
        x, y, heading = self._game.get_state().game_variables
        return float(x), float(y), float(heading)

    def step(self, move: int, view: int) -> None:
        """Turn first, then move along the new heading.

        Raises:
            LociError: for an action that these worlds do not know (looking up or down, uncertain).
        """
        if not 0 <= move < len(_BUTTONS) or view not in TURN_SIGN:
            raise LociError(f"Doom walkers cannot do move {move} with view {view}")
        self._heading += TURN * TURN_SIGN[view]
        # The engine turns in steps of 1/182 degree; aiming at the exact heading avoids drift.
        turn = turn_between(self.pose()[2], self._heading)
        forward, left = _BUTTONS[move]
        self._game.make_action([forward, -left, -turn])

    def close(self) -> None:
        self._game.close()
        self._folder.cleanup()

    def __enter__(self) -> "DoomWalker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def film(
    map_seed: int,
    actions: Int[np.ndarray, "n 2"],
    start: MapPose | None = None,
    rendering: RenderSettings | None = None,
) -> tuple[UInt8[np.ndarray, "n+1 s s 3"], Float32[np.ndarray, "n+1 3"]]:
    """True frames and poses of a list of actions in the map of a seed, the first view included.

    Args:
        map_seed: see `make_map`.
        actions: move and view ids.
        start: x, y in map units and a heading in degrees (rounded to a whole one); the map's own
            start by default. Poses are returned in the same form.
        rendering: size and field of view of the frames.

    Raises:
        LociError: when ViZDoom is missing, `start` is not in the open, or for an unknown action.
    """
    doom_map = make_map(map_seed)
    if start is not None:
        if not doom_map.is_clear(start[0], start[1], 16):
            raise LociError(f"map {map_seed}: no room to stand at ({start[0]:g}, {start[1]:g})")
        doom_map = replace(doom_map, start=(start[0], start[1], round(start[2]) % 360))
    with DoomWalker([doom_map], rendering) as walker:
        walker.enter(0)
        frames, poses = [walker.frame()], [walker.pose()]
        for move, view in actions.tolist():
            walker.step(move, view)
            frames.append(walker.frame())
            poses.append(walker.pose())
    return np.stack(frames), np.array(poses, np.float32)


def start_engine(folder: Path, resolution: str, levels: bool = False) -> Any:
    """The engine at MAP01, a `vizdoom.DoomGame`.

    Args:
        folder: with `maps.wad`; the engine's own files go there.
        resolution: the name of a `vizdoom.ScreenResolution`.
        levels: Freedoom's own levels, without monsters, with the outlines of their sectors.

    Raises:
        LociError: when ViZDoom is missing or does not start.
    """
    try:
        import vizdoom
    except ImportError as error:
        raise LociError(f"Doom worlds need ViZDoom: {install_hint('doom')}") from error
    game = vizdoom.DoomGame()
    game.set_doom_game_path(str(Path(vizdoom.__file__).parent / "freedoom2.wad"))
    game.set_doom_scenario_path(str(folder / "maps.wad"))
    game.set_doom_config_path(str(folder / "engine.ini"))
    game.set_doom_map("MAP01")
    _configure(vizdoom, game, resolution)
    if levels:
        game.set_sectors_info_enabled(True)
        game.add_game_args("-nomonsters")
    game.set_episode_timeout(0)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.add_game_args("+movebob 0 +cl_capfps 0 +vid_vsync 0")
    game.add_game_args("+r_fakecontrast 0")  # a wall is as bright from every side
    try:
        # The engine leaves a folder where it is started.
        with contextlib.chdir(folder), _shielded_from_interrupts():
            game.init()
    except (vizdoom.ViZDoomErrorException, vizdoom.ViZDoomUnexpectedExitException) as error:
        raise LociError(f"ViZDoom did not start: {error}") from error
    return game


@contextlib.contextmanager
def _shielded_from_interrupts() -> Iterator[None]:
    """Child processes started in this block ignore Ctrl-C, so that we can close them properly."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _configure(vizdoom: Any, game: Any, resolution: str) -> None:
    button, variable = vizdoom.Button, vizdoom.GameVariable
    game.set_screen_resolution(getattr(vizdoom.ScreenResolution, resolution))
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    for part in ("hud", "weapon", "crosshair", "decals", "particles", "messages", "corpses"):
        getattr(game, f"set_render_{part}")(False)
    moves = [button.MOVE_FORWARD_BACKWARD_DELTA, button.MOVE_LEFT_RIGHT_DELTA]
    game.set_available_buttons([*moves, button.TURN_LEFT_RIGHT_DELTA])
    for move in moves:
        game.set_button_max_value(move, 0)  # no limit
    pose = [variable.POSITION_X, variable.POSITION_Y, variable.ANGLE]
    game.set_available_game_variables(pose)
