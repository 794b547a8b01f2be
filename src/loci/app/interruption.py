"""Ctrl-C between two steps of a long run, never within one."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Within the `with` block Ctrl-C only sets `asked`, except inside `at_once`.

    So what has been generated and what has been written can never differ. It takes the place of
    the process's own handler, hence the main thread only.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at_once = False

    def __enter__(self) -> "Interruption":
        self._handler = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._at_once:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Work without effects, which Ctrl-C may cut short: the block is left where it stands."""
        self._at_once = True
        try:
            yield
        except KeyboardInterrupt:
            pass
        finally:
            self._at_once = False
