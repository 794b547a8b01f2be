"""What went wrong, in words for the user."""


class LociError(Exception):
    """Something the user gave or asked for cannot be done.

    The message is one line that names the thing and says what was expected. The command prints
    it without a traceback and exits with status 2.
    """
