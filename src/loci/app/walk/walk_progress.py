"""Progress of a walk: a bar that moves at every sampling step, and the stages before the first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loci.world.world import World

BAR = "{l_bar}{bar}| {n:.1f}/{total_fmt} frames [{elapsed}<{remaining}{postfix}]"
LARGE = 500_000_000
"""Weights from which on the start of a walk takes so long that its stages are printed."""
REFRESH = 0.1
"""Seconds between two pictures of the bar."""
STAGES = {
    "context": "reading the memory",
    "frames": "decoding frames",
    "history": "encoding frames",
    "prompt": "encoding the prompt",
    "picture": "encoding the picture",
}


class WalkBar:
    """A bar over the frames of a walk, those of the current chunk counted by sampling steps.

    Args:
        world: the world that is walked; its `progress` is taken while the bar is shown.
        frames: number of frames to come.
    """

    def __init__(self, world: World, frames: int) -> None:
        self.world, self.frames = world, frames
        self._done, self._shown = 0, 0.0

    def __enter__(self) -> WalkBar:
        from tqdm import tqdm

        options: dict[str, Any] = {"delay": 1e-3, "bar_format": BAR}
        self._bar = tqdm(total=self.frames, **options)
        self.world.progress = self.show_step
        return self

    def __exit__(self, *exception: object) -> None:
        self.world.progress = None
        if self._shown:
            self._bar.delay = 0.0  # else tqdm takes it for never shown, and ends no line
        self._bar.close()

    def show_step(self, stage: str, step: int, steps: int) -> None:
        """Before step `step` of a stage of the current chunk."""
        share = {"context": 0.0, "sampling": step / steps}.get(stage, 1.0)
        chunk_frames = min(self.world.chunk_frames, self.frames - self._done)
        text = STAGES.get(stage, f"step {step + 1} of {steps}")
        self._set(self._done + share * chunk_frames, text)

    def add_chunk(self, frames: int) -> None:
        """After a chunk of so many new frames."""
        self._done += frames
        self._set(self._done, "")

    def _set(self, frames: float, text: str) -> None:
        self._bar.n = frames  # pyright: ignore[reportAttributeAccessIssue]
        self._bar.set_postfix_str(text, refresh=False)
        now = time.monotonic()
        if now - self._shown > REFRESH:
            self._shown = now
            self._bar.refresh()


@contextmanager
def printing_stages(world: World) -> Iterator[None]:
    """Within the block a large model, which takes minutes to begin a walk, prints its stages."""

    def say(stage: str, step: int, steps: int) -> None:
        print(f"{STAGES[stage]} ...", flush=True)

    count = sum(weight.numel() for weight in world.transformer.parameters())
    world.progress = say if count >= LARGE else None
    try:
        yield
    finally:
        world.progress = None
