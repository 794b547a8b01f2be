"""Defers Ctrl-C to the end of a step of a long run."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
"""Ctrl-C, what a cluster sends before it kills, and a terminal that is closed."""


class Interruption:
    """Within the `with` block Ctrl-C only sets `requested`, except inside `interruptible`.

    So what has been generated and what has been written can never differ. The other `SIGNALS`
    are treated as Ctrl-C. It takes the place of the process's own handlers, in the main thread.
    """

    def __init__(self) -> None:
        self.requested = False
        self._interruptible = False

    def __enter__(self) -> "Interruption":
        self._handlers = replace_handlers(self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        restore_handlers(self._handlers)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self._interruptible:
            raise KeyboardInterrupt

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Work without effects, which Ctrl-C may cut short: the block is left where it stands."""
        self._interruptible = True
        try:
            yield
        except KeyboardInterrupt:
            pass
        finally:
            self._interruptible = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Work within `interruptible` that is done whole: Ctrl-C takes effect after it."""
        interruptible, self._interruptible = self._interruptible, False
        try:
            yield
        finally:
            self._interruptible = interruptible
        if self.requested and interruptible:
            raise KeyboardInterrupt


@contextmanager
def signals_as_ctrl_c() -> Iterator[None]:
    """Within the block, every one of `SIGNALS` raises KeyboardInterrupt, so that drafts go."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    handlers = replace_handlers(interrupt)
    try:
        yield
    finally:
        restore_handlers(handlers)


def replace_handlers(handler: Any) -> dict[int, Any]:
    """Handles `SIGNALS`, but for those that are ignored (as by nohup); returns the old handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    old = {number: signal.getsignal(number) for number in SIGNALS}
    return {
        number: signal.signal(number, handler)
        for number in SIGNALS
        if old[number] not in (signal.SIG_IGN, None)
    }


def restore_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
