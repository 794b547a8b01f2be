"""What went wrong, in words for the user."""


class LociError(Exception):
    """Something the user gave or asked for cannot be done.

    The message is one line that names the thing and says what was expected. The command prints
    it without a traceback and exits with status 2.
    """


def check_seed(seed: int, name: str = "seed") -> int:
    """The seed as an int. Raises LociError, which says `name`, unless every generator of random
    numbers takes it."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= seed < 2**63:
        raise LociError(f"{name}: {seed!r}, expected a whole number from 0 to {2**63 - 1}")
    return int(seed)


def check_tolerance(tolerance: float | None) -> None:
    """Raises LociError unless it is a relative error from 0 to 1, or None."""
    if tolerance is not None and not 0 <= tolerance <= 1:
        raise LociError(f"tolerance: {tolerance:g}, expected a number from 0 on, at most 1")


def install_hint(extra: str) -> str:
    """How to install the packages of an extra, for the end of a message."""
    return f"pip install 'genius-loci[{extra}]'"
