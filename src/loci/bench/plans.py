"""How much `loci bench memory` and `loci bench objects` measure."""

from dataclasses import dataclass, field

from loci.data.doom_steps import FULL_TURN
from loci.errors import LociError


@dataclass(frozen=True)
class DriftPlan:
    """A free walk, and which of its frames (first and last) count as early and as late.

    Both have the same number of frames. The walk is out and back, so the late frames ought to show
    the places of the early ones. `still` frames are generated standing still.
    """

    frames: int = 1024
    early: tuple[int, int] = (50, 174)
    late: tuple[int, int] = (900, 1024)
    still: int = 200


@dataclass(frozen=True)
class MemoryPlan:
    """Lengths of the trials in actions, and how many held-out maps they go through.

    Raises:
        LociError: when there is none, or a length leaves nothing to see again after a full turn.
    """

    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    maps: int = 3
    drift: DriftPlan = field(default_factory=DriftPlan)

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) <= FULL_TURN:
            text = " ".join(map(str, self.lengths)) or "none"
            raise LociError(f"--lengths: {text}, expected more than {FULL_TURN} actions each")
        if self.maps < 1:
            raise LociError(f"--maps: {self.maps}, expected at least 1")


QUICK = MemoryPlan(
    lengths=(64, 128),
    maps=2,
    drift=DriftPlan(frames=192, early=(16, 79), late=(129, 192), still=48),
)


@dataclass(frozen=True)
class ObjectPlan:
    """How many held-out objects (None: all of them), how many views of each that were not shown are
    compared, and how many views of every training object are there to be retrieved."""

    objects: int | None = None
    views: int = 4
    retrievable: int = 16


QUICK_OBJECTS = ObjectPlan(objects=12, views=2, retrievable=2)


@dataclass(frozen=True)
class SpeedPlan:
    """How many held-out objects every method lifts (None: all of them), how many views of each that
    were not shown are compared, and on how many objects the error budget is tried."""

    objects: int | None = 32
    views: int = 4
    budget: int = 12


QUICK_SPEED = SpeedPlan(objects=2, views=2, budget=2)
