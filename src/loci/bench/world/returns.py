"""`loci bench returns`: a picture of what is remembered, nothing measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loci.errors import LociError
from loci.io.files import check_writable, replacing

if TYPE_CHECKING:
    from PIL import Image

    from loci.bench.world.recall import Trial
    from loci.world.world import World


TILES, SCALE, GAP = 8, 2, 2
ROWS = {
    "truth": "what the engine shows on the way back",
    "hpmc": "generated, with the memory of the way out",
    "none": "generated, with the memory emptied",
}


def returns(out: Path, model: str = "doom", length: int = 96, seed: int = 0) -> None:
    """Draw a view that comes back: true, remembered and forgotten, side by side.

    A walker spins on the spot in a held-out room. The first turn is the engine's, what follows is
    generated; shown are views that were out of sight when that began.

    Args:
        out: the picture, a PNG.
        model: a shipped model, a folder or a hub id.
        length: frames of the spin; a turn is 48.
        seed: of the room and the noise.
    """
    check_writable(out)

    from loci.bench.world.recall import held_out_maps, make_trial
    from loci.envs.doom.engine import FRAME
    from loci.world.world import World

    world = World.from_pretrained(model)
    room, another = held_out_maps(2, seed)
    trial = make_trial("spin", length, room, another, world.size or (FRAME, FRAME))
    if trial.hidden.sum() < TILES:
        raise LociError(f"--length: {length} frames bring back too few views, expected 64 or more")
    with replacing(out) as draft:
        drawn(world, trial, seed).save(draft, format="PNG")
    print(f"{out}: rows from above: {'; '.join(ROWS.values())}")


def drawn(world: World, trial: Trial, seed: int) -> Image.Image:
    """One row for each of `ROWS`, of the same moments."""
    import numpy as np
    from PIL import Image

    from loci.bench.world.recall import remember, walk_on
    from loci.bench.world.variants import variants

    worlds, rows = variants(world), []
    places = np.flatnonzero(trial.hidden)
    places = places[np.linspace(0, len(places) - 1, TILES).round().astype(int)]
    for name in ROWS:
        frames = trial.truth
        if name in worlds:
            seen = trial.frames[: trial.known + 1], trial.actions[: trial.known]
            state = remember(worlds[name], *seen, seed)
            frames, _ = walk_on(worlds[name], state, trial.back)
        tiles = np.pad(frames[places], ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
        rows.append(np.concatenate(list(tiles), axis=1))
    sheet = Image.fromarray(np.concatenate(rows)[:-GAP, :-GAP])
    return sheet.resize((SCALE * sheet.width, SCALE * sheet.height), Image.Resampling.BICUBIC)
