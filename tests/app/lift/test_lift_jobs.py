"""A batch is read from a folder or a list, and what is wrong with it is named."""

from pathlib import Path

import pytest
from PIL import Image

from loci.app.lift.lift_jobs import find_jobs
from loci.errors import LociError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(*names: str, mode: str = "RGB") -> None:
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        Image.new(mode, (4, 4)).save(name)


def test_a_folder_has_pictures_with_masks_geometry_or_transparency() -> None:
    save("in/b.jpg", "in/b_mask.png", "in/b_mask_2.png", "in/b_depth.png", "in/a.png", "in/x.png")
    save("in/a_mask.png")
    save("in/clear.png", mode="RGBA")
    jobs = {job.name: job.options for job in find_jobs(Path("in"))}
    assert list(jobs) == ["a", "b", "clear"]
    assert jobs["b"] == {
        "picture": Path("in/b.jpg"),
        "mask": (Path("in/b_mask.png"), Path("in/b_mask_2.png")),
        "pointmap": Path("in/b_depth.png"),
    }
    assert jobs["clear"]["mask"] == ()


def test_lists_are_relative_to_their_folder() -> None:
    Path("lists").mkdir()
    Path("lists/a.csv").write_text('one.png, m.png ,"n, o.png"\n\n/abs/two.jpg\tm.png\n')
    one, two = find_jobs(Path("lists/a.csv"))
    assert one == (
        "one",
        {"picture": Path("lists/one.png"), "mask": (Path("lists/m.png"), Path("lists/n, o.png"))},
    )
    assert two.options == {"picture": Path("/abs/two.jpg"), "mask": (Path("lists/m.png"),)}
    Path("lists/b.jsonl").write_text(
        '{"picture": "p.png", "box": [1, 2, 3, 4], "fov": 50, "out": "chair"}\n'
        '{"picture": "p.png", "point": [[1, 2], [3, 4]], "intrinsics": [9, 9, 2, 2]}\n'
        '{"picture": "q.png", "mask": "m.png", "label": 3, "pointmap": "d.npy",'
        ' "intrinsics": "k.txt"}'
    )
    boxed, clicked, labelled = find_jobs(Path("lists/b.jsonl"))
    assert boxed == ("chair", {"picture": Path("lists/p.png"), "box": ((1, 2, 3, 4),), "fov": 50.0})
    assert clicked.options["point"] == ((1, 2), (3, 4))
    assert clicked.options["intrinsics"] == ("9.0", "9.0", "2.0", "2.0")
    assert labelled.options["label"] == (3,)
    assert labelled.options["pointmap"] == Path("lists/d.npy")
    assert labelled.options["intrinsics"] == ("lists/k.txt",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "list.jsonl: empty"),
        ("{", "list.jsonl:1: no JSON"),
        ('{"mask": "m.png"}', "list.jsonl:1: no picture"),
        ('\n{"picture": "p.png", "colour": 3}', "list.jsonl:2: colour, expected some of box,"),
        ('{"picture": "p.png", "box": [1, 2]}', "list.jsonl:1: a value of another kind"),
        ('{"picture": "p.png", "box": []}', "list.jsonl:1: a value of another kind"),
        ('{"picture": "p.png", "mask": 3}', "list.jsonl:1: a value of another kind"),
        ('{"picture": "p.png", "out": "../x"}', "out '../x', expected the name of a folder"),
        ('{"picture": "p.png"}\n{"picture": "x/p.jpg"}', "would both be written to p"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(content: str, message: str) -> None:
    Path("list.jsonl").write_text(content)
    with pytest.raises(LociError) as error:
        find_jobs(Path("list.jsonl"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_pairs_or_with_namesakes_is_refused() -> None:
    save("in/a.png")
    with pytest.raises(LociError, match="no NAME.png with NAME_mask.png"):
        find_jobs(Path("in"))
    save("in/a.jpg", "in/a_mask.png")
    with pytest.raises(LociError, match="would both be written to a"):
        find_jobs(Path("in"))
