"""What went wrong, in words for the user."""


class LociError(Exception):
    """Something the user gave or asked for cannot be done.

    The message is one line that names the thing and says what was expected. The command prints
    it without a traceback and exits with status 2.
    """


def check_seed(seed: int) -> None:
    """Raises LociError unless every generator of random numbers takes the seed."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise LociError(f"--seed: {type(seed).__name__}, expected a whole number")
    if not 0 <= seed < 2**63:
        raise LociError(f"--seed: {seed}, expected 0 to {2**63 - 1}")


def check_tolerance(tolerance: float | None) -> None:
    """Raises LociError unless it is a relative error from 0 to 1, or None."""
    if tolerance is not None and not 0 <= tolerance <= 1:
        raise LociError(f"tolerance: {tolerance:g}, expected a number from 0 on, at most 1")
