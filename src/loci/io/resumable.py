"""A folder of large files that is written in several goes.

What is being written lies beside its target as `.NAME.unfinished`. A run that is stopped or killed
leaves its finished files there, and the next one goes on with them; an error leaves nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor

from loci.errors import LociError
from loci.io.config_files import read_json
from loci.io.files import check_folder, is_running, make_folder
from loci.io.tensor_files import MappedRanges, give_back, safetensors_infos, write_safetensors
from loci.io.weight_checks import is_finite
from loci.io.weights import infos_of

SOURCES, OWNER = ".sources.json", ".process"


class UnfinishedFolder:
    """The draft of a folder; files in it that are finished are not written again.

    Args:
        folder: the draft.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(
        self,
        name: Path | str,
        tensors: Mapping[str, Tensor],
        source: Path,
        progress: Callable[[int], None] = lambda count: None,
    ) -> bool:
        """Writes a safetensors file of finite tensors, unless it is there: made of the same source,
        with the same tensors.

        Args:
            name: of the file, within the folder.
            tensors: its content.
            source: the file that they come from.
            progress: called with the bytes written, or found.

        Returns:
            Whether it was there.

        Raises:
            LociError: naming the first tensor that holds infinities or NaN.
        """
        path, made_of = self.folder / name, _identity(source)
        sources = self._sources()
        if sources.get(str(name)) == made_of and path.is_file():
            with suppress(LociError):
                if safetensors_infos(path) == infos_of(tensors):
                    progress(sum(info.bytes for info in infos_of(tensors).values()))
                    return True
        save_finite(path, tensors, str(source), progress)
        sources[str(name)] = made_of
        (self.folder / SOURCES).write_text(json.dumps(sources))
        return False

    def _sources(self) -> dict[str, list[object]]:
        try:
            found = read_json(self.folder / SOURCES)
        except LociError:
            return {}
        return found if isinstance(found, dict) else {}


@contextmanager
def unfinished_folder(path: str | Path) -> Iterator[UnfinishedFolder]:
    """The draft of `path`, new or left by a run that was stopped, which becomes `path` when the
    block ends well. An error removes it; Ctrl-C and a kill leave what is finished.

    Raises:
        LociError: when `path` holds anything, when another process is writing it, or when it cannot
            be written.
    """
    target = check_folder(path, lambda name: False)
    draft = target.with_name(f".{target.name}.unfinished")
    owner = draft / OWNER
    if owner.is_file() and is_running(owner.read_text()):
        raise LociError(f"{path}: is being written by another process ({owner.read_text()})")
    try:
        make_folder(draft, path)
        owner.write_text(str(os.getpid()))
        yield UnfinishedFolder(draft)
        for left in (draft / SOURCES, owner):
            left.unlink(missing_ok=True)
        if target.exists():
            target.rmdir()
        os.replace(draft, target)
    except OSError as error:
        raise LociError(f"{path}: cannot be written ({error.strerror})") from error
    except Exception:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _identity(source: Path) -> list[object]:
    """What tells a file from a changed one; of shards, their index."""
    index = source.with_name(f"{source.name}.index.json")
    path = source if source.exists() or not index.exists() else index
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def save_finite(
    path: Path, tensors: Mapping[str, Tensor], what: str, progress: Callable[[int], None]
) -> None:
    """Writes a safetensors file of tensors as they are, and searches each for infinities and NaN.

    Raises:
        LociError: naming the first tensor that holds any; `what` names the weights.
    """

    ranges, written = MappedRanges(), list[Tensor]()

    def checked(name: str) -> Tensor:
        give_back(written)  # so that memory holds one tensor of a mapped file, not all
        tensor = tensors[name]
        written[:] = [tensor.detach()] if ranges.holds(tensor) else []
        if not is_finite(tensor):
            raise LociError(f"{what}: weights are damaged, not finite: {name}")
        return tensor

    write_safetensors(path, infos_of(tensors), checked, progress)
    give_back(written)
