"""Action ids, their names, their file format and their keyboard notation.

An action is a move and a view, each an id from 0 to 9, named as in Infinite-World
(arXiv 2602.02393). There are three ways to write a list of them, and all become one array of ids
`[n, 2]`, move first:

- ids, `Action`s or keys in Python (`to_ids`),
- the published file, a JSON list of `{"move": name, "view": name}`, one per frame (`read_actions`),
- keys: words such as `w*40 wa*16 .*8`, each a chord held for a number of frames (`parse_keys`).
  The pose strings of other world models, `w-31, right-8`, are read as well.
"""

import json
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loci.errors import LociError

MOVES = (
    "no-op",
    "go forward",
    "go back",
    "go left",
    "go right",
    "go forward and go left",
    "go forward and go right",
    "go back and go left",
    "go back and go right",
    "uncertain",
)
VIEWS = (
    "no-op",
    "turn up",
    "turn down",
    "turn left",
    "turn right",
    "turn up and turn left",
    "turn up and turn right",
    "turn down and turn left",
    "turn down and turn right",
    "uncertain",
)
# The keys of each id: the first hand moves, the second looks. "?" and "~" say that the move or
# the view is not known, "." stands still.
_MOVE_KEYS = ("", "w", "s", "a", "d", "wa", "wd", "sa", "sd", "?")
_VIEW_KEYS = ("", "i", "k", "j", "l", "ij", "il", "kj", "kl", "~")
UNCERTAIN = MOVES.index("uncertain")
_STILL = "."
_POSE_WORDS = {"up": "i", "down": "k", "left": "j", "right": "l"}

KEYS_HELP = (
    "w forward, s back, a left, d right, i look up, k look down, j turn left, l turn right, "
    ". stand still; several make a chord, *N holds it for N frames: w*40 wj*8 .*4"
)
MAX_FRAMES = 1_000_000

DEFAULT_WALK = (
    "j*48 w*24 l*24 w*24 l*24 a*16 d*16 s*16 w*16 l*48 "  # look round, out and back, aside and back
    "wj*48 w*32 j*24 w*32 j*24 dl*48 j*48"  # a circle, out and back, another circle, look round
)
"""What is walked unless told otherwise. With 48 frames to a full turn, as in the shipped world, it
is back at its first pose after 256 frames and after 512."""


class Action(NamedTuple):
    """What the walker does in one frame: an index into `MOVES` and one into `VIEWS`."""

    move: int = 0
    view: int = 0


def to_ids(actions: ArrayLike | Iterable[Action]) -> NDArray[np.int64]:
    """Actions, keys, or anything array-like `[n, 2]` of ids, as a checked int64 array `[n, 2]`.

    Raises:
        LociError: when empty, of another shape or type, or with an id outside 0..9; for keys as
            in `parse_keys`.
    """
    if isinstance(actions, str):
        return parse_keys(actions)
    try:
        listed = actions if hasattr(actions, "__array__") else list(actions)  # type: ignore
        ids = np.asarray(listed)
    except (TypeError, ValueError) as error:
        raise LociError(
            f"actions {actions!r}: expected ids [frames, 2] (move, view), or keys"
        ) from error
    if ids.ndim != 2 or ids.shape[0] == 0 or ids.shape[1] != 2:
        raise LociError(f"actions: shape {list(ids.shape)}, expected [frames > 0, 2] (move, view)")
    if ids.dtype.kind not in "iu":
        raise LociError(f"actions: {ids.dtype} numbers, expected integer ids")
    if ids.min() < 0 or ids.max() >= len(MOVES):
        worst = ids.min() if ids.min() < 0 else ids.max()
        raise LociError(f"actions: id {worst}, expected 0 to {len(MOVES) - 1}")
    return ids.astype(np.int64)


