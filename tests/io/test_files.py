import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loci.errors import LociError
from loci.io.files import (
    check_folder_writable,
    check_writable,
    replacing,
    replacing_folder,
)


def test_the_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_checking_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    check_writable(tmp_path / "a.txt")
    check_writable(tmp_path / "b.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "nowhere" / "a", tmp_path / "file" / "a"):
        with pytest.raises(LociError) as caught:
            check_writable(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with replacing_folder(out) as draft:
        (draft / "a").write_text("a")
        assert not out.exists()
    assert (out / "a").read_text() == "a"
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with pytest.raises(KeyboardInterrupt), replacing_folder(out) as draft:
        (draft / "a").write_text("a")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_only_what_may_go_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(LociError, match="holds old already"), replacing_folder(out):
        pass
    with pytest.raises(ValueError, match="no"), replacing_folder(out, lambda name: True) as draft:
        (draft / "new").touch()
        raise ValueError("no")
    assert [p.name for p in out.iterdir()] == ["old"]
    with replacing_folder(out, lambda name: name == "old") as draft:
        (draft / "new").touch()
    assert [p.name for p in out.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = tmp_path / "file"
    with pytest.raises(LociError, match="is a file, expected the name"), replacing_folder(file):
        pass
    with pytest.raises(LociError, match="cannot be written"), replacing_folder(file / "out"):
        pass


def test_two_threads_may_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_drafts_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    draft = tmp_path / f".a.txt.{gone.pid}.0123abcd.part"
    older = tmp_path / f".a.txt.{gone.pid}.part"
    folder = tmp_path / f".out.{gone.pid}.0123abcd.part"
    running = tmp_path / f".a.txt.{os.getppid()}.0123abcd.part"
    others = tmp_path / f".b.txt.{gone.pid}.0123abcd.part"
    for path in (draft, older, running, others):
        path.touch()
    folder.mkdir()
    check_writable(tmp_path / "a.txt")
    assert set(tmp_path.iterdir()) == {draft, older, folder, running, others}, "of another machine?"
    for path in tmp_path.iterdir():
        os.utime(path, (0, time.time() - 4000))
    check_writable(tmp_path / "a.txt")
    assert set(tmp_path.iterdir()) == {folder, running, others}
    with replacing_folder(tmp_path / "out"):
        assert not folder.exists()


def killed_while_writing(code: str, folder: Path) -> None:
    """A process that is killed in the middle of it."""
    script = f"""
import os, signal
from loci.io.files import replacing, replacing_folder
def kill(): os.kill(os.getpid(), signal.SIGKILL)
{code}
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=folder, check=False)
    assert ended.returncode == -signal.SIGKILL


def test_what_a_kill_leaves_is_gone_after_the_next_run(tmp_path: Path) -> None:
    killed_while_writing("with replacing('a.txt') as part: kill()", tmp_path)
    killed_while_writing("with replacing_folder('out') as draft: kill()", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    check_writable(tmp_path / "a.txt")
    check_folder_writable(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_kill_between_two_renames_does_not_lose_the_older_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "result").write_text("older")
    code = """
rename = os.replace
def once(a, b): rename(a, b); kill()
os.replace = once
with replacing_folder('out', lambda name: True) as draft: (draft / 'result').touch()
"""
    killed_while_writing(code, tmp_path)
    assert not out.exists()
    with pytest.raises(LociError, match="holds result already"):
        check_folder_writable(out)  # back in its place, and so nobody's to replace
    assert (out / "result").read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_drafts_of_other_machines_are_left_for_an_hour(tmp_path: Path) -> None:
    draft = tmp_path / ".a.txt.elsewhere.1.0123abcd.part"
    draft.touch()
    check_writable(tmp_path / "a.txt")
    assert draft.exists()
    os.utime(draft, (0, time.time() - 4000))
    check_writable(tmp_path / "a.txt")
    assert not draft.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_of_the_file_and_not_of_its_draft(tmp_path: Path, number: int) -> None:
    full = OSError(number, os.strerror(number))
    expected = rf"^{re.escape(str(tmp_path / 'a'))}: cannot be written \({os.strerror(number)}\)$"
    with pytest.raises(LociError, match=expected), replacing(tmp_path / "a"):
        raise full
    with pytest.raises(LociError, match=expected), replacing_folder(tmp_path / "a") as draft:
        (draft / "b").touch()
        raise full
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_not_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), replacing(tmp_path / "a"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    with pytest.raises(FileNotFoundError, match="elsewhere"), replacing(tmp_path / "a"):
        (tmp_path / "elsewhere").read_text()


def test_a_folder_is_checked_before_long_work(tmp_path: Path) -> None:
    check_folder_writable(tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").touch()
    with pytest.raises(LociError, match="holds a already"):
        check_folder_writable(tmp_path / "out")
    check_folder_writable(tmp_path / "out", lambda name: name == "a")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a"]


def test_errors_in_a_folder_name_the_folder_and_not_its_draft(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(LociError, match=rf"^{re.escape(str(out))}/a/b: cannot be written"),
        replacing_folder(out) as draft,
        replacing(draft / "a" / "b"),
    ):
        pass
