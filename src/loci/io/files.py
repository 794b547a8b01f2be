"""Files and folders are written whole or not at all.

What is being written is a draft beside its target, `.NAME.MACHINE.PROCESS-ID.RANDOM.part`. What a
killed process left behind is removed by a later writer of the same target, and a folder that it had
set aside (`.old`) to replace it is put back.
"""

import errno
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loci.errors import LociError

# Writing to an open file fails with one of these, without the name of the file.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


MAX_NAME = 200
"""Characters of a file's name that messages show."""


def shown(path: object) -> str:
    """A path for a message: on one line, truncated to 200 characters."""
    text = " ".join(str(path).split())
    return text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}..."


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A draft to write to, which becomes `path` when the block ends well.

    When the block raises, the draft is removed and an older `path` stays as it was.

    Raises:
        LociError: when a file cannot be written there, also when the disk is full.
    """
    draft = _touch_draft(Path(path))
    try:
        with _writing(path, draft):
            yield draft
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file all or nothing, making its folder if need be.

    Raises:
        LociError: when it cannot be written.
    """
    make_folder(path.parent, path)
    with replacing(path) as draft:
        draft.write_bytes(content)


def check_writable(path: str | Path) -> None:
    """Asks, before long work, whether its result can be written to `path`.

    Raises:
        LociError: when a file cannot be written there.
    """
    _touch_draft(Path(path)).unlink()


@contextmanager
def replacing_folder(
    path: str | Path, replaceable: Callable[[str], bool] = lambda name: False
) -> Iterator[Path]:
    """A new folder to fill, which becomes `path` when the block ends well.

    When the block raises, nothing of it is left, and what stood at `path` stays as it was.

    Args:
        path: a folder that does not exist, is empty, or holds nothing but what may be replaced.
        replaceable: whether an entry of that name in it may go.

    Raises:
        LociError: when something else is there, or it cannot be written, also when the disk is
            full.
    """
    _sweep(Path(os.path.realpath(path)))
    target = check_folder(path, replaceable)
    draft, old = _draft_name(target, "part"), _draft_name(target, "old")
    new_parents = [folder for folder in draft.parents if not folder.exists()]
    try:
        make_folder(draft, path)
        with _writing(path, draft):
            yield draft
            if target.exists():
                os.replace(target, old)
            os.replace(draft, target)
    except LociError as error:
        if str(draft) not in str(error):
            raise
        raise LociError(str(error).replace(str(draft), str(path))) from error
    finally:
        if old.exists() and not target.exists():
            os.replace(old, target)
        for left in (draft, old):
            shutil.rmtree(left, ignore_errors=True)
        for folder in new_parents:
            with suppress(OSError):  # only those that are still empty
                folder.rmdir()


def free_space(path: str | Path) -> int:
    """Bytes that are free on the disk where `path` is or will be."""
    folder = Path(path).absolute()
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free


def check_space(path: str | Path, needed: int) -> None:
    """Raises LociError where so many bytes do not fit on the disk."""
    free = free_space(path)
    if free < needed:
        raise LociError(
            f"{path}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on that disk"
        )


def check_folder(path: str | Path, replaceable: Callable[[str], bool]) -> Path:
    """The real path of a folder that `replacing_folder` may replace.

    Raises:
        LociError: when it is a file, or holds anything else.
    """
    target = Path(os.path.realpath(path))
    if not target.exists():
        return target
    if not target.is_dir():
        raise LociError(f"{path}: is a file, expected the name of a folder")
    others = [entry.name for entry in target.iterdir() if not replaceable(entry.name)]
    if others:
        raise LociError(f"{path}: holds {others[0]} already, expected the name of a new folder")
    return target


def check_folder_writable(
    path: str | Path, replaceable: Callable[[str], bool] = lambda name: False
) -> None:
    """Asks, before long work, whether `replacing_folder` could write `path`.

    Raises:
        LociError: when it could not.
    """
    with suppress(_Unused), replacing_folder(path, replaceable):
        raise _Unused


class _Unused(Exception):
    """Ends a draft that was only made to see whether it can be."""


@contextmanager
def _writing(path: str | Path, draft: Path) -> Iterator[None]:
    """Errors of the system about the draft, or of a disk that is not named, are about `path`."""
    try:
        yield
    except OSError as error:
        named = error.filename
        ours = named is not None and (str(named).startswith(str(draft)) or str(named) == str(path))
        if ours or (named is None and error.errno in _DISK_ERRORS):
            raise LociError(f"{path}: cannot be written ({error.strerror})") from error
        raise


def make_folder(folder: Path, path: str | Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LociError(f"{path}: cannot be written ({error.strerror})") from error


def _touch_draft(path: Path) -> Path:
    if path.is_dir():
        raise LociError(f"{path}: is a folder, expected the name of a file to write")
    _sweep(path)
    draft = _draft_name(path, "part")
    try:
        draft.touch()
    except OSError as error:
        raise LociError(f"{path}: cannot be written ({error.strerror})") from error
    return draft


def _draft_name(path: Path, end: str) -> Path:
    """A name that no other thread and no other process has."""
    unique = f"{_machine()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    return path.with_name(f".{path.name}.{unique}.{end}")


def _machine() -> str:
    """A name of this machine, for files on shared disks: process ids mean nothing elsewhere."""
    return re.sub(r"[^0-9A-Za-z-]", "-", platform.node())[:32] or "machine"


def _sweep(path: Path) -> None:
    """Removes drafts of `path` whose process does not run any more, and puts an older `path` back
    that such a process had set aside and not replaced."""
    pattern = re.compile(
        rf"\.{re.escape(path.name)}\.(?:([0-9A-Za-z-]+)\.)?(\d+)(?:\.[0-9a-f]{{8}})?\.(part|old)"
    )
    try:
        names = os.listdir(path.parent)
    except OSError:
        return
    for name in names:
        match, left = pattern.fullmatch(name), path.with_name(name)
        if match is None or not _is_gone(left, match[1], int(match[2])):
            continue
        if match[3] == "old" and not path.exists():
            with suppress(OSError):
                os.replace(left, path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(OSError):
                left.unlink()


def _is_gone(draft: Path, machine: str | None, process: int) -> bool:
    """Whether the process that wrote a draft does not run any more.

    On a shared disk it may run on another machine: its draft is left for an hour.
    """
    if machine == _machine():
        return not _runs(process)
    return _is_old(draft) and (machine is not None or not _runs(process))


def _is_old(path: Path) -> bool:
    """Whether it was not written to for an hour."""
    try:
        return time.time() - path.stat().st_mtime > 3600
    except OSError:
        return False


def is_running(process: str) -> bool:
    """Whether another process of this machine has that id."""
    return process.strip().isdigit() and int(process) != os.getpid() and _runs(int(process))


def _runs(process: int) -> bool:
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
