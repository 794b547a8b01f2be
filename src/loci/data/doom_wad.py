"""Maps as Doom reads them: UDMF text, a few lumps of definitions, all in one WAD file."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

from loci.data.doom_maps import CELL, FIRST_CORRIDOR, FLATS, LANDMARKS, SIDES, WALLS, Cell, DoomMap

FIRST_LANDMARK_ID = 20001

# A_Stop takes the velocity back after every tic, so a step begins at rest and has no inertia. A button
# value of 41 moves 12 map units, and 29 on both axes moves 12.004 along the diagonal; the engine takes
# whole button values up to 50.
PLAYER = """actor LociWalker : DoomPlayer
{
  Player.ForwardMove 9.36585, 9.36585
  Player.SideMove 9.36585, 9.36585
  Player.StartItem "Clip", 1
  Player.DisplayName "Walker"
  Player.ViewHeight 44
  +NOBLOOD
  -PICKUP
  States
  {
  Spawn:
    PLAY A -1
    Stop
  See:
    PLAY A 1
    PLAY A 1 A_Stop
    Loop
  }
}
"""
# One held frame each: an animated sprite would make the same view look different on return.
LANDMARK = """actor LociLandmark{k} {id}
{{
  Radius 16
  Height 56
  Scale {scale}
  +SOLID
  States
  {{
  Spawn:
    {sprite} {frame} -1 Bright
    Stop
  }}
}}
"""


def write_wad(path: Path, maps: Sequence[DoomMap]) -> None:
    """Write maps as MAP01, MAP02, ... into a WAD file, with walker, landmarks and wall colours."""
    lumps: list[tuple[str, bytes]] = [
        ("DECORATE", _actors().encode()),
        ("TEXTURES", _textures().encode()),
        ("MAPINFO", _mapinfo(len(maps)).encode()),
    ]
    for k, world in enumerate(maps):
        lumps += [(f"MAP{k + 1:02d}", b""), ("TEXTMAP", udmf(world).encode()), ("ENDMAP", b"")]
    body, directory = b"", b""
    for name, data in lumps:
        directory += struct.pack("<ii8s", 12 + len(body), len(data), name.encode())
        body += data
    path.write_bytes(struct.pack("<4sii", b"PWAD", len(lumps), 12 + len(body)) + body + directory)


def _actors() -> str:
    landmarks = (
        LANDMARK.format(k=k, id=FIRST_LANDMARK_ID + k, sprite=sprite, frame=frame, scale=scale)
        for k, (sprite, frame, scale) in enumerate(LANDMARKS)
    )
    return PLAYER + "".join(landmarks)


def _textures() -> str:
    return "".join(
        f'WallTexture "LOCI{k:02d}", 128, 128 {{'
        + "".join(
            f' Patch "{base}", {x}, 0' + (f' {{ Blend "#{colour}", {share} }}' if colour else "")
            for x in range(0, 128, 64)  # patterns are 64 or 128 wide: the second copy fills or is cut
        )
        + " }\n"
        for k, (base, colour, share) in enumerate(WALLS)
    )


def _mapinfo(count: int) -> str:
    maps = (f'map MAP{k + 1:02d} "walk" {{ nointermission sky1 = "SKY1" }}\n' for k in range(count))
    return 'gameinfo { playerclasses = "LociWalker" }\n' + "".join(maps)


def udmf(world: DoomMap) -> str:
    """A map as UDMF text. Textures, heights and light come from the seed, like the geometry."""
    rng = random.Random(f"looks {world.seed}")
    places = sorted(set(world.owner.values()))
    sector = {place: k for k, place in enumerate(places)}
    paint = _paint(world, places, rng)
    vertices: dict[Cell, int] = {}
    lines, sides = [], []

    def side(cell: Cell, direction: Cell, solid: bool) -> int:
        texture = paint[cell, direction]
        parts = ("middle",) if solid else ("top", "bottom")
        names = "".join(f'texture{part}="{texture}";' for part in parts)
        sides.append(f"sidedef{{sector={sector[world.owner[cell]]};{names}}}")
        return len(sides) - 1

    for cell, place in world.owner.items():
        for direction in SIDES:
            other = (cell[0] + direction[0], cell[1] + direction[1])
            beyond = world.owner.get(other)
            if beyond == place or (beyond is not None and beyond < place):
                continue  # nothing between them, or written from the other place's side
            a, b = (vertices.setdefault(p, len(vertices)) for p in _edge(cell, direction))
            line = f"linedef{{v1={a};v2={b};sidefront={side(cell, direction, beyond is None)};"
            if beyond is None:
                lines.append(line + "blocking=true;}")
            else:
                back = side(other, (-direction[0], -direction[1]), False)
                lines.append(line + f"sideback={back};twosided=true;}}")
    points = [f"vertex{{x={x * CELL}.0;y={y * CELL}.0;}}" for x, y in vertices]
    rooms = [_sector(place, rng) for place in places]
    return "\n".join(['namespace="zdoom";', *points, *lines, *sides, *rooms, *_things(world), ""])


def _edge(cell: Cell, direction: Cell) -> tuple[Cell, Cell]:
    """Corners of a cell's edge, ordered so that the cell lies on the right of the line."""
    i, j = cell
    return {
        (1, 0): ((i + 1, j + 1), (i + 1, j)),
        (0, 1): ((i, j + 1), (i + 1, j + 1)),
        (-1, 0): ((i, j), (i, j + 1)),
        (0, -1): ((i + 1, j), (i, j)),
    }[direction]


def _paint(world: DoomMap, places: list[int], rng: random.Random) -> dict[tuple[Cell, Cell], str]:
    """A texture for each edge: one a wall, none twice in rooms next to each other in the draw."""
    deck: list[int] = []
    paint = {}
    for place in places:
        cells = [cell for cell, owner in world.owner.items() if owner == place]
        for direction in SIDES:
            if not deck:
                deck = rng.sample(range(len(WALLS)), len(WALLS))
            wall = deck.pop()
            accent = rng.randrange(len(WALLS)) if place < FIRST_CORRIDOR else wall
            edges = [c for c in cells if world.owner.get((c[0] + direction[0], c[1] + direction[1])) != place]
            chosen = rng.choice(edges) if edges and rng.random() < 0.6 else None
            for cell in edges:
                paint[cell, direction] = f"LOCI{accent if cell == chosen else wall:02d}"
    return paint


def _sector(place: int, rng: random.Random) -> str:
    height = 128 if place >= FIRST_CORRIDOR else rng.choice((128, 144, 160))
    floor, ceiling = rng.sample(FLATS, 2)
    return (
        f'sector{{heightfloor=0;heightceiling={height};texturefloor="{floor}";'
        f'textureceiling="{ceiling}";lightlevel={rng.choice((224, 240, 255))};}}'
    )


def _things(world: DoomMap) -> list[str]:
    always = "".join(f"skill{k}=true;" for k in range(1, 6)) + "single=true;"
    things = [(*world.start, 1)] + [(m.x, m.y, 0, FIRST_LANDMARK_ID + m.kind) for m in world.landmarks]
    return [f"thing{{x={x};y={y};angle={angle};type={kind};{always}}}" for x, y, angle, kind in things]
