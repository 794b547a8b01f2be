"""Doom maps made from a seed: connected rooms on a grid, with landmarks in them.

A map is grown: every new room hangs on an earlier one by a short straight corridor, so all rooms
connect by construction; more corridors then close loops where two rooms face each other.
"""

import random
from dataclasses import dataclass, field

from loci.envs.doom.looks import LANDMARKS

CELL = 128  # map units a side
SIDES = ((1, 0), (0, 1), (-1, 0), (0, -1))  # east, north, west, south
FIRST_CORRIDOR = 100  # places are numbered: rooms from 0, corridors from here
BODY = 16  # map units from the middle of a landmark to its side

Cell = tuple[int, int]


@dataclass(frozen=True)
class Room:
    """A rectangle of `w` by `h` cells; (x, y) is the south-western one."""

    x: int
    y: int
    w: int
    h: int

    @property
    def cells(self) -> list[Cell]:
        columns, rows = range(self.x, self.x + self.w), range(self.y, self.y + self.h)
        return [(i, j) for j in rows for i in columns]

    @property
    def middle(self) -> tuple[float, float]:
        """In map units."""
        return (self.x + self.w / 2) * CELL, (self.y + self.h / 2) * CELL

    def point(self, rng: random.Random, margin: float) -> tuple[float, float]:
        """A random point, in map units, at least `margin` away from the walls."""
        return (
            rng.uniform(self.x * CELL + margin, (self.x + self.w) * CELL - margin),
            rng.uniform(self.y * CELL + margin, (self.y + self.h) * CELL - margin),
        )


@dataclass(frozen=True)
class Corridor:
    """A straight way, one cell wide, from a gate (a cell) of room `a` to one of room `b`."""

    a: int
    b: int
    gate_a: Cell
    gate_b: Cell
    cells: tuple[Cell, ...]

    def gates(self, into: int) -> tuple[Cell, Cell]:
        """The near and the far gate of someone who walks into room `into`."""
        return (self.gate_a, self.gate_b) if into == self.b else (self.gate_b, self.gate_a)


@dataclass(frozen=True)
class Landmark:
    """A sprite that stands at (x, y), in map units; `kind` is an index into `LANDMARKS`."""

    kind: int
    x: float
    y: float


@dataclass
class DoomMap:
    """The geometry of one map.

    `owner` tells for every open cell which place it belongs to: a room's index, or
    `FIRST_CORRIDOR` plus a corridor's. `start` is x, y in map units and a heading in degrees.
    """

    seed: int
    rooms: list[Room] = field(default_factory=list)
    corridors: list[Corridor] = field(default_factory=list)
    landmarks: list[Landmark] = field(default_factory=list)
    owner: dict[Cell, int] = field(default_factory=dict)
    start: tuple[float, float, int] = (0.0, 0.0, 0)

    def room_at(self, x: float, y: float) -> int | None:
        """The room at a point, none in corridors and walls."""
        place = self.owner.get(_cell(x, y), FIRST_CORRIDOR)
        return place if place < FIRST_CORRIDOR else None

    def is_clear(self, x: float, y: float, margin: float) -> bool:
        """Whether no wall or landmark lies in the square of half-width `margin` round a point."""
        corners = [(x + i * margin, y + j * margin) for i in (-1, 1) for j in (-1, 1)]
        if any(_cell(*corner) not in self.owner for corner in corners):
            return False
        return all(max(abs(m.x - x), abs(m.y - y)) > margin + BODY for m in self.landmarks)


def make_map(seed: int) -> DoomMap:
    """The map of a seed: four to six rooms of three to five cells a side, joined by corridors."""
    rng = random.Random(f"map {seed}")
    doom_map = DoomMap(seed)
    _add_room(doom_map, Room(0, 0, rng.randint(3, 5), rng.randint(3, 5)))
    wanted = rng.randint(4, 6)
    while len(doom_map.rooms) < wanted:
        _grow(doom_map, rng)
    _close_loops(doom_map)
    for room in doom_map.rooms:
        _furnish(doom_map, room, rng)
    while True:
        x, y = rng.choice(doom_map.rooms).point(rng, margin=150)
        if doom_map.is_clear(round(x), round(y), 64):
            break
    doom_map.start = (float(round(x)), float(round(y)), 15 * rng.randrange(24))
    return doom_map


