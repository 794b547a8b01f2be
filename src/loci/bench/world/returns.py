"""`loci bench returns`: a picture of recalled views."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loci.errors import LociError
from loci.io.files import check_writable, replacing

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8
    from PIL import Image

    from loci.bench.world.trials import Trial
    from loci.world.world import World


TILES, SCALE, GAP = 8, 2, 2
RETURNS_A_ROW = 10
ROWS = {
    "truth": "the engine's frames on the way back",
    "hpmc": "generated, with the memory of the way out",
    "none": "generated, with the memory emptied",
}


def returns(
    out: Path,
    model: str = "doom",
    length: int = 96,
    seed: int = 0,
    walk: int | None = None,
    picture: int = 0,
) -> None:
    """Draw views that come back in a spin: true, with memory and without, side by side.

    The first turn is given by the engine, the rest is generated. Shown are views that were out of
    sight at the last given frame. With --walk, the default walk instead, which is generated from
    its start picture and is back there every 256 frames.

    Args:
        out: the picture, a PNG.
        model: a shipped model, a folder or a hub id.
        length: frames of the spin; a turn is 48.
        seed: seed of the room and the noise.
        walk: frames of the default walk, in place of the spin.
        picture: where that walk starts: 0 for the default picture, then rooms of held-out maps.
    """
    check_writable(out)

    from loci.bench.world.trials import held_out_maps, make_trial
    from loci.world.world import World

    world = World.from_pretrained(model)
    if walk is not None:
        _draw_walk(world, out, walk, picture, seed)
        return
    room, other = held_out_maps(2, seed)
    trial = make_trial("spin", length, room, other, world)
    if trial.hidden.sum() < TILES:
        raise LociError(f"--length: {length} frames bring back too few views, expected 64 or more")
    with replacing(out) as draft:
        draw(world, trial, seed).save(draft, format="PNG")
    print(f"{out}: rows from the top: {'; '.join(ROWS.values())}")


def _draw_walk(world: World, out: Path, length: int, picture: int, seed: int) -> None:
    """The start picture and the frame at every return to it, row by row, with their numbers."""
    import numpy as np
    from PIL import Image

    from loci.bench.world.drift import RETURN, long_walk, start_pictures

    if length < 2 * RETURN or picture < 0:
        raise LociError(
            f"--walk, --picture: {length}, {picture}, expected at least {2 * RETURN} frames and 0"
        )
    start = start_pictures(world, picture + 1, seed)[picture]
    walked = long_walk(world, start, length, seed, set(range(RETURN, length + 1, RETURN)))
    tiles = [_numbered(frame, number) for number, frame in walked.kept.items()]
    tiles += [np.full_like(start, 255)] * (-len(tiles) % RETURNS_A_ROW)
    rows = [tiles[at : at + RETURNS_A_ROW] for at in range(0, len(tiles), RETURNS_A_ROW)]
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    with replacing(out) as draft:
        Image.fromarray(sheet).save(draft, format="PNG")
    kept = ", ".join(f"{name} {value:.2f}" for name, value in walked.alive(length).items())
    print(f"{out}: {len(walked.kept) - 1} returns; last frames over first ones: {kept}")


def _numbered(frame: UInt8[np.ndarray, "h w 3"], number: int) -> UInt8[np.ndarray, "h w 3"]:
    """The frame with its number in the lower left corner."""
    import numpy as np
    from PIL import Image, ImageDraw

    tile = Image.fromarray(frame)
    corner = (3, tile.height - 3)
    ImageDraw.Draw(tile).text(
        corner, str(number), anchor="ls", fill="white", stroke_width=1, stroke_fill="black"
    )
    return np.asarray(tile)


def draw(world: World, trial: Trial, seed: int) -> Image.Image:
    """One row of `ROWS` below the other, at the same frames."""
    import numpy as np
    from PIL import Image

    from loci.bench.world.trials import encode_history, rollout
    from loci.bench.world.variants import memory_variants

    worlds, rows = memory_variants(world), []
    numbers = np.flatnonzero(trial.hidden)
    numbers = numbers[np.linspace(0, len(numbers) - 1, TILES).round().astype(int)]
    for name in ROWS:
        frames = trial.truth
        if name in worlds:
            state = encode_history(worlds[name], *trial.given, seed)
            frames, _ = rollout(worlds[name], state, trial.way_back)
        tiles = np.pad(frames[numbers], ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
        rows.append(np.concatenate(list(tiles), axis=1))
    sheet = Image.fromarray(np.concatenate(rows)[:-GAP, :-GAP])
    return sheet.resize((SCALE * sheet.width, SCALE * sheet.height), Image.Resampling.BICUBIC)
