"""`loci bench claims`: what a model learns from a film that was labelled by its own odometry.

Labels are compared with the true poses of films made by `loci data film`; models with the held-out
walks of the film: views that were seen and are out of sight, the next frames, and whether the
picture moves as the keys say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float

from loci.actions import UNCERTAIN
from loci.bench.labels import Agreement, camera_poses, exact_motion
from loci.bench.report import table, write_json
from loci.bench.world.control import MOTIONS
from loci.data.films import FILM
from loci.data.latents import LatentWalks, latent_walks
from loci.data.recordings import CLIPS, Recordings, load_recordings
from loci.errors import LociError
from loci.io.config_files import read_json
from loci.io.files import check_writable
from loci.labels.tristate import label_motion, true_ids
from loci.train.world.batches import HistorySpec, draw_batch
from loci.train.world.evaluate import HISTORIES, Memory, predict_frames
from loci.train.world.recording_settings import with_fov
from loci.world.transformer import WorldTransformer
from loci.world.world import World

NEXT = HistorySpec((6, 0, 0), 1)
_SIDE = np.array([0, 0, 0, -1, 1, -1, 1, -1, 1, UNCERTAIN])
"""Where a view id turns: -1 left, 1 right, 0 neither."""
_DRIFT_SECONDS = (1, 10, 60)


@dataclass(frozen=True)
class Sizes:
    """How much is measured: examples of each history, and starts of each command."""

    examples: int = 24
    starts: int = 12


def claims(
    json: Path,
    data: Path,
    models: tuple[str, ...] = ("doom",),
    films: Path | None = None,
    examples: int = 24,
    starts: int = 12,
    seed: int = 0,
) -> None:
    """Measure labels of a film against the truth, and models on its held-out walks.

    Args:
        json: where to write the results.
        data: what loci label made of the films.
        models: models to compare: shipped ones by name, or model folders. A model made for another
            field of view is measured with the film's as well, which changes no weight.
        films: the folder of the films, with the true poses beside them (loci data film).
        examples: number of examples of each history.
        starts: number of held-out frames from which each command is given.
        seed: seed of the examples and the noise.
    """
    if min(examples, starts) < 1:
        raise LociError(f"--examples, --starts: {examples}, {starts}, expected at least 1 each")
    check_writable(json)
    results: dict[str, Any] = {"labels": [], "models": []}
    if films is not None:
        results["labels"] = [measure_clip(folder, films) for folder in _clips(data)]
    test = load_recordings(data / "test")
    sizes = Sizes(examples, starts)
    if models:
        results["film"] = own_frames(test)
    for name in models:
        world = World.from_pretrained(name)
        results["models"].append({"model": name, **measure_world(world, test, data, sizes, seed)})
        other = _for_camera(world, test.info.fov_degrees)
        if other is not None:
            row = measure_world(other, test, data, sizes, seed)
            name = f"{name}, {other.config.fov:.0f} degrees"
            results["models"].append({"model": name, **row})
    write_json(json, results)
    print(describe(results))


def _for_camera(world: World, fov: float | None) -> World | None:
    """The same weights, told another field of view; None where it is theirs, or unknown."""
    config = world.transformer.config
    if fov is None or config.pose_rotary is None or abs(config.pose_rotary.fov - fov) < 0.1:
        return None
    transformer = WorldTransformer(with_fov(config, fov))
    transformer.load_state_dict(world.transformer.state_dict())
    transformer.eval().requires_grad_(False)
    return World(replace(world.config, fov=fov), transformer, world.codec)


def _clips(data: Path) -> list[Path]:
    folders = sorted(path.parent for path in (data / CLIPS).glob(f"*/{FILM}"))
    if not folders:
        raise LociError(f"--data: {data} has no labelled films, expected what loci label wrote")
    return folders


def measure_clip(folder: Path, films: Path) -> dict[str, Any]:
    """Labels and poses of one film against its true poses."""
    clip, labels = read_json(folder / FILM), np.load(folder / "labels.npz")
    film = films / clip["source"]["film"]
    path = film.with_suffix(".txt")
    if not path.is_file():
        raise LociError(f"{path}: no true poses of {film.name}, expected films of loci data film")
    stamped = np.loadtxt(path)
    at = np.abs(stamped[:, 0] - labels["times"][:, None]).argmin(axis=1)
    true, found = stamped[at, 1:], labels["poses"]
    motion = exact_motion(camera_poses(true), float(clip["fps"]))
    expected = label_motion(motion)
    ids = np.load(folder / "actions.npy")[:-1].astype(int)
    result: dict[str, Any] = {"clip": folder.name, "frames": len(found), "runs": len(clip["runs"])}
    move = Agreement.of(ids[:, 0], true_ids(motion.move, expected.move.middle))
    # The true poses have no tilt: of views, left and right are compared.
    sides = _SIDE[ids[:, 1]]
    view = Agreement.of(sides, _SIDE[true_ids(motion.view * [0, 1], expected.view.middle)])
    for name, agreement in (("move", move), ("view", view)):
        result[f"{name}_kept"], result[f"{name}_wrong"] = agreement.kept, agreement.wrong
    result["uncertain_moves"] = float((ids[:, 0] == UNCERTAIN).mean())
    result |= drift(found, true, float(clip["fps"]))
    return result


def drift(
    found: Float[np.ndarray, "n 3"], true: Float[np.ndarray, "n 3"], fps: float
) -> dict[str, float | None]:
    """How far measured poses (x, y, heading in degrees) have strayed after some time.

    Over all stretches of that time, each laid on the true one by its first pose and by one scale
    for the whole film: the median error of the heading in degrees, and of the place as a share of
    the way walked.
    """
    result: dict[str, float | None] = {}
    steps = [np.hypot(*np.diff(p[:, :2], axis=0).T) for p in (found, true)]
    moving = (steps[0] > 0) & (steps[1] > 0.2)
    scale = float(np.median(steps[1][moving] / steps[0][moving])) if moving.any() else 1.0
    way = np.concatenate([[0], np.cumsum(steps[1])])
    for seconds in _DRIFT_SECONDS:
        count = round(seconds * fps)
        if count >= len(found):
            result[f"heading_{seconds}s"] = result[f"place_{seconds}s"] = None
            continue
        ends = [_relative(p, count) for p in (found, true)]
        turn = np.abs((ends[0][:, 2] - ends[1][:, 2] + 180) % 360 - 180)
        miss = np.hypot(*(scale * ends[0][:, :2] - ends[1][:, :2]).T)
        walked = way[count:] - way[:-count]
        far = walked > 0.25 * np.quantile(walked, 0.9)
        result[f"heading_{seconds}s"] = float(np.median(turn))
        result[f"place_{seconds}s"] = float(np.median(miss[far] / walked[far]))
    return result


def _relative(poses: np.ndarray, count: int) -> Float[np.ndarray, "m 3"]:
    """Every pose in the axes of the one `count` frames before."""
    first, last = poses[:-count], poses[count:]
    angle = np.radians(first[:, 2])
    dx, dy = (last[:, :2] - first[:, :2]).T
    ahead, left = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    return np.column_stack([ahead, left, last[:, 2] - first[:, 2]])


def own_frames(test: Recordings) -> dict[str, Any]:
    """How often the film's own frames move as their certain labels say: the upper bound of
    obedience, and how far its measurement can be trusted."""
    right: dict[str, list[bool]] = {name: [] for name in MOTIONS}
    for walk in range(len(test.frames)):
        actions = test.actions[walk][:-1].astype(int)
        for name, (action, measure, sign) in MOTIONS.items():
            at = np.flatnonzero((actions == action).all(axis=1))[:64]
            if len(at):
                before, after = test.frames[walk, at], test.frames[walk, at + 1]
                right[name] += (np.sign(measure(before, after)) == sign).tolist()
    return {"obedience": _shares(right)}


def measure_world(
    world: World, test: Recordings, data: Path, sizes: Sizes, seed: int
) -> dict[str, Any]:
    """Recall, the next frames and obedience of one model on the held-out walks.

    Raises:
        LociError: when the model's frames are of another size.
    """
    if world.size is not None and tuple(world.size) != tuple(test.info.frame_size):
        raise LociError(f"{data}: frames of {test.info.frame_size}, the model has {world.size}")
    scale = test.info.action_scale
    walks = latent_walks(test, world.codec, data / "latents", len(test.frames), scale)
    result = recall(world, walks, test, sizes.examples, seed)
    result["obedience"] = obedience(world, walks, sizes.starts, seed)
    return result


@torch.no_grad()
def recall(
    world: World, walks: LatentWalks, test: Recordings, examples: int, seed: int
) -> dict[str, Any]:
    """PSNR in dB: of views seen before and out of sight, with true, wrong and empty memory, and as
    the codec alone has them; and of the eight next frames."""
    result: dict[str, Any] = {}
    specs = {name: HISTORIES[name] for name in ("near", "whole")} | {"next": NEXT}
    for name, spec in specs.items():
        if walks.length < spec.length:
            continue
        rng = np.random.default_rng(7 + seed)
        batch = draw_batch(walks, spec, examples, rng, revisits=0.0 if name == "next" else 1.0)
        counted = torch.ones_like(batch.hidden) if name == "next" else batch.hidden
        rows = batch.walks[:, None].numpy(), batch.target_frames.numpy()
        true = torch.from_numpy(test.frames[rows]).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
        kinds = ("true",) if name == "next" else get_args(Memory)
        model, codec = world.transformer, world.codec
        frames = {kind: predict_frames(model, batch, kind, codec) for kind in kinds}
        frames["ceiling"] = codec.decode(batch.target.transpose(1, 2)).transpose(1, 2)
        for kind, predicted in frames.items():
            error = (predicted.clamp(-1, 1) - true).square().mean(dim=(2, 3, 4))
            result[f"{name}_{kind}"] = float((10 * torch.log10(4 / error))[counted].mean())
        result[f"{name}_views"] = int(counted.sum())
    return result


@torch.no_grad()
def obedience(world: World, walks: LatentWalks, starts: int, seed: int) -> dict[str, Any]:
    """How often the picture moves as told, frame by frame of a chunk, from held-out frames with
    their past."""
    rng = np.random.default_rng(seed)
    right: dict[str, list[bool]] = {name: [] for name in MOTIONS}
    for number in range(starts):
        walk, now = int(rng.integers(walks.count)), int(rng.integers(64, walks.length))
        now -= now % world.chunk_frames
        history = walks.latents[walk : walk + 1, : now + 1].float().transpose(1, 2)
        poses = walks.poses[walk : walk + 1, : now + 1]
        state = world.start_from_latents(history, poses, seed + number)
        first = world.newest_frame(state)
        for name, (action, measure, sign) in MOTIONS.items():
            if not _known(world, action):
                continue
            frames, _ = world.step(state, np.array([action] * world.chunk_frames))
            shown = np.concatenate([first[None], frames])
            right[name] += (np.sign(measure(shown[:-1], shown[1:])) == sign).tolist()
    return _shares(right)


def _known(world: World, action: tuple[int, int]) -> bool:
    known = (world.config.moves, world.config.views)
    return all(not ids or a in ids for ids, a in zip(known, action, strict=True))


def _shares(right: dict[str, list[bool]]) -> dict[str, Any]:
    every = [value for values in right.values() for value in values]
    shares = {name: float(np.mean(values)) if values else None for name, values in right.items()}
    return {"all": float(np.mean(every)) if every else None, **shares}


def describe(results: dict[str, Any]) -> str:
    """The results as tables."""
    parts = []
    for rows in (results["labels"], results["models"]):
        if rows:
            names = [name for name in rows[0] if name != "obedience"]
            parts.append(table(names, [[row.get(name) for name in names] for row in rows]))
    if results["models"]:
        rows = [("film's own frames", results["film"]["obedience"])]
        rows += [(row["model"], row["obedience"]) for row in results["models"]]
        names = ["all", *MOTIONS]
        cells = [[label, *(shares[name] for name in names)] for label, shares in rows]
        parts.append(table(["obedience", *names], cells))
    return "\n\n".join(parts)
