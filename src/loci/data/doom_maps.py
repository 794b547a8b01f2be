"""Doom maps made from a seed: connected rooms on a grid, written as text maps in one WAD file.

A map is grown, not carved: every new room hangs on an earlier one by a short straight corridor, so
all rooms connect by construction; extra corridors then close loops where two rooms face each other.
Each wall of a room has a texture that no other room wall of the map has, because a place can only be
remembered if it can be told from others.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

CELL = 128  # map units per grid cell
SIDES = ((1, 0), (0, 1), (-1, 0), (0, -1))  # east, north, west, south
FIRST_CORRIDOR = 100  # place numbers: rooms count from 0, corridors from here

# Wall textures: Freedoom patterns that stay calm at 64x64 pixels, many of them blended with a flat
# colour, since the originals are mostly grey and brown. (name of the pattern, colour, share of colour)
WALLS = (
    ("GRAYRED", "", 0.0), ("A-CAMO1", "", 0.0), ("DOGLDIR", "", 0.0), ("DOKGRIR", "", 0.0),
    ("BIGMURAL", "ffc080", 0.2), ("STWALL", "", 0.0), ("GRAYBIG", "ffffff", 0.25),
    ("SKIN2", "ff6060", 0.2), ("CARLLF1", "ffe0a0", 0.2), ("A-CONCTE", "ffffff", 0.35),
    ("METAL1", "3050ff", 0.4), ("SPACEW4", "2040ff", 0.45), ("STWALL", "4060ff", 0.55),
    ("GRAY7", "3060ff", 0.4), ("SHAWN2", "2030ff", 0.45), ("DOKODO2B", "6080ff", 0.5),
    ("STONE2", "e02020", 0.4), ("CRATE1", "d01010", 0.45), ("GRAY4", "ff3030", 0.4),
    ("BSTONE1", "ffd830", 0.45), ("SPACEW4", "ffe040", 0.45), ("WOOD6", "ffc830", 0.45),
    ("GRAY7", "ffe020", 0.45), ("AQCONC09", "40d030", 0.45), ("ESPIG1", "60ff40", 0.4),
    ("WOOD6", "30b020", 0.4), ("CRATE1", "50e040", 0.45), ("DOKODO2B", "ff8020", 0.4),
    ("METAL1", "ff8020", 0.45), ("BIGWALL", "ffffff", 0.4), ("STONE2", "ffffff", 0.45),
    ("WOOD6", "ffffff", 0.4), ("SPACEW4", "ff80c0", 0.5), ("AQCONC09", "ff60c0", 0.5),
    ("CRWDH64", "ffb070", 0.4), ("CRWDH64", "8090ff", 0.45), ("BSTONE1", "40c0ff", 0.45),
    ("PANEL2", "c0ffb0", 0.3), ("SHAWN2", "ff5050", 0.4), ("GRAY4", "40e0c0", 0.45),
)
FLATS = ("AQF067", "FLOOR0_1", "FLOOR0_3", "FLAT5_4", "FLAT8", "FLOOR0_2", "FLOOR4_6", "CRATOP2",
         "GRASS2", "FLAT19", "CEIL3_2", "FLOOR5_4")  # fmt: skip
# Still sprites: (sprite, frame, scale).
LANDMARKS = (
    ("COL1", "A", 1.2), ("COL3", "A", 1.2), ("TBLU", "A", 1.2), ("TGRN", "A", 1.2), ("TRED", "A", 1.2),
    ("ELEC", "A", 1.0), ("TLMP", "A", 1.1), ("CBRA", "A", 1.2), ("BAR1", "A", 1.6), ("SOUL", "A", 2.0),
    ("ARM1", "A", 2.0), ("ARM2", "A", 2.0), ("MEGA", "A", 2.0), ("TRE2", "A", 0.8),
)  # fmt: skip

Cell = tuple[int, int]


@dataclass(frozen=True)
class Room:
    """A rectangle of cells [x, x+w) x [y, y+h)."""

    x: int
    y: int
    w: int
    h: int

    @property
    def cells(self) -> list[Cell]:
        return [(i, j) for j in range(self.y, self.y + self.h) for i in range(self.x, self.x + self.w)]

    def point(self, rng: random.Random, margin: float) -> tuple[float, float]:
        """A random point (map units) at least `margin` units away from the walls."""
        return (
            rng.uniform(self.x * CELL + margin, (self.x + self.w) * CELL - margin),
            rng.uniform(self.y * CELL + margin, (self.y + self.h) * CELL - margin),
        )

    def contains(self, x: float, y: float) -> bool:
        return (
            self.x * CELL <= x < (self.x + self.w) * CELL
            and self.y * CELL <= y < (self.y + self.h) * CELL
        )


@dataclass(frozen=True)
class Door:
    """A straight corridor from room `a` to room `b`; `gate_a` and `gate_b` are the room cells at its ends."""

    a: int
    b: int
    gate_a: Cell
    gate_b: Cell
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Landmark:
    kind: int  # index into LANDMARKS
    x: float
    y: float


@dataclass
class DoomMap:
    """Geometry of one map. `owner` maps an open cell to its place: rooms first, then corridors."""

    seed: int
    rooms: list[Room] = field(default_factory=list)
    doors: list[Door] = field(default_factory=list)
    landmarks: list[Landmark] = field(default_factory=list)
    owner: dict[Cell, int] = field(default_factory=dict)
    start: tuple[float, float, int] = (0.0, 0.0, 0)  # x, y in map units, heading in whole degrees

    def room_at(self, x: float, y: float) -> int | None:
        place = self.owner.get((int(x // CELL), int(y // CELL)), FIRST_CORRIDOR)
        return place if place < FIRST_CORRIDOR else None

    def is_clear(self, x: float, y: float, margin: float) -> bool:
        """Whether a square of half-width `margin` round (x, y) is free of walls and landmarks."""
        corners = ((x + sx * margin, y + sy * margin) for sx in (-1, 1) for sy in (-1, 1))
        if any((int(cx // CELL), int(cy // CELL)) not in self.owner for cx, cy in corners):
            return False
        return all(max(abs(m.x - x), abs(m.y - y)) > margin + 16 for m in self.landmarks)


def make_map(seed: int) -> DoomMap:
    """The map of a seed: 4 to 6 rooms of 3 to 5 cells a side, joined by corridors."""
    rng = random.Random(f"map {seed}")
    world = DoomMap(seed)
    _add_room(world, Room(0, 0, rng.randint(3, 5), rng.randint(3, 5)))
    wanted = rng.randint(4, 6)
    while len(world.rooms) < wanted:
        _grow(world, rng)
    _close_loops(world)
    for room in world.rooms:
        _furnish(world, room, rng)
    while True:
        x, y = rng.choice(world.rooms).point(rng, margin=150)
        if world.is_clear(round(x), round(y), 64):
            break
    world.start = (float(round(x)), float(round(y)), 15 * rng.randrange(24))
    return world


def _add_room(world: DoomMap, room: Room) -> None:
    world.owner.update({cell: len(world.rooms) for cell in room.cells})
    world.rooms.append(room)


def _add_door(world: DoomMap, door: Door) -> None:
    world.owner.update({cell: FIRST_CORRIDOR + len(world.doors) for cell in door.cells})
    world.doors.append(door)


def _grow(world: DoomMap, rng: random.Random) -> None:
    """Try once to hang a new room on a random side of an existing one."""
    a = rng.randrange(len(world.rooms))
    old, (dx, dy) = world.rooms[a], rng.choice(SIDES)
    w, h, length = rng.randint(3, 5), rng.randint(3, 5), rng.randint(1, 2)
    # The corridor leaves from cell `gate` of the old room, and enters the new one anywhere on its side.
    if dx:
        gate = (old.x + (old.w - 1 if dx > 0 else 0), old.y + rng.randrange(old.h))
        new = Room(gate[0] + (length + 1 if dx > 0 else -length - w), gate[1] - rng.randrange(h), w, h)
    else:
        gate = (old.x + rng.randrange(old.w), old.y + (old.h - 1 if dy > 0 else 0))
        new = Room(gate[0] - rng.randrange(w), gate[1] + (length + 1 if dy > 0 else -length - h), w, h)
    around = Room(new.x - 1, new.y - 1, w + 2, h + 2).cells
    path = tuple((gate[0] + dx * k, gate[1] + dy * k) for k in range(1, length + 1))
    if any(cell in world.owner for cell in around if cell != gate) or not _solid(world, path, dx, dy):
        return
    end = (gate[0] + dx * (length + 1), gate[1] + dy * (length + 1))
    _add_room(world, new)
    _add_door(world, Door(a, len(world.rooms) - 1, gate, end, path))


def _solid(world: DoomMap, path: tuple[Cell, ...], dx: int, dy: int) -> bool:
    """Whether a corridor there would have solid cells under it and on both its flanks."""
    flanks = [(i + s * dy, j + s * dx) for i, j in path for s in (-1, 0, 1)]
    return not any(cell in world.owner for cell in flanks)


def _close_loops(world: DoomMap) -> None:
    """Join rooms that face each other across at most three solid cells and are not joined yet."""
    joined = {(d.a, d.b) for d in world.doors}
    for a, room in enumerate(world.rooms):
        for dx, dy in SIDES[:2]:  # east and north: each pair is seen once
            for i, j in room.cells:
                for length in range(1, 4):
                    end = (i + dx * (length + 1), j + dy * (length + 1))
                    path = tuple((i + dx * k, j + dy * k) for k in range(1, length + 1))
                    b = world.owner.get(end, FIRST_CORRIDOR)
                    if b >= FIRST_CORRIDOR or b == a or {(a, b), (b, a)} & joined:
                        continue
                    if _solid(world, path, dx, dy):
                        _add_door(world, Door(a, b, (i, j), end, path))
                        joined.add((a, b))


def _furnish(world: DoomMap, room: Room, rng: random.Random) -> None:
    """Put one to three landmarks near the walls, never in front of a corridor."""
    gates = {cell for door in world.doors for cell in (door.gate_a, door.gate_b)}
    kinds = rng.sample(range(len(LANDMARKS)), 3)
    wanted, placed = rng.randint(1, 3), []
    for _ in range(30):
        i, j = rng.choice(room.cells)
        near_wall = i in (room.x, room.x + room.w - 1) or j in (room.y, room.y + room.h - 1)
        if len(placed) == wanted:
            break
        if not near_wall or any(max(abs(i - p), abs(j - q)) < 2 for p, q in placed) or (i, j) in gates:
            continue
        x, y = (_against_wall(c, lo, n) for c, lo, n in ((i, room.x, room.w), (j, room.y, room.h)))
        world.landmarks.append(Landmark(kinds[len(placed)], x, y))
        placed.append((i, j))


def _against_wall(cell: int, low: int, length: int) -> float:
    """Coordinate inside a cell: 40 units from the wall if the cell lies at one, else its middle."""
    offset = 40 if cell == low else CELL - 40 if cell == low + length - 1 else CELL // 2
    return float(cell * CELL + offset)
