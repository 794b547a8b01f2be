"""`loci bench photographs`: how much of a photograph stays when one walks into it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from jaxtyping import Float, UInt8

from loci.bench.report import ratio, table, write_json
from loci.errors import LociError
from loci.io.files import check_writable, replacing

if TYPE_CHECKING:
    from PIL import Image

    from loci.bench.metrics import Features
    from loci.world.world import World

Frames = UInt8[np.ndarray, "n h w 3"]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
KEYS = ".*8 l*48 .*8 w*40 .*8 s*40 .*8 j*48 .*8"
"""Stand still, look round, walk out and come back, look round the other way."""
FIRST, TURNED, RETURNED, LAST = 0, 55, 159, 207
"""Frames that show what the photograph shows: at once, after the turn, the way back, the end."""
AWAY = slice(19, 44)
"""Frames that look at least 80 degrees away from the photograph."""
TILES = (0, 13, 19, 31, 43, 55, 79, 103, 159, 183, 207)


@dataclass(frozen=True)
class PhotographWalk:
    """A photograph as the model takes it, the same through the codec, and the walk into it."""

    name: str
    picture: UInt8[np.ndarray, "h w 3"]
    decoded: UInt8[np.ndarray, "h w 3"]
    frames: Frames


def photographs(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    json: Path,
    model: str = "doom",
    seed: int | None = None,
    sheet: Path | None = None,
) -> None:
    """Measure how much of a photograph stays when one walks into it.

    Args:
        source: a folder of photographs that the model was not trained on.
        json: where to write the results.
        model: a shipped model, a folder or a hub id.
        seed: seed of the noise, the same for every photograph; by default each has its own, as in
            loci walk.
        sheet: a picture of every photograph and of views of its walk, a PNG.
    """
    files = sorted(f for f in source.glob("*") if f.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise LociError(f"{source}: {len(files)} photographs, expected at least two")
    for path in (json, sheet):
        if path is not None:
            check_writable(path)

    from loci.bench.metrics import Features
    from loci.world.world import World

    world, features = World.from_pretrained(model), Features()
    walks = [walk_into(world, file, seed) for file in files]
    results = measure(walks, features) | {"engine_between": engine_distance(world, features)}
    results["difference_of_walks"] = ratio(results["between"], results["engine_between"])
    write_json(json, {"model": model, "seed": seed, "keys": KEYS, **results})
    print(describe(results))
    if sheet is not None:
        with replacing(sheet) as draft:
            draw(walks).save(draft, format="PNG")


def walk_into(world: World, file: Path, seed: int | None) -> PhotographWalk:
    """The walk of `KEYS` from a photograph."""
    from loci.actions import parse_keys
    from loci.bench.world.trials import rollout
    from loci.io.frames import fit, frames_to_tensor, tensor_to_frames
    from loci.io.images import read_pixels

    frames, _ = rollout(world, world.start(file, seed), np.array(parse_keys(KEYS)))
    picture = fit(read_pixels(file), frames.shape[1:3])
    decoded = world.codec.decode(world.codec.encode(frames_to_tensor(picture[None])))
    return PhotographWalk(file.name, picture, tensor_to_frames(decoded)[0], frames)


def measure(walks: list[PhotographWalk], features: Features) -> dict[str, Any]:
    """PSNR to the photograph, and how far apart the walks of different photographs are."""
    from loci.bench.metrics import psnr

    marks = {"first": FIRST, "turned": TURNED, "returned": RETURNED, "last": LAST}
    rows = {}
    for walk in walks:
        views = np.stack([walk.decoded, *(walk.frames[n] for n in marks.values())])
        found = psnr(views, np.broadcast_to(walk.picture, views.shape))
        rows[walk.name] = dict(zip(("codec", *marks), found.tolist(), strict=True))
    means = {f"{m}_psnr": float(np.mean([r[m] for r in rows.values()])) for m in ("codec", *marks)}
    away = [features(walk.frames[AWAY]).mean(axis=0) for walk in walks]
    return {
        "photographs": rows,
        **means,
        "palette": palette_kept(walks),
        "between": distance_between(away),
    }


def palette_kept(walks: list[PhotographWalk]) -> float:
    """How often views away from a photograph are nearer to its mean colour than to another's.

    0.5 is chance, 1 is always.
    """
    photos = np.stack([walk.picture.mean(axis=(0, 1)) for walk in walks])
    views = np.stack([walk.frames[AWAY].mean(axis=(0, 1, 2)) for walk in walks])
    distance = np.linalg.norm(views[:, None] - photos[None], axis=-1)
    nearer = distance.diagonal()[:, None] < distance
    return float(nearer.sum() / (len(walks) * (len(walks) - 1)))


def distance_between(features: list[Float[np.ndarray, "d"]]) -> float:
    """Mean cosine distance of all pairs."""
    from loci.bench.metrics import cosine_distance

    pairs = list(combinations(features, 2))
    return float(cosine_distance(*(np.stack(side) for side in zip(*pairs, strict=True))).mean())


def engine_distance(world: World, features: Features, maps: int = 8) -> float:
    """The same distance between the engine's views of held-out maps, turning like `KEYS`."""
    from loci.actions import parse_keys
    from loci.bench.world.trials import film_for, held_out_maps

    actions = np.array(parse_keys(KEYS))[: AWAY.stop]
    films = [film_for(world, m, actions)[0][1:] for m in held_out_maps(maps, 0)]
    return distance_between([features(frames[AWAY]).mean(axis=0) for frames in films])


def draw(walks: list[PhotographWalk], scale: int = 1) -> Image.Image:
    """A row for every photograph: the photograph, then frames `TILES` of the walk."""
    from PIL import Image

    rows = [np.concatenate([w.picture, *(w.frames[n] for n in TILES)], axis=1) for w in walks]
    sheet = Image.fromarray(np.concatenate(rows))
    return sheet.resize((scale * sheet.width, scale * sheet.height), Image.Resampling.BICUBIC)


def describe(results: dict[str, Any]) -> str:
    """The results as text."""
    names = ("codec", "first", "turned", "returned", "last")
    rows = [[name, *(row[n] for n in names)] for name, row in results["photographs"].items()]
    rows.append(["mean", *(results[f"{n}_psnr"] for n in names)])
    return "\n".join(
        (
            table(["PSNR to the photograph, dB", *names], rows),
            f"views away nearest to the photograph's colour: {results['palette']:.2f} of pairs "
            "(chance 0.50)",
            f"walks of different photographs: feature distance {results['between']:.3f}, "
            f"{results['difference_of_walks']:.2f} of that between the engine's maps",
        )
    )
