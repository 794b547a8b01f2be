"""Freedoom's own levels: a camera in them, and where one can walk.

Unlike the generated maps they have stairs, slopes of light, machinery and textures that no training
saw. Doors stay closed and lifts stay where they are.
"""

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.ndimage import binary_dilation
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from loci.envs.base import MapPose
from loci.envs.doom.carrier import Carrier
from loci.envs.doom.engine import start_engine
from loci.envs.doom.wad import write_wad
from loci.errors import LociError

LEVELS = 32
GRID = 16
"""Map units a cell of a floor plan."""
CLEARANCE = 26.0
"""Map units from the walker's middle to any wall; its radius is 16."""
STAIR = 24.0
HEADROOM = 56.0
_NEIGHBORS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True)
class Sector:
    """A part of a level with one floor and one ceiling: its outline `[n, 4]` (x1, y1, x2, y2) and
    which lines nobody can pass."""

    floor: float
    ceiling: float
    lines: Float[np.ndarray, "n 4"]
    blocking: Bool[np.ndarray, "n"]


class FloorPlan:
    """Where a walker can go in a level, on a grid.

    Args:
        sectors: of the level.
    """

    def __init__(self, sectors: list[Sector]) -> None:
        lines = np.concatenate([sector.lines for sector in sectors]).reshape(-1, 2)
        self.origin = lines.min(axis=0) - GRID
        shape = np.ceil((lines.max(axis=0) + GRID - self.origin) / GRID).astype(int)
        self.floor = np.full(shape, np.nan)
        for sector in sectors:
            if sector.ceiling - sector.floor >= HEADROOM:
                self.floor[self._inside(sector)] = sector.floor
        self.free = ~np.isnan(self.floor)
        for sector in sectors:
            for line in sector.lines[sector.blocking]:
                self._block_line(line)
        self._block_ledges()

    def _points(self, low: np.ndarray, high: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray]:
        """The cells between two corners, and their middles `[i, j, 2]`."""
        first = np.clip(((low - self.origin) // GRID).astype(int), 0, None)
        last = np.minimum(((high - self.origin) // GRID).astype(int) + 1, self.floor.shape)
        i, j = np.mgrid[first[0] : last[0], first[1] : last[1]]
        middles = self.origin + (np.stack([i, j], axis=-1) + 0.5) * GRID
        return (slice(first[0], last[0]), slice(first[1], last[1])), middles

    def _inside(self, sector: Sector) -> Bool[np.ndarray, "i j"]:
        """Cells whose middle lies inside, by the even-odd rule."""
        ends = sector.lines.reshape(-1, 2)
        part, middles = self._points(ends.min(axis=0), ends.max(axis=0))
        x, y = middles[..., 0], middles[..., 1]
        odd = np.zeros(x.shape, bool)
        for x1, y1, x2, y2 in sector.lines:
            if y1 == y2:
                continue
            crosses = (y1 > y) != (y2 > y)
            odd ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
        inside = np.zeros(self.floor.shape, bool)
        inside[part] = odd
        return inside

    def _block_line(self, line: np.ndarray) -> None:
        a, b = line[:2], line[2:]
        margin = CLEARANCE + GRID
        part, middles = self._points(np.minimum(a, b) - margin, np.maximum(a, b) + margin)
        along = b - a
        share = ((middles - a) @ along / max(along @ along, 1e-9)).clip(0, 1)
        distance = np.linalg.norm(middles - a - share[..., None] * along, axis=-1)
        self.free[part] &= distance > CLEARANCE

    def _block_ledges(self) -> None:
        """Cells beside a floor that is too high to step on, or too deep to come back from."""
        steep = np.zeros(self.floor.shape, bool)
        for axis in (0, 1):
            high = np.logical_not(np.abs(np.diff(self.floor, axis=axis)) <= STAIR)
            one, other = [slice(None)] * 2, [slice(None)] * 2
            one[axis], other[axis] = slice(1, None), slice(None, -1)
            steep[tuple(one)] |= high
            steep[tuple(other)] |= high
        self.free &= np.logical_not(binary_dilation(steep, np.ones((3, 3), bool)))

    def cell(self, x: float, y: float) -> tuple[int, int]:
        """The cell of a point."""
        i, j = ((np.array([x, y]) - self.origin) // GRID).astype(int)
        return int(i), int(j)

    def block(self, x: float, y: float) -> None:
        """Something stands there that the outlines do not tell."""
        self.free[self.cell(x, y)] = False

    def is_clear(self, x1: float, y1: float, x2: float, y2: float) -> bool:
        """Whether one can walk straight from a point to another."""
        count = 1 + int(np.hypot(x2 - x1, y2 - y1) // (GRID / 2))
        points = np.linspace((x1, y1), (x2, y2), count + 1)[1:]
        cells = [self.cell(*point) for point in points.tolist()]
        floors = np.array([self.floor[cell] for cell in cells])
        return all(self.free[cell] for cell in cells) and bool(
            (np.abs(np.diff(floors)) <= STAIR).all()
        )

    def ways(self, x: float, y: float) -> "Ways":
        """All ways to a point."""
        return Ways(self, x, y)


class Ways:
    """The shortest ways to one point of a floor plan, from wherever there is one."""

    def __init__(self, plan: FloorPlan, x: float, y: float) -> None:
        self.plan, self.goal = plan, np.array([x, y])
        number = np.arange(plan.floor.size).reshape(plan.floor.shape)
        goal = plan.cell(x, y)
        rows, columns, lengths = [], [], []
        free = plan.free.copy()
        free[max(0, goal[0] - 1) : goal[0] + 2, max(0, goal[1] - 1) : goal[1] + 2] = True
        for di, dj in _NEIGHBORS:
            a = slice(None, -di or None), slice(max(0, -dj), -dj if dj > 0 else None)
            b = slice(di, None), slice(max(0, dj), dj if dj < 0 else None)
            open_ = free[a] & free[b] & (np.abs(plan.floor[a] - plan.floor[b]) <= STAIR)
            rows.append(number[a][open_])
            columns.append(number[b][open_])
            lengths.append(np.full(open_.sum(), np.hypot(di, dj) * GRID))
        graph = coo_matrix(
            (np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))),
            (plan.floor.size,) * 2,
        )
        distance, self._next = dijkstra(
            graph.tocsr(), directed=False, indices=number[goal], return_predecessors=True
        )
        self.distance = distance.reshape(plan.floor.shape)

    def reachable(self) -> Int[np.ndarray, "n 2"]:
        """Cells from where there is a way."""
        return np.argwhere(np.isfinite(self.distance))

    def ahead(self, x: float, y: float, length: float) -> Float[np.ndarray, "2"] | None:
        """A point along the way from (x, y), that far at most, to which one can walk straight;
        None where there is no way."""
        plan = self.plan
        at = np.ravel_multi_index(self._nearest(plan.cell(x, y)), plan.floor.shape)
        if not np.isfinite(self.distance.flat[at]):
            return None
        found = self._middle(at)
        for number in range(max(1, round(length / GRID))):
            if self._next[at] < 0:
                return self.goal
            at = self._next[at]
            point = self._middle(at)
            if number and not plan.is_clear(x, y, *point):
                break
            found = point
        return found

    def _middle(self, at: np.intp) -> Float[np.ndarray, "2"]:
        cell = np.array(np.unravel_index(at, self.plan.floor.shape))
        return self.plan.origin + (cell + 0.5) * GRID

    def _nearest(self, cell: tuple[int, int]) -> tuple[int, int]:
        """The nearest cell with a way, two cells away at most."""
        i, j = cell
        near = [(i + a, j + b) for a in range(-2, 3) for b in range(-2, 3)]
        near = [
            c for c in near if all(0 <= k < n for k, n in zip(c, self.distance.shape, strict=True))
        ]
        near = [c for c in near if np.isfinite(self.distance[c])] or [cell]
        return min(near, key=lambda c: (c[0] - i) ** 2 + (c[1] - j) ** 2)


class LevelCamera:
    """A camera that is carried through a Freedoom level, tic by tic, as told.

    The engine is a process of its own: use the camera in a `with` block, or `close` it.

    Args:
        level: 1 to 32, of `freedoom2.wad`.
        fov: horizontal field of view of the frames in degrees.

    Raises:
        LociError: when ViZDoom is missing or does not start, or for another level.
    """

    def __init__(self, level: int, fov: float) -> None:
        if not 1 <= level <= LEVELS:
            raise LociError(f"level {level}, expected 1 to {LEVELS}")
        self._folder = tempfile.TemporaryDirectory(prefix="loci-doom-")
        folder = Path(self._folder.name).resolve()
        try:
            write_wad(folder / "maps.wad", [])
            self._game = start_engine(folder, "RES_800X600", levels=True)
        except BaseException:
            self._folder.cleanup()
            raise
        self._game.set_doom_map(f"MAP{level:02d}")
        self._game.new_episode()
        self._game.send_game_command(f"fov {round(fov)}")
        self._game.send_game_command("god")
        for _ in range(10):
            self._game.make_action([0, 0, 0])
        self._carrier = Carrier(self._game, self.pose()[2])

    def sectors(self) -> list[Sector]:
        """All parts of the level."""
        return [
            Sector(
                sector.floor_height,
                sector.ceiling_height,
                np.array([(w.x1, w.y1, w.x2, w.y2) for w in sector.lines], np.float64),
                np.array([w.is_blocking for w in sector.lines], bool),
            )
            for sector in self._game.get_state().sectors
            if len(sector.lines)
        ]

    def frame(self) -> UInt8[np.ndarray, "600 800 3"]:
        """What is seen now."""
        return self._game.get_state().screen_buffer

    def pose(self) -> MapPose:
        """x and y in map units, heading in degrees, counter-clockwise."""
        x, y, heading = self._game.get_state().game_variables
        return float(x), float(y), float(heading)

    def height(self) -> float:
        """The height of the feet, in map units."""
        from vizdoom import GameVariable

        return float(self._game.get_game_variable(GameVariable.POSITION_Z))

    def carry(self, forward: float, left: float, turn: float) -> None:
        """One tic: a turn to the left in degrees, then a move in map units along the new heading.

        Raises:
            LociError: when the level has ended.
        """
        self._carrier.carry(forward, left, turn, self.pose()[2])
        if self._game.is_episode_finished():
            raise LociError("the level has ended, expected a level without an exit in the way")

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._game.close()
        self._folder.cleanup()

    def __enter__(self) -> "LevelCamera":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
