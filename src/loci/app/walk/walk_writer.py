"""Writes a walk's video, its contact sheet and its saved state."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from loci.app.walk.saved_walk import walk_comment
from loci.app.walk.walk_request import WalkOutputs
from loci.errors import LociError
from loci.io.files import replacing
from loci.io.frames import choose_bucket, fit
from loci.io.video import VideoWriter, contact_sheet, read_frames
from loci.world.walk_file import save_walk
from loci.world.world import WalkState, World

# Pixels of the shorter side at least: of the video, of a tile of the contact sheet.
WATCHABLE, TILE = 384, 128
TILES = 64
"""About the number of frames on a contact sheet."""


class WalkWriter:
    """Writes the files of a walk; if one of them fails, the others are written all the same.

    Args:
        outputs: the files to write.
        world: what is walked.
        state: the walk before it.
        frames: number of frames at the end of the walk, its picture included.

    Attributes:
        written: the files that are there.
        errors: why others are not.
        tiles: frames for the contact sheet, by their number in the walk.
    """

    def __init__(self, outputs: WalkOutputs, world: World, state: WalkState, frames: int) -> None:
        self.outputs, self.world = outputs, world
        self.written: list[Path] = []
        self.errors: list[LociError] = []
        self._side = min(state.newest_latent.shape[-2:]) * world.codec.spatial_factor
        self._every = math.ceil(frames / TILES)
        self.tiles: dict[int, UInt8[np.ndarray, "h w 3"]] = {}

    @contextmanager
    def attempt(self, path: Path) -> Iterator[None]:
        """Within the block `path` is written; an error ends the block and is kept."""
        try:
            yield
            self.written.append(path)
        except LociError as error:
            self.errors.append(error)

    def open_video(self) -> VideoWriter:
        """To be entered before frames are written."""
        return VideoWriter(
            self.outputs.video,
            self.world.fps,
            scale=math.ceil(WATCHABLE / self._side),
            comment=walk_comment(self.outputs.walk_id),
            beginning=self.outputs.beginning,
        )

    def first_frame(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "1 h w 3"]:
        """The first frame of the video and of the sheet: the picture as the model sees it."""
        size = self.world.size or choose_bucket(*pixels.shape[:2])
        first = fit(pixels, size)[None]
        self.add_tiles(0, first)
        return first

    def add_tiles_of_beginning(self, frames: int) -> None:
        """`add_tiles` for the `frames` that the video of a continued walk has already."""
        if self.outputs.beginning is None:
            earlier = "the video of the earlier ones is not there any more"
            print(f"{self.outputs.video} begins with frame {frames}: {earlier}", file=sys.stderr)
            return
        for number, frame in enumerate(read_frames(*self.outputs.beginning)):
            if number % self._every == 0:
                step = max(1, min(frame.shape[:2]) // self._side)
                self.tiles[number] = frame[step // 2 :: step, step // 2 :: step]

    def add_tiles(self, number: int, frames: UInt8[np.ndarray, "n h w 3"]) -> None:
        """Keeps some frames for the contact sheet; the first of these is `number` of the walk."""
        for offset, frame in enumerate(frames):
            if (number + offset) % self._every == 0 or not self.tiles:
                self.tiles[number + offset] = frame

    def save_walk(self, path: Path, state: WalkState) -> None:
        """Saves a state, with the path of its video relative to `path`."""
        video = os.path.relpath(self.outputs.video.absolute(), path.absolute().parent)
        save_walk(path, state, self.world, {"path": video, "walk_id": self.outputs.walk_id})

    def save_sheet(self) -> None:
        """Writes the contact sheet."""
        captions = [str(number) for number in self.tiles]
        tiles = np.stack(list(self.tiles.values()))
        sheet = contact_sheet(tiles, captions, scale=math.ceil(TILE / self._side))
        with replacing(self.outputs.sheet) as draft:
            sheet.save(draft, format="PNG")
