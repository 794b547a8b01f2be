"""Labels in three states: no-op, a direction, or uncertain (Infinite-World, arXiv 2602.02393).

Each channel, move and view, has two thresholds. Motion below the first is no-op, above the second
it has one of eight directions, and between them it is uncertain. The thresholds lie either side of
a middle threshold, as far apart as the clip's own noise demands. A direction must also lead its
neighbours: motion too close to the border between two sectors is uncertain as well.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from loci.actions import UNCERTAIN
from loci.labels.motion import Motion

SHARE_OF_STRIDE = 0.5
"""The middle threshold, as a share of the clip's stride: nearer to a stride than to none."""
MIN_TURN = 4.0
"""Degrees per second below which a turn never counts."""
DEVIATIONS = 2.0
"""Thresholds lie this many standard deviations either side of the middle one."""
SECTOR = np.pi / 4
# By sectors of 45 degrees from forward (or up) to the right.
_DIRECTIONS = np.array([1, 6, 4, 8, 2, 7, 3, 5])


@dataclass(frozen=True)
class Thresholds:
    """Of one channel, for motion over a span: in units of the poses, or in degrees.

    `low` and `high` are the medians of tau_1 and tau_2 over the clip's frames.
    """

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Labels:
    """Labels of the steps of a clip.

    Attributes:
        ids: move and view ids as in `loci.actions`.
        move, view: their thresholds.
        stride: how far a moving step moves, in units of the poses (the median); 0 where none does.
        turn: how far a turning step turns, in degrees.
    """

    ids: Int[np.ndarray, "n 2"]
    move: Thresholds
    view: Thresholds
    stride: float
    turn: float

    @property
    def certain(self) -> Bool[np.ndarray, "n 2"]:
        return self.ids != UNCERTAIN


def label_motion(
    motion: Motion, deviations: float = DEVIATIONS, share: float = SHARE_OF_STRIDE
) -> Labels:
    """Labels of every step; where the motion is not known, both channels are uncertain."""
    stride = typical(motion.move, motion.move_sigma, motion.known)
    floor = MIN_TURN * motion.span / motion.fps
    turn = typical(motion.view, np.maximum(motion.view_sigma, floor / 3), motion.known)
    threshold = share * stride, max(share * turn, floor)
    move, move_range = label_channel(motion.move, threshold[0], motion.move_sigma, deviations)
    view, view_range = label_channel(motion.view, threshold[1], motion.view_sigma, deviations)
    ids = np.column_stack([move, view])
    ids[~motion.known] = UNCERTAIN
    return Labels(ids, move_range, view_range, stride / motion.span, turn / motion.span)


def typical(
    motion: Float[np.ndarray, "n 2"],
    sigma: Float[np.ndarray, "n"],
    known: Bool[np.ndarray, "n"],
) -> float:
    """The median size of the motion where there is any: of more than three standard deviations,
    and more than a fifth of what fast steps show. 0 where there is none."""
    size = np.hypot(*motion.T)[known]
    if not len(size):
        return 0.0
    fast = np.quantile(size, 0.9)
    seen = size > np.maximum(3 * sigma[known], 0.2 * fast)
    # A few steps above the noise are no motion.
    return float(np.median(size[seen])) if seen.sum() >= max(3, 0.02 * len(size)) else 0.0


def label_channel(
    motion: Float[np.ndarray, "n 2"],
    threshold: float,
    sigma: Float[np.ndarray, "n"],
    deviations: float,
) -> tuple[Int[np.ndarray, "n"], Thresholds]:
    """Ids of one channel, and its thresholds.

    Args:
        motion: forward and right, or up and right.
        threshold: the size at which motion begins to count.
        sigma: standard deviation of either component.
        deviations: how sure a label must be.
    """
    size = np.hypot(*motion.T)
    low, high = threshold - deviations * sigma, threshold + deviations * sigma
    ids = np.full(len(size), UNCERTAIN)
    ids[size < low] = 0
    angle = np.arctan2(motion[:, 1], motion[:, 0])
    sector = np.rint(angle / SECTOR)
    to_border = SECTOR / 2 - np.abs(angle - sector * SECTOR)
    leads = size * np.sin(to_border) > deviations * sigma
    moving = (size > high) & leads if threshold > 0 else np.zeros(len(size), bool)
    ids[moving] = _DIRECTIONS[sector[moving].astype(int) % 8]
    if threshold <= 0:  # nothing in the clip stands out from the noise
        ids[:] = 0
    return ids, Thresholds(threshold, float(np.median(low)), float(np.median(high)))


def true_ids(motion: Float[np.ndarray, "n 2"], threshold: float) -> Int[np.ndarray, "n"]:
    """What noiseless motion would be called, with a single threshold."""
    return label_channel(motion, threshold, np.zeros(len(motion)), 0.0)[0]