def read_actions(path: str | Path) -> NDArray[np.int64]:
    """Ids `[n, 2]` from a file in the published format.

    Raises:
        LociError: when the file cannot be read, is not JSON, has another shape or an unknown name.
    """
    try:
        listed = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise LociError(f"{path}: cannot read the actions ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise LociError(f"{path}: not JSON ({error}), expected a list of actions") from error
    if not isinstance(listed, list) or not listed:
        what = "an empty list" if listed == [] else type(listed).__name__
        if isinstance(listed, dict) and "extrinsic" in str(listed):
            what = "camera poses, which are not read"
        raise LociError(f'{path}: {what}, expected a list of {{"move": ..., "view": ...}}')
    return np.array([_read_entry(path, i, entry) for i, entry in enumerate(listed)], np.int64)


def _read_entry(path: str | Path, index: int, entry: Any) -> Action:
    if not isinstance(entry, dict) or not {"move", "view"} <= entry.keys():
        raise LociError(f'{path}: entry {index} is not {{"move": ..., "view": ...}}')
    ids = []
    for stream, names in (("move", MOVES), ("view", VIEWS)):
        if entry[stream] not in names:
            allowed = ", ".join(names)
            raise LociError(
                f"{path}: entry {index} has the unknown {stream} {entry[stream]!r}, "
                f"expected one of: {allowed}"
            )
        ids.append(names.index(entry[stream]))
    return Action(*ids)


def parse_keys(keys: str) -> NDArray[np.int64]:
    """Ids `[n, 2]` from words such as `w*40 wj*8 .`; see `KEYS_HELP`.

    Pose strings such as `w-31, right-8` mean the same as `w*31 l*8`: a number is of frames.

    Raises:
        LociError: for an unknown key, opposite or repeated keys in a chord, or a bad count.
    """
    actions: list[Action] = []
    counts: list[int] = []
    for word in keys.replace(",", " ").split():
        match = re.fullmatch(r"([^*-]+)(?:[*-]([0-9]{1,9}))?", word)
        if match is None:
            raise LociError(f"--keys: {word!r}, expected a chord and a count such as w*40")
        chord, count = match.groups()
        actions.append(_parse_chord(_POSE_WORDS.get(chord, chord)))
        counts.append(int(count or 1))
        if counts[-1] < 1:
            raise LociError(f"--keys: {word!r} lasts 0 frames, expected at least 1")
    if not actions:
        raise LociError(f"--keys: empty, expected chords such as w*40; {KEYS_HELP}")
    if sum(counts) > MAX_FRAMES:
        raise LociError(f"--keys: {sum(counts)} frames, expected at most {MAX_FRAMES}")
    return np.repeat(np.array(actions, np.int64), counts, axis=0)


def _parse_chord(chord: str) -> Action:
    if chord == _STILL:
        return Action()
    move = "".join(key for key in chord if key in "wsad?")
    view = "".join(key for key in chord if key in "ikjl~")
    if len(move) + len(view) != len(chord):
        unknown = next(key for key in chord if key not in "wsad?ikjl~")
        raise LociError(f"--keys: unknown {unknown!r} in {chord!r}, expected {KEYS_HELP}")
    found = []
    for pressed, chords in ((move, _MOVE_KEYS), (view, _VIEW_KEYS)):
        ids = [i for i, keys in enumerate(chords) if sorted(keys) == sorted(pressed)]
        if not ids:
            raise LociError(f"--keys: {pressed!r} in {chord!r}, expected keys that are not opposed")
        found.extend(ids)
    return Action(*found)


def check_known(
    actions: NDArray[np.int64], moves: Sequence[int], views: Sequence[int], source: str = "actions"
) -> None:
    """Raises LociError at the first action that a model was not trained on.

    Args:
        actions: ids `[n, 2]`.
        moves: the ids of moves that the model knows; all if empty.
        views: the same of views.
        source: what an error calls the list of actions.
    """
    streams = (("move", MOVES, _MOVE_KEYS, moves), ("view", VIEWS, _VIEW_KEYS, views))
    for column, (stream, names, keys, known) in enumerate(streams):
        unknown = ~np.isin(actions[:, column], known or range(len(names)))
        strange = np.flatnonzero(unknown)
        if len(strange):
            frame, worst = strange[0] + 1, actions[strange[0], column]
            expected = ", ".join(f"{names[i]} ({keys[i]})" if keys[i] else names[i] for i in known)
            raise LociError(
                f"{source}: frame {frame} has the {stream} {names[worst]!r} ({keys[worst]}), but "
                f"the model knows only: {expected}"
            )


def describe(actions: ArrayLike | Iterable[Action]) -> str:
    """The keys that give these actions, runs joined: the inverse of `parse_keys`."""
    words = []
    for (move, view), run in groupby(map(tuple, to_ids(actions).tolist())):
        count = len(list(run))
        chord = _MOVE_KEYS[move] + _VIEW_KEYS[view] or _STILL
        words.append(chord if count == 1 else f"{chord}*{count}")
    return " ".join(words)
