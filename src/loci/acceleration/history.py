"""What a policy remembers of the velocities that were computed."""

from collections.abc import Mapping

from loci.acceleration.forecast import Forecast, Sample
from loci.flow.policy import State


class History:
    """The latest samples of every named tensor, and what each tensor's forecast makes of them.

    Args:
        forecasts: by name of tensor.
        other: the forecast of every tensor that is not named.
    """

    def __init__(self, other: Forecast, forecasts: Mapping[str, Forecast] | None = None) -> None:
        self.other, self.forecasts = other, dict(forecasts or {})
        self.positions: list[float] = []
        self._velocities: list[State] = []
        self.reach = max(f.reach for f in (other, *self.forecasts.values()))

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def latest(self) -> State:
        """The velocity computed last."""
        return self._velocities[-1]

    def add(self, position: float, velocity: State) -> None:
        self.positions = [*self.positions, position][-self.reach :]
        self._velocities = [*self._velocities, velocity][-self.reach :]

    def forget(self) -> None:
        self.positions, self._velocities = [], []

    def forecast(self, at: float) -> State:
        """The velocity of every tensor at a position; at least one was added before."""
        return {
            name: self.forecasts.get(name, self.other)(
                [Sample(p, v[name]) for p, v in zip(self.positions, self._velocities, strict=True)],
                at,
            )
            for name in self.latest
        }
