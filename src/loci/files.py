"""Files are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loci.errors import LociError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary sibling to write to, which becomes `path` when the block ends well.

    When the block raises, the sibling is removed and an older `path` stays as it was.

    Raises:
        LociError: when a file cannot be written there.
    """
    sibling = _touch_sibling(Path(path))
    try:
        yield sibling
        os.replace(sibling, path)
    finally:
        sibling.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Asks, before long work, whether its result can be written to `path`.

    Raises:
        LociError: when a file cannot be written there.
    """
    _touch_sibling(Path(path)).unlink()


def _touch_sibling(path: Path) -> Path:
    if path.is_dir():
        raise LociError(f"{path}: is a folder, expected the name of a file to write")
    sibling = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        sibling.touch()
    except OSError as error:
        raise LociError(f"{path}: cannot be written ({error.strerror})") from error
    return sibling
