import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loci.actions import UNCERTAIN, parse_keys
from loci.memory.hierarchical import HierarchicalMemory, MemoryConfig
from loci.memory.poses import (
    ActionScale,
    ViewIndex,
    dead_reckon,
    mean_pose,
    panorama_pose,
    relative_poses,
    view_pose,
    with_spread,
)
from loci.memory.schedule import MergeConfig, MergeSchedule, Span, is_cover
from tests.memory.test_hierarchical import CHANNELS, SmallCompressor

STRIDE = ActionScale(turn=math.radians(7.5), move=0.25)


def walked(keys: str) -> torch.Tensor:
    move, view = torch.from_numpy(parse_keys(keys))[None].unbind(-1)
    return dead_reckon(torch.zeros(1, 3), move, view, STRIDE)[0]


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
        *((keys + "*12", (math.pi / 2, 0, 0)) for keys in ("ij", "kj")),
        *((keys + "*12", (-math.pi / 2, 0, 0)) for keys in ("il", "kl")),
        ("wd*4", (0, math.sqrt(0.5), -math.sqrt(0.5))),
        ("sa*4", (0, -math.sqrt(0.5), math.sqrt(0.5))),
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
    whole = dead_reckon(torch.zeros(1, 3), move, view, STRIDE)
    first = dead_reckon(torch.zeros(1, 3), move[:, :11], view[:, :11], STRIDE)
    second = dead_reckon(first[:, -1], move[:, 11:], view[:, 11:], STRIDE)
    assert torch.allclose(torch.cat([first, second], dim=1), whole, atol=1e-12)


def test_an_uncertain_action_is_taken_for_none() -> None:
    ids = torch.full((1, 3), UNCERTAIN)
    nowhere = dead_reckon(torch.zeros(1, 3), ids, ids, STRIDE)
    assert torch.equal(nowhere, torch.zeros(1, 3, 3).double())


def pose(heading: float, x: float = 0.0, y: float = 0.0) -> torch.Tensor:
    return torch.tensor([heading, x, y], dtype=torch.float64)


def test_poses_are_seen_from_the_walker() -> None:
    """Facing north at (1, 2), the point (1, 5) lies three cells ahead."""
    there = relative_poses(pose(math.pi, 1, 5)[None, None], pose(math.pi / 2, 1, 2)[None])
    assert there[0, 0].tolist() == pytest.approx([math.pi / 2, 3, 0], abs=1e-12)


def test_mean_headings_wrap() -> None:
    mean = mean_pose(torch.stack([pose(math.pi - 0.1), pose(-math.pi + 0.1, 2)])[None])
    assert abs(mean[0, 0].item()) == pytest.approx(math.pi)
    assert mean[0, 1].item() == 1
    weighted = mean_pose(torch.stack([pose(0, 0), pose(0, 4)])[None], torch.tensor([3.0, 1.0]))
    assert weighted[0, 1].item() == 1


def test_the_arc_of_a_merged_code_holds_those_of_its_parts() -> None:
    codes = torch.stack([pose(heading, 1) for heading in (0.2, -0.2, 0.2, -0.2)])[None]
    codes = with_spread(codes) + torch.tensor([0, 0, 0, 0.5], dtype=torch.float64)
    assert panorama_pose(codes)[0].tolist() == pytest.approx([0, 1, 0, 0.4 + 0.5])
    spin = torch.stack([pose(k * math.pi / 2) for k in range(4)])[None]
    assert math.pi <= panorama_pose(with_spread(spin))[0, 3] <= math.tau
    assert panorama_pose(with_spread(spin) * 1e3)[0, 3] <= math.tau


def test_a_view_has_no_spread() -> None:
    turning = torch.stack([pose(0.1 * k, k) for k in range(4)])[None]
    assert view_pose(turning)[0].tolist() == pytest.approx([0.15, 1.5, 0, 0])


def test_spread_does_not_depend_on_where_one_looks_from() -> None:
    codes = torch.tensor([[[1.0, 2, 3, 0.7]]], dtype=torch.float64)
    assert relative_poses(codes, pose(0.4, 5, 6)[None])[0, 0, 3] == 0.7


FULL_TURN = 48
CONFIG = MergeConfig(merge_by="views")


def spinning(length: int) -> Tensor:
    """A walker on the spot who goes round in 48 latents."""
    heading = torch.arange(length, dtype=torch.float64) * 2 * math.pi / FULL_TURN
    return torch.stack([heading, torch.zeros(length), torch.zeros(length)], dim=-1)[None]


def wandering(length: int, seed: int, batch: int = 1) -> Tensor:
    """Turns and steps at random."""
    g = torch.Generator().manual_seed(seed)
    turns = torch.randint(-1, 2, (batch, length), generator=g).repeat_interleave(6, dim=1)
    heading = turns[:, :length].cumsum(dim=1) * math.radians(7.5)
    steps = 0.1 * torch.stack([heading.cos(), heading.sin()], dim=-1)
    return torch.cat([heading[..., None], steps.cumsum(dim=1)], dim=-1).double()