def _cell(x: float, y: float) -> Cell:
    return int(x // CELL), int(y // CELL)


def _add_room(doom_map: DoomMap, room: Room) -> None:
    doom_map.owner.update({cell: len(doom_map.rooms) for cell in room.cells})
    doom_map.rooms.append(room)


def _add_corridor(doom_map: DoomMap, corridor: Corridor) -> None:
    doom_map.owner.update(
        {cell: FIRST_CORRIDOR + len(doom_map.corridors) for cell in corridor.cells}
    )
    doom_map.corridors.append(corridor)


def _grow(doom_map: DoomMap, rng: random.Random) -> None:
    """Try once to hang a new room on a random side of an existing one."""
    a = rng.randrange(len(doom_map.rooms))
    old, (dx, dy) = doom_map.rooms[a], rng.choice(SIDES)
    w, h, length = rng.randint(3, 5), rng.randint(3, 5), rng.randint(1, 2)
    # The corridor may leave the old room, and enter the new one, anywhere along their sides.
    if dx:
        gate = (old.x + (old.w - 1 if dx > 0 else 0), old.y + rng.randrange(old.h))
        x = gate[0] + (length + 1 if dx > 0 else -length - w)
        new = Room(x, gate[1] - rng.randrange(h), w, h)
    else:
        gate = (old.x + rng.randrange(old.w), old.y + (old.h - 1 if dy > 0 else 0))
        y = gate[1] + (length + 1 if dy > 0 else -length - h)
        new = Room(gate[0] - rng.randrange(w), y, w, h)
    around = Room(new.x - 1, new.y - 1, w + 2, h + 2).cells
    taken = any(cell in doom_map.owner for cell in around if cell != gate)
    path, end = _straight(gate, (dx, dy), length)
    if not taken and _is_solid(doom_map, path, (dx, dy)):
        _add_room(doom_map, new)
        _add_corridor(doom_map, Corridor(a, len(doom_map.rooms) - 1, gate, end, path))


def _straight(gate: Cell, direction: Cell, length: int) -> tuple[tuple[Cell, ...], Cell]:
    """The `length` cells beyond a gate, and the one after them."""
    cells = [(gate[0] + direction[0] * k, gate[1] + direction[1] * k) for k in range(length + 2)]
    return tuple(cells[1:-1]), cells[-1]


def _is_solid(doom_map: DoomMap, path: tuple[Cell, ...], direction: Cell) -> bool:
    """Whether a corridor there would cut through solid cells, with solid cells on both flanks."""
    dx, dy = direction
    cells = [(i + s * dy, j + s * dx) for i, j in path for s in (-1, 0, 1)]
    return not any(cell in doom_map.owner for cell in cells)


def _close_loops(doom_map: DoomMap) -> None:
    """Join rooms that face each other across at most three solid cells and are not joined yet."""
    joined = {frozenset((c.a, c.b)) for c in doom_map.corridors}
    for a, room in enumerate(doom_map.rooms):
        for direction in SIDES[:2]:  # every pair is seen once
            for gate in room.cells:
                for length in (1, 2, 3):
                    path, end = _straight(gate, direction, length)
                    b = doom_map.owner.get(end, FIRST_CORRIDOR)
                    if b >= FIRST_CORRIDOR or b == a or frozenset((a, b)) in joined:
                        continue
                    if _is_solid(doom_map, path, direction):
                        _add_corridor(doom_map, Corridor(a, b, gate, end, path))
                        joined.add(frozenset((a, b)))


def _furnish(doom_map: DoomMap, room: Room, rng: random.Random) -> None:
    """Put one to three landmarks near the walls, apart from each other, never before a corridor."""
    gates = {cell for corridor in doom_map.corridors for cell in (corridor.gate_a, corridor.gate_b)}
    kinds = rng.sample(range(len(LANDMARKS)), 3)
    wanted = rng.randint(1, 3)
    placed: list[Cell] = []
    for _ in range(30):
        cell = i, j = rng.choice(room.cells)
        if len(placed) == wanted:
            break
        inner = room.x < i < room.x + room.w - 1 and room.y < j < room.y + room.h - 1
        crowded = any(max(abs(i - p), abs(j - q)) < 2 for p, q in placed)
        if inner or crowded or cell in gates:
            continue
        x, y = _beside_wall(i, room.x, room.w), _beside_wall(j, room.y, room.h)
        doom_map.landmarks.append(Landmark(kinds[len(placed)], x, y))
        placed.append(cell)


def _beside_wall(cell: int, low: int, length: int) -> float:
    """A coordinate inside a cell: 40 units from the wall where there is one, else the middle."""
    offset = 40 if cell == low else CELL - 40 if cell == low + length - 1 else CELL // 2
    return float(cell * CELL + offset)
