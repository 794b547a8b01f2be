"""A labelled film to look at: the film with its keys drawn on it, plots, and a page with both."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from loci.actions import MOVES, UNCERTAIN, VIEWS
from loci.io.video import VideoWriter
from loci.labels.clip import LabelledClip
from loci.labels.film import read_film
from loci.labels.tristate import Thresholds

OVERLAY_WIDTH = 640
_ON, _OFF, _DOUBT = (80, 220, 100), (70, 70, 70), (235, 180, 60)
# The ids under which a key is down, and where it stands, in keys from the corner.
_MOVE_KEYS = {
    "W": ((1, 5, 6), 1, 0),
    "A": ((3, 5, 7), 0, 1),
    "S": ((2, 7, 8), 1, 1),
    "D": ((4, 6, 8), 2, 1),
}
_VIEW_KEYS = {
    "I": ((1, 5, 6), 1, 0),
    "J": ((3, 5, 7), 0, 1),
    "K": ((2, 7, 8), 1, 1),
    "L": ((4, 6, 8), 2, 1),
}


def write_report(folder: Path, film: Path, clip: LabelledClip) -> None:
    """`overlay.mp4`, `shares.png`, `thresholds.png`, `path.png` and `report.html` in a folder."""
    write_overlay(folder / "overlay.mp4", film, clip)
    _draw_shares(folder / "shares.png", clip)
    _draw_thresholds(folder / "thresholds.png", clip)
    _draw_path(folder / "path.png", clip)
    (folder / "report.html").write_text(_page(film.name, clip), encoding="utf-8")


def write_overlay(path: Path, film: Path, clip: LabelledClip) -> None:
    """The film at the rate of the labels, with the keys of each frame drawn on it: green where a
    key is down, amber where the channel is uncertain."""
    with VideoWriter(path, fps=round(clip.fps)) as writer:
        for number, frame in enumerate(_shown(film, clip)):
            draw_keys(frame, clip.actions[number].tolist())
            cv2.putText(
                frame,
                f"{clip.times[number]:.2f} s",
                (8, 22),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.5,
                (255, 255, 255),
                1,
                cv2.LINE_AA,
            )
            writer.write(frame[None])


def _shown(film: Path, clip: LabelledClip) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    for _, (_, frame) in zip(clip.times, read_film(film, clip.fps), strict=False):
        scale = min(1.0, OVERLAY_WIDTH / max(frame.shape[:2]))
        width, height = (round(side * scale) // 2 * 2 for side in (frame.shape[1], frame.shape[0]))
        frame = np.ascontiguousarray(frame)
        yield cv2.resize(frame, (max(2, width), max(2, height)), interpolation=cv2.INTER_AREA)


def draw_keys(frame: UInt8[np.ndarray, "h w 3"], action: list[int]) -> None:
    """Draws both hands' keys into a frame: moves at the left, views at the right."""
    height, width = frame.shape[:2]
    side = max(12, min(width, height) // 12)
    top = height - 2 * side - 8
    for ids, keys, left in (
        (action[0], _MOVE_KEYS, 8),
        (action[1], _VIEW_KEYS, width - 3 * side - 8),
    ):
        for name, (down, column, row) in keys.items():
            color = _DOUBT if ids == UNCERTAIN else _ON if ids in down else _OFF
            x, y = left + column * side, top + row * side
            cv2.rectangle(frame, (x + 1, y + 1), (x + side - 2, y + side - 2), color, -1)
            text = "?" if ids == UNCERTAIN else name
            at = (x + side // 3, y + side - side // 3)
            cv2.putText(
                frame, text, at, cv2.FONT_HERSHEY_SIMPLEX, side / 45, (0, 0, 0), 1, cv2.LINE_AA
            )


def _figure(width: float, height: float, columns: int = 1):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns))


