import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loci.actions import (
    MOVES,
    VIEWS,
    Action,
    check_known,
    describe,
    parse_keys,
    read_actions,
    to_ids,
)
from loci.errors import LociError

actions = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60)


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_names_are_the_published_ones_in_order() -> None:
    assert len(MOVES) == len(VIEWS) == 10
    assert (MOVES[0], MOVES[3], MOVES[7]) == ("no-op", "go left", "go back and go left")
    assert (VIEWS[1], VIEWS[4], VIEWS[6]) == ("turn up", "turn right", "turn up and turn right")
    assert MOVES[9] == VIEWS[9] == "uncertain"


@given(actions)
def test_keys_round_trip(listed: list[tuple[int, int]]) -> None:
    assert parse_keys(describe(listed)).tolist() == [list(action) for action in listed]


@given(actions)
def test_names_round_trip(listed: list[tuple[int, int]]) -> None:
    import tempfile

    entries = [{"move": MOVES[move], "view": VIEWS[view]} for move, view in listed]
    with tempfile.TemporaryDirectory() as folder:
        read = read_actions(write(Path(folder) / "actions.json", entries))
    assert read.dtype == np.int64
    assert read.tolist() == [list(action) for action in listed]


def test_keys_mean_what_they_say() -> None:
    names = [(MOVES[m], VIEWS[v]) for m, v in parse_keys("w*2 s a d aw j . ?~ il")]
    assert names == [
        ("go forward", "no-op"),
        ("go forward", "no-op"),
        ("go back", "no-op"),
        ("go left", "no-op"),
        ("go right", "no-op"),
        ("go forward and go left", "no-op"),
        ("no-op", "turn left"),
        ("no-op", "no-op"),
        ("uncertain", "uncertain"),
        ("no-op", "turn up and turn right"),
    ]


def test_describe_joins_runs() -> None:
    assert describe([Action(1), Action(1), Action(), Action(5, 3)]) == "w*2 . waj"


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("ws", "'ws'"),
        ("jl", "'jl'"),
        ("ww", "'ww'"),
        ("w?", "'w?'"),
        (".w", "'.'"),
        ("w*0", "'w*0'"),
        ("w*", "'w*'"),
        ("*4", "'*4'"),
        ("w*-3", "'w*-3'"),
        ("w*2*2", "'w*2*2'"),
        ("q*4", "'q'"),
        ("W", "'W'"),
        ("w*1000001", "1000001 frames"),
    ],
)
def test_bad_keys_are_named(keys: str, named: str) -> None:
    with pytest.raises(LociError, match="--keys") as caught:
        parse_keys(keys)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([], "an empty list"),
        ({"move": "no-op", "view": "no-op"}, "dict, expected a list"),
        (["no-op"], "entry 0 is not"),
        ([{"move": "no-op"}], "entry 0 is not"),
        ([{"move": "no-op", "view": "no-op"}, {"move": 1, "view": "no-op"}], "entry 1"),
        (
            [{"move": "no-op", "view": "turn around"}],
            "'turn around', expected one of: no-op, turn up",
        ),
        ([{"move": ["go", "left"], "view": "no-op"}], "unknown move"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: Any, said: str) -> None:
    path = write(tmp_path / "actions.json", content)
    with pytest.raises(LociError) as caught:
        read_actions(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LociError, match="nowhere.json"):
        read_actions(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "wrong", [[], [[1, 2, 3]], [1, 2], [[0.5, 1.0]], [[0, 10]], [[-1, 0]], [["w", "a"]]]
)
def test_ids_are_checked(wrong: Any) -> None:
    with pytest.raises(LociError, match="actions"):
        to_ids(wrong)


def test_ids_from_actions() -> None:
    ids = to_ids([Action(move=1, view=3), Action()])
    assert ids.dtype == np.int64
    assert ids.tolist() == [[1, 3], [0, 0]]
    assert to_ids(np.ones((4, 2), np.int32)).dtype == np.int64


def test_keys_are_actions_too() -> None:
    assert np.array_equal(to_ids("w*2 wj"), [(1, 0), (1, 0), (1, 3)])
    with pytest.raises(LociError, match="'x'"):
        to_ids("w x")


def test_pose_strings_are_keys() -> None:
    assert np.array_equal(parse_keys("w-31"), parse_keys("w*31"))
    expected = parse_keys("w*3 l*8 j i*2 k s*4")
    assert np.array_equal(parse_keys("w-3, right-8,left, up-2 down,s-4"), expected)
    for wrong in ("w--3", "w-", "w-0.5", "right*", "leftw-3", ","):
        with pytest.raises(LociError, match="--keys"):
            parse_keys(wrong)


def test_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"move": "go back", "view": "no-op"}]', encoding="utf-8-sig")
    assert read_actions(path).tolist() == [[2, 0]]


def test_camera_poses_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"0": {"extrinsic": [[1]], "K": [[1]]}}')
    with pytest.raises(
        LociError, match="a.json: camera poses, which are not read, expected a list"
    ):
        read_actions(tmp_path / "a.json")


def test_what_a_model_does_not_know_is_named_with_its_frame_and_key() -> None:
    moves, views = (0, 1, 2), (0, 3, 4)
    check_known(parse_keys("w*3 s j l ."), moves, views)
    check_known(parse_keys("?~"), (), ())
    with pytest.raises(LociError) as caught:
        check_known(parse_keys("w*16 i*8"), moves, views, "--keys")
    assert str(caught.value) == (
        "--keys: frame 17 has the view 'turn up' (i), but the model knows only: no-op, "
        "turn left (j), turn right (l)"
    )
    with pytest.raises(LociError, match=r"frame 2 has the move 'uncertain' \(\?\)"):
        check_known(parse_keys("w ?"), moves, views)
