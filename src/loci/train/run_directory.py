"""The checkpoint, the log and the elapsed time of a training run, in its directory.

Time is part of a run's state: a budget in minutes counts the seconds of training over all resumes,
so the learning rate reaches its end exactly when the budget does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from loci.errors import LociError
from loci.io.files import replacing

FORMAT = 2
"""Version of the checkpoint format. Checkpoints without one are from before all models shared a
trainer."""


class Stateful(Protocol):
    """What can be put into a checkpoint."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


class RunDirectory:
    """`log.jsonl`, `checkpoint.pt` and pictures in one folder. Only the main process writes.

    Raises:
        LociError: when the folder cannot be made.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes
        self.step, self.seconds = 0, 0.0
        self._last_tick = time.monotonic()
        self._last_done: dict[str, float] = {}
        if writes:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LociError(
                    f"{path}: cannot make the run directory ({error.strerror})"
                ) from error

    def start_clock(self) -> None:
        """Time before this call (loading, compiling) does not count."""
        self._last_tick = time.monotonic()

    def tick(self) -> None:
        """One optimiser step is done: counts it, and the time since the last tick."""
        now = time.monotonic()
        self.seconds += now - self._last_tick
        self._last_tick = now
        self.step += 1

    def due(self, what: str, every_seconds: float) -> bool:
        """True at most once per `every_seconds` of training time for each `what`."""
        if self.seconds - self._last_done.get(what, 0.0) < every_seconds:
            return False
        self._last_done[what] = self.seconds
        return True

    def log(self, **record: Any) -> None:
        """Appends one line with the step, the seconds and the given numbers, and prints it."""
        if not self.writes:
            return
        line = {"step": self.step, "seconds": round(self.seconds, 1)} | {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in record.items()
        }
        with open(self.path / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        print(" ".join(f"{key}={value}" for key, value in line.items()), flush=True)

    def save(self, parts: Mapping[str, Stateful]) -> None:
        """Writes a checkpoint of all parts and the clock, all or nothing. All processes call this,
        since parts may be gathered from them."""
        state = {name: part.state_dict() for name, part in parts.items()}
        if not self.writes:
            return
        content = {
            "format": FORMAT,
            "clock": {"step": self.step, "seconds": self.seconds, "done": self._last_done},
            "state": state,
        }
        with replacing(self.path / "checkpoint.pt") as draft:
            torch.save(content, draft)

    def resume(self, parts: Mapping[str, Stateful]) -> bool:
        """Sets the parts, the clock and the log back to the last checkpoint; False without one.

        Raises:
            LociError: when the checkpoint is damaged, of an older format or of other parts.
        """
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return False
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle raises nearly anything
            raise LociError(f"{path}: not a readable training checkpoint") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise LociError(
                f"{path}: a checkpoint of another version of loci, which cannot be resumed; "
                "train into a new folder"
            )
        try:
            for name, part in parts.items():
                part.load_state_dict(content["state"][name])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise LociError(
                f"{path}: does not fit; a run is resumed with the configuration it began with"
            ) from error
        clock = content["clock"]
        self.step, self.seconds = clock["step"], clock["seconds"]
        self._last_done = dict(clock["done"])
        self._truncate_log()
        return True

    def _truncate_log(self) -> None:
        """Removes the lines written after the checkpoint, whose steps are made again."""
        log = self.path / "log.jsonl"
        if not self.writes or not log.exists():
            return
        lines = log.read_text().splitlines()
        valid = [line for line in lines if json.loads(line)["step"] <= self.step]
        with replacing(log) as draft:
            draft.write_text("".join(line + "\n" for line in valid))

    def sheet(self, name: str, rows: list[Tensor]) -> None:
        """Writes `name`.png: every row is [n, 3, h, w] in [-1, 1], frames side by side."""
        if not self.writes:
            return
        from PIL import Image

        strips = [torch.cat(list(row.detach().float().cpu()), dim=2) for row in rows]
        width = max(strip.shape[2] for strip in strips)
        strips = [nn.functional.pad(strip, (0, width - strip.shape[2])) for strip in strips]
        pixels = (torch.cat(strips, dim=1).clamp(-1, 1) + 1).mul(127.5).round().byte()
        with replacing(self.path / f"{name}.png") as draft:
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(draft, format="PNG")
