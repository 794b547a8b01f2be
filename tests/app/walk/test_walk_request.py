"""What `loci walk` is asked for, before a model is loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loci.actions import DEFAULT_WALK, describe
from loci.app.walk.walk_request import WalkOptions, check_request, choose_actions
from loci.errors import LociError

KEYS = "w*3 wj*4 a*3 s l*3"


def test_the_script_repeats() -> None:
    script = choose_actions(WalkOptions())[1]
    assert len(script) == 512
    assert describe(script) == DEFAULT_WALK
    longer = choose_actions(WalkOptions(frames=700))[1]
    assert np.array_equal(longer[:512], script)
    assert np.array_equal(longer[512:], script[:188])
    assert np.array_equal(choose_actions(WalkOptions(frames=3))[1], script[:3])


def test_frames_cut_the_list() -> None:
    assert len(choose_actions(WalkOptions(keys=KEYS))[1]) == 14
    source, actions = choose_actions(WalkOptions(frames=4, keys=KEYS))
    assert source == "--keys"
    assert actions.tolist() == [[1, 0]] * 3 + [[1, 3]]
    with pytest.raises(LociError, match="14 actions, expected one for each of 15 frames"):
        choose_actions(WalkOptions(frames=15, keys=KEYS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "250x256"}, "--size: 250x256, expected HEIGHTxWIDTH in multiples of 16"),
        ({"size": "256"}, "--size: 256, expected"),
        ({"size": "256x256"}, "makes frames of"),
        ({"steps": 0}, "--steps: 0, expected 1 to 1000"),
    ],
)
def test_sizes_and_steps_are_checked(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LociError, match=message):
        check_request(WalkOptions(**options))
