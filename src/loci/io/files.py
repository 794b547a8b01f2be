"""Files and folders are written whole or not at all."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def replacing_folder(
    path: str | Path, replaceable: Callable[[str], bool] = lambda name: False
) -> Iterator[Path]:
    """A new folder to fill, which becomes `path` when the block ends well.

    When the block raises, nothing of it is left, and what stood at `path` stays as it was.

    Args:
        path: a folder that is not there, is empty, or holds nothing but what may be replaced.
        replaceable: whether an entry of that name in it may go.

    Raises:
        LociError: when something else is there, or a folder cannot be made.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise LociError(f"{path}: is a file, expected the name of a folder")
    kept = [e.name for e in target.iterdir() if not replaceable(e.name)] if target.exists() else []
    if kept:
        raise LociError(f"{path}: holds {kept[0]} already, expected the name of a new folder")
    draft, old = (
        target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("part", "old")
    )
    made = [folder for folder in draft.parents if not folder.exists()]
    try:
        with _writing(path):
            draft.mkdir(parents=True)
        yield draft
        with _writing(path):
            if target.exists():
                os.replace(target, old)
            os.replace(draft, target)
    finally:
        if old.exists() and not target.exists():
            os.replace(old, target)
        for left in (draft, old):
            shutil.rmtree(left, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # only those that are still empty
                folder.rmdir()


@contextmanager
def _writing(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LociError(f"{path}: cannot be written ({error.strerror})") from error


def _touch_sibling(path: Path) -> Path:
    if path.is_dir():
        raise LociError(f"{path}: is a folder, expected the name of a file to write")
    sibling = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        sibling.touch()
    except OSError as error:
        raise LociError(f"{path}: cannot be written ({error.strerror})") from error
    return sibling
