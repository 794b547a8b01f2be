"""Films of generated Doom maps, carried by hand, as latents with the true poses of their frames.

The walker is that of `loci data film`: inertia, sway and a trembling heading. The camera is kept
level. Kept in one file, so that a study that is run again does not record again.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8

from loci.codecs.base import Codec
from loci.envs.base import MapPose
from loci.envs.doom.carrier import Carrier
from loci.envs.doom.engine import DoomWalker
from loci.envs.doom.handheld import SPEED, TURN_RATE, HandHeld
from loci.envs.doom.level import FloorPlan, Sector
from loci.envs.doom.maps import BODY, CELL, SIDES, DoomMap, make_map
from loci.errors import LociError
from loci.io.files import replacing

FPS = 15
FIRST_MAP, FIRST_HELD_OUT = 20_000, 30_000
"""Seeds of maps; no model that is shipped was trained on them."""
STEP = sum(SPEED) / 2 / FPS
"""Map units that the median walker moves in a frame."""
TURN = sum(TURN_RATE) / 2 / FPS
"""Degrees that it turns in a frame."""
MAPS_AT_ONCE = 16


@dataclass(frozen=True)
class HandFilms:
    """Films of equal length, 15 frames a second, one to a map.

    Attributes:
        latents: of the frames to train on.
        poses: of these frames: x and y in map units, the heading in degrees, counter-clockwise.
        held_out: latents of films of other maps.
        held_out_poses: their poses.
        held_out_frames: the frames themselves.
    """

    latents: Float16[np.ndarray, "n t c h w"]
    poses: Float[np.ndarray, "n t 3"]
    held_out: Float16[np.ndarray, "m t c h w"]
    held_out_poses: Float[np.ndarray, "m t 3"]
    held_out_frames: UInt8[np.ndarray, "m t s s 3"]


class HandCamera(DoomWalker):
    """A camera that is carried through generated maps, tic by tic."""

    def __enter__(self) -> HandCamera:
        return self

    def enter(self, index: int) -> None:
        super().enter(index)
        self._carrier = Carrier(self._game, self.pose()[2])

    def carry(self, forward: float, left: float, turn: float) -> None:
        """One tic: a turn to the left in degrees, then a move in map units along the new
        heading."""
        self._carrier.carry(forward, left, turn, self.pose()[2])


def hand_films(
    path: Path, codec: Codec, films: int, held_out: int, frames: int, seed: int = 0
) -> HandFilms:
    """Films from a file, or recorded into it.

    Args:
        path: a `.npz`.
        codec: with one latent per frame of 128x128 pixels.
        films, held_out: how many.
        frames: of each.
        seed: of the walks.

    Raises:
        LociError: when the file holds other films, or cannot be read or written.
    """
    names = [field.name for field in fields(HandFilms)]
    if not path.exists():
        found = record(FIRST_MAP, films, frames, seed)
        arrays = {"latents": encoded(codec, found[0]), "poses": found[1]}
        found = record(FIRST_HELD_OUT, held_out, frames, seed)
        arrays |= dict(zip(names[2:], (encoded(codec, found[0]), found[1], found[0]), strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    try:
        with np.load(path) as stored:
            result = HandFilms(**{name: stored[name] for name in names})
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise LociError(f"{path}: not films of this study; remove it") from error
    kept = result.poses.shape[:2], result.held_out_poses.shape[:2]
    if kept != ((films, frames), (held_out, frames)):
        raise LociError(f"{path}: films {kept}, expected {films} and {held_out} of {frames} frames")
    return result


def record(
    first: int, films: int, frames: int, seed: int
) -> tuple[UInt8[np.ndarray, "n t s s 3"], Float[np.ndarray, "n t 3"]]:
    """Frames and poses of films of the maps from seed `first` on."""
    pictures, poses = [], []
    for begin in range(0, films, MAPS_AT_ONCE):
        maps = [make_map(first + k) for k in range(begin, min(films, begin + MAPS_AT_ONCE))]
        with HandCamera(maps) as camera:
            for index, doom_map in enumerate(maps):
                camera.enter(index)
                shown, path = _walk(camera, doom_map, frames, seed + doom_map.seed)
                pictures.append(shown)
                poses.append(path)
    return np.stack(pictures), np.stack(poses)


def _walk(
    camera: HandCamera, doom_map: DoomMap, frames: int, seed: int
) -> tuple[UInt8[np.ndarray, "t s s 3"], Float[np.ndarray, "t 3"]]:
    walk = HandHeld(FloorPlan(map_sectors(doom_map)), camera.pose(), seed, FPS)
    pictures, poses = [], []
    for _ in range(frames):
        before = camera.pose()
        pictures.append(camera.frame())
        poses.append(before)
        held = walk.next()
        camera.carry(held.forward, held.left, held.turn)
        walk.moved(before, camera.pose())
    return np.stack(pictures), np.array(poses)


def map_sectors(doom_map: DoomMap) -> list[Sector]:
    """A generated map as the sectors of a level: its open cells, and fences round landmarks."""
    sectors = []
    for i, j in doom_map.owner:
        walls = [(i + dx, j + dy) not in doom_map.owner for dx, dy in SIDES]
        lines = _square((i + 0.5) * CELL, (j + 0.5) * CELL, CELL / 2)
        sectors.append(Sector(0.0, 128.0, lines, np.array(walls)))
    for mark in doom_map.landmarks:
        lines = _square(mark.x, mark.y, BODY)
        sectors.append(Sector(0.0, 0.0, lines, np.ones(4, bool)))
    return sectors


def _square(x: float, y: float, half: float) -> Float[np.ndarray, "4 4"]:
    """Lines on the sides of a square, in the order of `SIDES`: east, north, west, south."""
    west, east, south, north = x - half, x + half, y - half, y + half
    return np.array(
        [
            (east, south, east, north),
            (west, north, east, north),
            (west, south, west, north),
            (west, south, east, south),
        ]
    )


@torch.no_grad()
def encoded(
    codec: Codec, pictures: UInt8[np.ndarray, "n t s s 3"]
) -> Float16[np.ndarray, "n t c h w"]:
    """One latent for each picture."""
    films = []
    for film in pictures:
        video = torch.from_numpy(film).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        films.append(codec.encode(video)[0].transpose(0, 1).half().numpy())
    return np.stack(films)


Command = tuple[float, float, float]
"""Forward and left in map units, and a turn to the left in degrees, of every frame."""


def obeyed(
    starts: list[tuple[int, MapPose]], commands: list[Command], frames: int
) -> UInt8[np.ndarray, "s k f+1 h w 3"]:
    """What the engine shows when it obeys each command from each start, the first view included.

    Args:
        starts: seeds of maps and poses in them; headings are rounded to whole degrees.
        commands: of every frame.
        frames: for how many.
    """
    found = []
    for seed, (x, y, heading) in starts:
        doom_map = replace(make_map(seed), start=(x, y, round(heading) % 360))
        with HandCamera([doom_map]) as camera:
            found.append([_obey(camera, command, frames) for command in commands])
    return np.array(found)


def _obey(camera: HandCamera, command: Command, frames: int) -> list[UInt8[np.ndarray, "s s 3"]]:
    camera.enter(0)
    pictures = [camera.frame()]
    for _ in range(frames):
        camera.carry(*command)
        pictures.append(camera.frame())
    return pictures
