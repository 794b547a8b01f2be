"""What the rooms look like: which patterns, floors and sprites of Freedoom are used.

The choice was made by measuring: walls keep little energy above what a 64x64 picture can show and
differ in mean colour, since a place can only be remembered if it can be told from others. Many are
blended with a flat colour, because the originals are mostly brown and grey.
"""

from typing import NamedTuple


class Wall(NamedTuple):
    """A pattern, covered to the given share by a flat colour ("" leaves it as it is)."""

    pattern: str
    color: str
    share: float


class Sprite(NamedTuple):
    """A sprite held on one frame: a moving one would look different on return."""

    name: str
    frame: str
    scale: float


WALLS = (
    Wall("GRAYRED", "", 0.0),
    Wall("A-CAMO1", "", 0.0),
    Wall("DOGLDIR", "", 0.0),
    Wall("DOKGRIR", "", 0.0),
    Wall("STWALL", "", 0.0),
    Wall("SKIN2", "ff6060", 0.2),
    Wall("CARLLF1", "ffe0a0", 0.2),
    Wall("A-CONCTE", "ffffff", 0.35),
    Wall("GRAYBIG", "0000ff", 0.6),
    Wall("SPACEW4", "0000ff", 0.65),
    Wall("STWALL", "0000ff", 0.6),
    Wall("SHAWN2", "2030ff", 0.45),
    Wall("BSTONE1", "0000b0", 0.7),
    Wall("STONE2", "e02020", 0.5),
    Wall("CRATE1", "d01010", 0.55),
    Wall("GRAY4", "ff3030", 0.5),
    Wall("BSTONE1", "ffd830", 0.45),
    Wall("SPACEW4", "ffe040", 0.55),
    Wall("WOOD6", "ffc830", 0.45),
    Wall("ESPIG1", "60ff40", 0.4),
    Wall("WOOD6", "30b020", 0.4),
    Wall("CRATE1", "50e040", 0.55),
    Wall("DOKODO2B", "ff8020", 0.4),
    Wall("METAL1", "ff8020", 0.5),
    Wall("BIGWALL", "ffffff", 0.5),
    Wall("STONE2", "ffffff", 0.5),
    Wall("SPACEW4", "ffa0a0", 0.5),
    Wall("CRWDH64", "ffb070", 0.5),
    Wall("CRWDH64", "ff00ff", 0.5),
    Wall("PANEL2", "c0ffb0", 0.4),
    Wall("SHAWN2", "ff5050", 0.4),
    Wall("METAL1", "", 0.0),
    Wall("STWALL", "004000", 0.6),
)
# Patterns 64 pixels wide; the others have at least 128.
NARROW = frozenset(
    [
        "BSTONE1",
        "CRATE1",
        "CRWDH64",
        "DOKODO2B",
        "ESPIG1",
        "GRAY4",
        "GRAYRED",
        "METAL1",
        "PANEL2",
        "SHAWN2",
        "SPACEW4",
        "WOOD6",
    ]
)
FLATS = (
    "AQF067",
    "FLOOR0_1",
    "FLOOR0_3",
    "FLAT5_4",
    "FLAT8",
    "FLOOR0_2",
    "FLOOR4_6",
    "CRATOP2",
    "GRASS2",
    "FLAT19",
    "CEIL3_2",
    "FLOOR5_4",
)
LANDMARKS = (
    Sprite("COL1", "A", 1.2),
    Sprite("COL3", "A", 1.2),
    Sprite("TBLU", "A", 1.2),
    Sprite("TGRN", "A", 1.2),
    Sprite("TRED", "A", 1.2),
    Sprite("ELEC", "A", 1.0),
    Sprite("TLMP", "A", 1.1),
    Sprite("CBRA", "A", 1.2),
    Sprite("BAR1", "A", 1.6),
    Sprite("SOUL", "A", 2.0),
    Sprite("ARM1", "A", 2.0),
    Sprite("ARM2", "A", 2.0),
    Sprite("MEGA", "A", 2.0),
    Sprite("TRE2", "A", 0.8),
)
