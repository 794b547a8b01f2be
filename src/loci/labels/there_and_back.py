"""A labelled film played forward and backward: every view of it comes again, at its own pose."""

from dataclasses import replace

import numpy as np
from jaxtyping import Int

from loci.labels.clip import LabelledClip
from loci.labels.motion import planar_increments

OPPOSITE = np.array([0, 2, 1, 4, 3, 8, 7, 6, 5, 9])
"""The id of the opposite motion, of moves and of views; of "uncertain" itself."""


def there_and_back(clip: LabelledClip, trips: int) -> LabelledClip:
    """The clip with each of its runs played to the end and back to its first frame, `trips` times.

    Frames, poses and cameras repeat as they are, so that poses on the way back are exactly those on
    the way there. Steps back have the opposite actions and increments. `times` are those of the
    frames in the film; `labels`, `motion` and `warnings` stay those of the film played once.

    Args:
        clip: of n frames.
        trips: how many times there and back; at least 1.

    Returns:
        a clip of `2 trips (m - 1) + 1` frames for every run of m.
    """
    order, runs = [], []
    for begin, end in zip(clip.runs, [*clip.runs[1:], len(clip.frames)], strict=True):
        runs.append(len(order))
        trip = [*range(begin, end - 1), *range(end - 1, begin, -1)]
        order += [*trip * trips, begin]
    return _reordered(clip, np.array(order), tuple(runs))


def _reordered(
    clip: LabelledClip, order: Int[np.ndarray, "n"], runs: tuple[int, ...]
) -> LabelledClip:
    """The frames in another order; within a run, each is followed by a neighbour of it."""
    back = np.diff(order) < 0
    step = np.minimum(order[:-1], order[1:])
    cuts = np.array(runs[1:], int) - 1
    step[cuts], back[cuts] = order[cuts + 1] - 1, False
    actions = np.full((len(order), 2), clip.actions[-1])
    actions[:-1] = np.where(back[:, None], OPPOSITE[clip.actions[step]], clip.actions[step])
    poses = clip.poses[order]
    increments = planar_increments(poses)
    increments[cuts] = clip.increments[step[cuts]]
    return replace(
        clip,
        frames=clip.frames[order],
        actions=actions,
        poses=poses,
        cameras=clip.cameras[order],
        increments=increments,
        covariance=clip.covariance[step],
        certain=np.vstack([clip.certain[step], clip.certain[-1:]]),
        runs=runs,
        times=clip.times[order],
    )