def _draw_shares(path: Path, clip: LabelledClip) -> None:
    figure, axes = _figure(9, 3, 2)
    for axis, names, ids in zip(axes, (MOVES, VIEWS), clip.actions.T, strict=True):
        shares = np.bincount(ids[:-1], minlength=10) / max(1, len(ids) - 1)
        axis.barh(range(10), 100 * shares)
        axis.set_yticks(range(10), names, fontsize="small")
        axis.invert_yaxis()
        axis.set_xlabel("% of frames")
    figure.savefig(path, dpi=90)


def _draw_thresholds(path: Path, clip: LabelledClip) -> None:
    figure, axes = _figure(9, 3, 2)
    motion, unit = clip.motion, (clip.labels.stride or 1.0) * clip.motion.span
    panels = (
        (motion.move / unit, clip.labels.move, unit, "move in strides per frame"),
        (motion.view / motion.span, clip.labels.view, motion.span, "turn in degrees per frame"),
    )
    for axis, (values, thresholds, scale, label) in zip(axes, panels, strict=True):
        size = np.hypot(*values[motion.known].T)
        axis.hist(size, bins=60, color="tab:gray")
        _draw_lines(axis, thresholds, float(scale))
        axis.set_xlabel(label)
        axis.set_ylabel("frames")
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=90)


def _draw_lines(axis, thresholds: Thresholds, scale: float) -> None:
    for value, name, color in (
        (thresholds.low, "tau_1", "tab:blue"),
        (thresholds.high, "tau_2", "tab:red"),
    ):
        axis.axvline(value / scale, color=color, label=name)


def _draw_path(path: Path, clip: LabelledClip) -> None:
    figure, (axis,) = _figure(5, 5)
    ends = [*clip.runs[1:], len(clip.poses)]
    for begin, end in zip(clip.runs, ends, strict=True):
        x, y, heading = clip.poses[begin:end].T
        axis.plot(-y, x, linewidth=1)
        every = slice(None, None, max(1, len(x) // 40))
        angle = np.radians(heading[every])
        axis.quiver(-y[every], x[every], -np.sin(angle), np.cos(angle), width=0.003, alpha=0.6)
        axis.plot(-y[0], x[0], "o", markersize=4)
    axis.set_aspect("equal", adjustable="datalim")
    axis.set_xlabel("strides to the right")
    axis.set_ylabel("strides ahead")
    figure.savefig(path, dpi=90)


def _page(name: str, clip: LabelledClip) -> str:
    labels = clip.labels
    rows = {
        "frames": f"{len(clip.frames)} at {clip.fps:g} a second",
        "certain": f"{clip.certain[:-1, 0].mean():.0%} of moves, "
        f"{clip.certain[:-1, 1].mean():.0%} of views",
        "thresholds of moves": f"{_in_strides(labels.move, labels.stride * clip.motion.span)} "
        "strides per frame",
        "thresholds of views": f"{_in_strides(labels.view, clip.motion.span)} degrees per frame",
        "a turning frame turns": f"{labels.turn:.2f} degrees",
        "field of view of the frames": f"{clip.fov:.1f} degrees",
    }
    table = "".join(
        f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows.items()
    )
    warnings = "".join(f"<li>{escape(text)}</li>" for text in clip.warnings) or "<li>none</li>"
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{escape(name)}</title>
<style>body {{ font: 15px sans-serif; max-width: 60em; margin: 2em auto }}
th {{ text-align: left; padding-right: 2em }} img, video {{ max-width: 100% }}</style>
<h1>{escape(name)}</h1>
<table>{table}</table>
<h2>Warnings</h2><ul>{warnings}</ul>
<h2>The film with its keys</h2>
<p>Green: down. Amber: uncertain.</p>
<video src="overlay.mp4" controls></video>
<h2>Shares</h2><img src="shares.png" alt="shares of the actions">
<h2>Motion over {clip.motion.span} frames and both thresholds</h2>
<img src="thresholds.png" alt="histograms with thresholds">
<h2>Path from above</h2><img src="path.png" alt="path from above">
</html>
"""


def _in_strides(thresholds: Thresholds, unit: float) -> str:
    unit = unit or 1.0
    return f"{max(0.0, thresholds.low) / unit:.2f} and {thresholds.high / unit:.2f}"
