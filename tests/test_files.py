from pathlib import Path

import pytest

from loci.errors import LociError
from loci.io.files import check_writable, replacing, replacing_folder


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
