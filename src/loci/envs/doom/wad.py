"""Maps as Doom reads them: UDMF text and a few definitions, all in one WAD file.

The engine builds what else it needs (nodes, blockmap) when it loads a map.
"""

import random
import struct
from collections.abc import Sequence
from pathlib import Path

from loci.envs.doom.looks import FLATS, LANDMARKS, NARROW, WALLS, Wall
from loci.envs.doom.maps import CELL, FIRST_CORRIDOR, SIDES, Cell, DoomMap

FIRST_LANDMARK_ID = 20001

# A_Stop takes the velocity away after every tic, so a step begins at rest and there is no inertia.
# A button of 41 then moves 12 map units; 29 on both axes move 12.004 along the diagonal. The engine
# takes whole numbers up to 50. The class changes states itself: running has to last into the tic.
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
    """Write maps as MAP01, MAP02 ... (at most 99) with the walker, landmarks and walls they use."""
    lumps = [("DECORATE", _actors()), ("TEXTURES", _textures()), ("MAPINFO", _mapinfo(len(maps)))]
    for k, doom_map in enumerate(maps, start=1):
        lumps += [(f"MAP{k:02d}", ""), ("TEXTMAP", udmf(doom_map)), ("ENDMAP", "")]
    body, directory = b"", b""
    for name, text in lumps:
        data = text.encode()
        directory += struct.pack("<ii8s", 12 + len(body), len(data), name.encode())
        body += data
    path.write_bytes(struct.pack("<4sii", b"PWAD", len(lumps), 12 + len(body)) + body + directory)


def _actors() -> str:
    landmarks = [
        LANDMARK.format(
            k=k, id=FIRST_LANDMARK_ID + k, sprite=mark.name, frame=mark.frame, scale=mark.scale
        )
        for k, mark in enumerate(LANDMARKS)
    ]
    return PLAYER + "".join(landmarks)


def _textures() -> str:
    return "".join(
        f'WallTexture "{_texture(k)}", 128, 128 {{ {_patches(wall)} }}\n'
        for k, wall in enumerate(WALLS)
    )


def _texture(index: int) -> str:
    return f"LOCI{index:02d}"


def _patches(wall: Wall) -> str:
    blend = f' {{ Blend "#{wall.color}", {wall.share} }}' if wall.color else ""
    offsets = (0, 64) if wall.pattern in NARROW else (0,)
    return " ".join(f'Patch "{wall.pattern}", {x}, 0{blend}' for x in offsets)


def _mapinfo(count: int) -> str:
    maps = (f'map MAP{k + 1:02d} "walk" {{ nointermission sky1 = "SKY1" }}\n' for k in range(count))
    return 'gameinfo { playerclasses = "LociWalker" }\n' + "".join(maps)


def udmf(doom_map: DoomMap) -> str:
    """A map as UDMF text. Textures, heights and light come from its seed, like the geometry."""
    rng = random.Random(f"looks {doom_map.seed}")
    places = sorted(set(doom_map.owner.values()))
    sector = {place: k for k, place in enumerate(places)}
    paint = _paint(doom_map, places, rng)
    vertices: dict[Cell, int] = {}
    lines: list[str] = []
    sides: list[str] = []

    def side(cell: Cell, direction: Cell, parts: tuple[str, ...]) -> int:
        names = "".join(f'texture{part}="{paint[cell, direction]}";' for part in parts)
        sides.append(f"sidedef{{sector={sector[doom_map.owner[cell]]};{names}}}")
        return len(sides) - 1

    for cell, place in doom_map.owner.items():
        for direction in SIDES:
            other = _neighbor(cell, direction)
            beyond = doom_map.owner.get(other)
            if beyond is not None and beyond <= place:
                continue  # nothing between them, or written from the other side
            a, b = (vertices.setdefault(p, len(vertices)) for p in _edge(cell, direction))
            if beyond is None:
                front = side(cell, direction, ("middle",))
                lines.append(f"linedef{{v1={a};v2={b};sidefront={front};blocking=true;}}")
            else:
                front = side(cell, direction, ("top", "bottom"))
                back = side(other, (-direction[0], -direction[1]), ("top", "bottom"))
                ends = f"v1={a};v2={b};sidefront={front};sideback={back}"
                lines.append(f"linedef{{{ends};twosided=true;}}")
    points = [f"vertex{{x={x * CELL}.0;y={y * CELL}.0;}}" for x, y in vertices]
    sectors = [_sector(place, rng) for place in places]
    return "\n".join(
        ['namespace="zdoom";', *points, *lines, *sides, *sectors, *_things(doom_map), ""]
    )


def _neighbor(cell: Cell, direction: Cell) -> Cell:
    return cell[0] + direction[0], cell[1] + direction[1]


def _edge(cell: Cell, direction: Cell) -> tuple[Cell, Cell]:
    """Corners of a cell's edge, ordered so that the cell lies on the right of the line."""
    i, j = cell
    return {
        (1, 0): ((i + 1, j + 1), (i + 1, j)),
        (0, 1): ((i, j + 1), (i + 1, j + 1)),
        (-1, 0): ((i, j), (i, j + 1)),
        (0, -1): ((i + 1, j), (i, j)),
    }[direction]


def _paint(
    doom_map: DoomMap, places: list[int], rng: random.Random
) -> dict[tuple[Cell, Cell], str]:
    """The texture of every edge (cell, side): one a wall, and few walls of a map share one.

    Some walls of rooms have one panel of another texture, which tells where along them one is.
    """
    deck: list[int] = []
    paint = {}
    for place in places:
        cells = [cell for cell, owner in doom_map.owner.items() if owner == place]
        for side in SIDES:
            if not deck:
                deck = rng.sample(range(len(WALLS)), len(WALLS))
            wall = deck.pop()
            other = rng.randrange(len(WALLS)) if place < FIRST_CORRIDOR else wall
            edges = [c for c in cells if doom_map.owner.get(_neighbor(c, side)) != place]
            panel = rng.choice(edges) if edges and rng.random() < 0.6 else None
            for cell in edges:
                paint[cell, side] = _texture(other if cell == panel else wall)
    return paint


def _sector(place: int, rng: random.Random) -> str:
    height = 128 if place >= FIRST_CORRIDOR else rng.choice((128, 144, 160))
    floor, ceiling = rng.sample(FLATS, 2)
    return (
        f'sector{{heightfloor=0;heightceiling={height};texturefloor="{floor}";'
        f'textureceiling="{ceiling}";lightlevel={rng.choice((224, 240, 255))};}}'
    )


def _things(doom_map: DoomMap) -> list[str]:
    always = "".join(f"skill{k}=true;" for k in range(1, 6)) + "single=true;"
    things = [(*doom_map.start, 1)] + [
        (m.x, m.y, 0, FIRST_LANDMARK_ID + m.kind) for m in doom_map.landmarks
    ]
    return [
        f"thing{{x={x};y={y};angle={angle};type={kind};{always}}}" for x, y, angle, kind in things
    ]