def planned(poses: Tensor, config: MergeConfig = CONFIG) -> MergeSchedule:
    return MergeSchedule(config).extend(poses.shape[1], ViewIndex({}, poses, 0))[0]


@pytest.mark.parametrize("length", [400, 1_000])
def test_on_the_spot_a_whole_turn_stays_fine(length: int) -> None:
    """However long it goes on: by age, three or four codes would be left of it."""
    poses = spinning(length)
    fine = [span for span in planned(poses).spans if span.level == 1]
    directions = {(span.start % FULL_TURN) // 4 for span in fine}
    assert len(directions) >= FULL_TURN // 4 - 2
    by_age = MergeSchedule().extend(length)[0].spans
    assert sum(span.level == 1 for span in by_age) < len(directions) - 4


def test_the_older_of_two_sightings_is_kept() -> None:
    spans = planned(spinning(150)).spans
    assert spans[: FULL_TURN // 4] == tuple(Span(1, s, s + 4) for s in range(0, FULL_TURN, 4))


def test_what_was_seen_once_is_kept_while_the_walker_spins() -> None:
    """Half a turn, a step aside and back, then spins: nothing else looks from aside."""
    poses = spinning(112)
    poses[:, 32:48, 1] = 3.0
    spans = planned(poses).spans
    assert Span(2, 32, 48) in MergeSchedule().extend(112)[0].spans
    assert {Span(1, s, s + 4) for s in range(32, 48, 4)} <= set(spans)


@pytest.mark.parametrize("seed", range(3))
def test_every_length_is_covered_within_the_budget(seed: int) -> None:
    poses, plan = wandering(1_000, seed), MergeSchedule(CONFIG)
    views = ViewIndex({}, poses, 0)
    for length in range(1, poses.shape[1] + 1):
        plan, merges = plan.extend(1, views)
        assert is_cover(plan.spans, length)
        assert len(plan.spans) <= CONFIG.budget
        assert not merges
        assert all(span.start % 4**span.level == 0 for span in plan.spans)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(1, 80), min_size=1, max_size=6))
def test_tokens_do_not_depend_on_how_latents_are_handed_over(seed: int, counts: list[int]) -> None:
    memory = HierarchicalMemory(MemoryConfig(CONFIG), SmallCompressor())
    length = sum(counts)
    latents = torch.randn(2, CHANNELS, length, 4, 4).double()
    poses = wandering(length, seed, batch=2)
    once = memory.append(memory.empty(), latents, poses)
    state, at = memory.empty(), 0
    for count in counts:
        state = memory.append(state, latents[:, :, at : at + count], poses[:, at : at + count])
        at += count
    assert state.schedule == once.schedule
    assert torch.allclose(memory.tokens(state).tokens, memory.tokens(once).tokens, atol=1e-5)


def test_a_view_is_unique_where_no_other_was_taken_nearby() -> None:
    """Eight slots that look the same way from beside the origin, at steps of 0.5 and then 1."""
    x = torch.tensor([5.0, 5.5, 6.0, 6.5, 8.0, 9.0, 10.0, 5.0]).repeat_interleave(4)
    poses = torch.stack([torch.zeros(32), x, torch.full((32,), -3.0)], dim=-1)[None].double()
    found = ViewIndex({}, poses, 0).unique([Span(1, s, s + 4) for s in range(0, 32, 4)])
    assert found[0].tolist() == [False, False, True, True]  # of 5.0, 5.5, 6.0, 6.5
    assert found[3].tolist() == [False, True, True, True]  # of 6.5, 8.0, 9.0, 10.0


def test_a_batch_keeps_what_is_new_in_one_of_its_walks() -> None:
    poses = torch.cat([spinning(400), wandering(400, 0)])
    alone, together = planned(poses[:1]), planned(poses)
    assert sum(span.level == 1 for span in alone.spans) >= 12
    assert alone.spans != together.spans


def test_poses_are_needed_where_views_are_followed() -> None:
    memory = HierarchicalMemory(MemoryConfig(CONFIG), SmallCompressor())
    with pytest.raises(ValueError, match="needs all poses"):
        memory.append(memory.empty(), torch.randn(1, CHANNELS, 9, 4, 4).double())
    with pytest.raises(ValueError, match="merges by views"):
        MergeSchedule(CONFIG).extend(1)
    with pytest.raises(ValueError, match="merges by age"):
        MergeSchedule().extend(1, ViewIndex({}, spinning(1), 0))
    with pytest.raises(ValueError, match="neither known nor a slot"):
        ViewIndex({}, spinning(8), 0).unique([Span(2, 0, 16)] * 4)
