import math

import pytest
import torch

from loci.actions.reckoning import Stride, reckon
from loci.actions.vocabulary import parse_keys

STRIDE = Stride(turn=math.radians(7.5), move=0.25)


def walked(keys: str) -> torch.Tensor:
    move, view = torch.from_numpy(parse_keys(keys))[None].unbind(-1)
    return reckon(torch.zeros(1, 3), move, view, STRIDE)[0]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("w*4", (0, 1, 0)),
        ("s*4", (0, -1, 0)),
        ("a*4", (0, 0, 1)),
        ("d*4", (0, 0, -1)),
        ("wa*4", (0, math.sqrt(0.5), math.sqrt(0.5))),
        ("sd*4", (0, -math.sqrt(0.5), -math.sqrt(0.5))),
        ("j*12", (math.pi / 2, 0, 0)),
        ("l*12", (-math.pi / 2, 0, 0)),
        ("j*12 w*4", (math.pi / 2, 0, 1)),
        ("i*7 .*3", (0, 0, 0)),
    ],
)
def test_where_the_keys_lead(keys: str, expected: tuple[float, float, float]) -> None:
    assert walked(keys)[-1].tolist() == pytest.approx(expected, abs=1e-12)


def test_a_spin_and_a_circle_end_where_they_began() -> None:
    for keys in ("j*48", "wj*48", "dl*48", "w*30 l*24 w*30 l*24"):
        heading, x, y = walked(keys)[-1].tolist()
        assert math.cos(heading) == pytest.approx(1)
        assert (x, y) == pytest.approx((0, 0), abs=1e-9)


def test_an_action_turns_before_it_moves() -> None:
    heading, x, y = walked("wj")[0].tolist()
    assert heading == pytest.approx(STRIDE.turn)
    assert (x, y) == pytest.approx((0.25 * math.cos(heading), 0.25 * math.sin(heading)))


def test_reckoning_in_pieces_is_reckoning_at_once() -> None:
    move, view = torch.from_numpy(parse_keys("w*5 j*9 wa*7 l*3 s*2"))[None].unbind(-1)
    whole = reckon(torch.zeros(1, 3), move, view, STRIDE)
    first = reckon(torch.zeros(1, 3), move[:, :11], view[:, :11], STRIDE)
    second = reckon(first[:, -1], move[:, 11:], view[:, 11:], STRIDE)
    assert torch.allclose(torch.cat([first, second], dim=1), whole, atol=1e-12)
