"""Keyframes: which are chosen, and that a memory with them is still a function of its history."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loci.errors import LociError
from loci.memory.hierarchical import HierarchicalMemory, MemoryConfig
from loci.memory.hpmc import WindowPlan
from loci.memory.keyframes import (
    add_keyframes,
    nearest_keyframes,
    select_keyframes,
    view_distances,
)
from loci.memory.memory_tokens import MemoryTokens
from loci.memory.schedule import MergeConfig, MergeSchedule, Span
from tests.memory.test_hierarchical import (
    WIDTH,
    SmallCompressor,
    by_definition,
    history,
    remember,
    same,
)

CONFIG = MergeConfig(8, 16, keyframes=6)


def views(rows: list[tuple[float, float, float]], first: int = 0) -> MemoryTokens:
    """Memory tokens at (degrees, x, y), whose tokens say which they are."""
    poses = torch.tensor([[math.radians(d), x, y, 0.0] for d, x, y in rows], dtype=torch.float64)
    tokens = torch.arange(first, first + len(rows), dtype=torch.float64).view(1, 1, -1, 1, 1)
    spans = tuple(Span(1, 4 * n, 4 * n + 4) for n in range(first, first + len(rows)))
    return MemoryTokens(tokens, poses[None], spans)


def numbers(held: MemoryTokens) -> list[int]:
    return held.tokens.flatten().int().tolist()


def test_views_that_differ_stay() -> None:
    # Round on the spot, then long in one direction, then elsewhere.
    round_about = [(90.0 * n, 0.0, 0.0) for n in range(4)]
    staring = [(5.0, 0.02 * n, 0.0) for n in range(1, 9)]
    elsewhere = [(5.0, 8.0, 0.0)]
    found = select_keyframes(None, views(round_about + staring + elsewhere), 5)
    assert numbers(found) == [0, 1, 2, 3, 12]


def test_of_two_that_are_the_same_the_older_stays() -> None:
    found = select_keyframes(
        views([(0, 0, 0), (180, 0, 0)]), views([(0, 0, 0), (180, 0, 0)], first=2), 2
    )
    assert numbers(found) == [0, 1]


def test_differences_count_turns_the_short_way_and_places() -> None:
    poses = views([(0, 0, 0), (-40, 0, 0), (350, 0, 0), (0, 2, 0), (0, 0, 4)]).poses
    assert poses is not None
    assert view_distances(poses)[0].tolist() == pytest.approx([0, 1, 0.25, 1, 2], abs=1e-9)


def test_spans_of_the_cover_appear_once() -> None:
    cover, keyframes = views([(0, 0, 0)] * 3, first=4), views([(0, 0, 0)] * 5)
    both = add_keyframes(keyframes, cover)
    assert numbers(both) == [0, 1, 2, 3, 4, 5, 6]
    assert both.poses is not None
    assert both.poses.shape == (1, 7, 4)


def test_a_span_of_the_cover_comes_before_its_first_keyframe() -> None:
    keyframes = views([(0, 0, 0)] * 3)
    cover = MemoryTokens(keyframes.tokens[:, :, :1], None, (Span(2, 0, 16),))
    both = add_keyframes(replace(keyframes, poses=None), cover)
    assert [(span.level, span.start) for span in both.spans] == [(2, 0), (1, 0), (1, 4), (1, 8)]


def test_candidates_need_poses() -> None:
    with pytest.raises(ValueError, match="every latent needs one"):
        select_keyframes(None, replace(views([(0, 0, 0)]), poses=None), 2)


@pytest.mark.parametrize("length", [1, 8, 23, 80, 151, 301, 555])
def test_the_cover_is_whole_and_the_rest_is_fine(length: int) -> None:
    compressor = SmallCompressor()
    latents, poses = history(length, batch=2)
    memory = HierarchicalMemory(MemoryConfig(CONFIG), compressor)
    held = memory.tokens(remember(memory, latents, poses, chunk=21))
    plan, merges = MergeSchedule(CONFIG).extend(length)
    assert set(plan.spans) <= set(held.spans)
    extra = set(held.spans) - set(plan.spans)
    assert all(span.level == 1 and span.complete for span in extra)
    assert len(extra) <= CONFIG.keyframes
    assert len(held.spans) == len(set(held.spans)) <= CONFIG.budget
    assert [span.start for span in held.spans] == sorted(span.start for span in held.spans)
    if length > 100:
        assert extra
    assert held.poses is not None
    for k, span in enumerate(held.spans):
        token, pose = by_definition(compressor, CONFIG.window, latents, poses, span, merges)
        torch.testing.assert_close(held.tokens[:, :, k : k + 1], token)
        torch.testing.assert_close(held.poses[:, k : k + 1], pose)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_chunks_do_not_matter_with_keyframes(counts: list[int]) -> None:
    memory = HierarchicalMemory(MemoryConfig(CONFIG), SmallCompressor())
    latents, poses = history(sum(counts))
    once = memory.tokens(memory.append(memory.empty(), latents, poses))
    state, at = memory.empty(), 0
    for count in counts:
        cut = slice(at, at + count)
        state = memory.append(state, latents[:, :, cut], poses[:, cut])
        at += count
    same(memory.tokens(state), once)


@pytest.mark.parametrize("length", [0, 5, 16, 90])
def test_a_saved_state_goes_on_as_before_with_keyframes(length: int) -> None:
    memory = HierarchicalMemory(MemoryConfig(CONFIG), SmallCompressor())
    latents, poses = history(length + 40)
    state = remember(memory, latents[:, :, :length], poses[:, :length], 6)
    before = dict(state.tensors)
    tensors, metadata = memory.state_dict(state)
    back = memory.from_state_dict(tensors, json.loads(json.dumps(metadata)))
    more = (latents[:, :, length:], poses[:, length:])
    same(memory.tokens(memory.append(back, *more)), memory.tokens(memory.append(state, *more)))
    assert all(state.tensors[name] is tensor for name, tensor in before.items())


def test_keyframes_stand_beside_a_cover_that_follows_views() -> None:
    config = replace(CONFIG, merge_by="views")
    memory = HierarchicalMemory(MemoryConfig(config), SmallCompressor())
    latents, poses = history(300)
    held = memory.tokens(remember(memory, latents, poses, chunk=17))
    fine = [span for span in held.spans if span.level == 1]
    cover = [span for span in held.spans if span not in fine]
    assert len(held.spans) <= config.budget
    assert len(fine) >= config.keyframes
    assert {t for span in (*cover, *fine) for t in range(span.start, span.end)} == set(range(300))


def test_keyframes_begin_where_the_published_memory_ends() -> None:
    exact = WindowPlan(16, 8, 2)
    memory = HierarchicalMemory(
        MemoryConfig(CONFIG, exact), SmallCompressor(), lambda x: x[:, :WIDTH, ::4]
    )
    limit, (latents, poses) = exact.contiguous_limit, history(200)
    short = memory.append(memory.empty(), latents[:, :, :limit], poses[:, :limit])
    assert short.keyframes is None
    long = memory.append(short, latents[:, :, limit:], poses[:, limit:])
    plain = HierarchicalMemory(MemoryConfig(CONFIG), SmallCompressor())
    same(memory.tokens(long), plain.tokens(plain.append(plain.empty(), latents, poses)))


def damaged(change: dict[str, object], tensors: dict[str, Tensor | None]) -> None:
    memory = HierarchicalMemory(MemoryConfig(CONFIG), SmallCompressor())
    held, metadata = memory.state_dict(remember(memory, *history(90), chunk=20))
    held = {k: v for k, v in {**held, **tensors}.items() if v is not None}
    memory.from_state_dict(held, {**metadata, **change})


def test_damaged_keyframes_are_refused() -> None:
    damaged({}, {})
    with pytest.raises(LociError, match="keyframes"):
        damaged({"keyframes": [[1, 0, 4]]}, {})
    with pytest.raises(LociError, match="lacks keyframe_tokens"):
        damaged({}, {"keyframe_tokens": None})
    with pytest.raises(LociError, match="keyframe_poses must have 6 entries"):
        damaged({}, {"keyframe_poses": torch.zeros(1, 5, 4)})


def test_keyframes_need_poses_and_room() -> None:
    memory = HierarchicalMemory(MemoryConfig(CONFIG), SmallCompressor())
    with pytest.raises(ValueError, match="poses"):
        memory.append(memory.empty(), history(1)[0])
    with pytest.raises(ValueError, match="7 or more besides 14 keyframes, got 6"):
        replace(CONFIG, budget=20, keyframes=14)
    with pytest.raises(ValueError, match="negative"):
        replace(CONFIG, keyframes=-1)


def test_states_saved_under_former_names_are_read() -> None:
    memory = HierarchicalMemory(MemoryConfig(CONFIG), SmallCompressor())
    state = remember(memory, *history(90), chunk=20)
    tensors, metadata = memory.state_dict(state)
    former = {name.replace("keyframe_", "kept_"): tensor for name, tensor in tensors.items()}
    metadata["kept"] = metadata.pop("keyframes")
    metadata["config"]["exact"] = metadata["config"].pop("published_windows")
    merging = metadata["config"]["hierarchy"] = metadata["config"].pop("merging")
    merging["keepsakes"], merging["follow"] = merging.pop("keyframes"), merging.pop("merge_by")
    same(memory.tokens(memory.from_state_dict(former, metadata)), memory.tokens(state))


def test_of_the_two_nearest_the_one_between_the_others_goes() -> None:
    between_first = [(10.0, 0.0, 0.0), (0.0, 0.0, 0.0), (30.0, 0.0, 0.0)]
    assert numbers(select_keyframes(None, views(between_first), 2)) == [1, 2]
    between_second = [(0.0, 0.0, 0.0), (10.0, 0.0, 0.0), (30.0, 0.0, 0.0)]
    assert numbers(select_keyframes(None, views(between_second), 2)) == [0, 2]


def test_a_chunk_attends_to_the_keyframes_that_look_where_it_looks() -> None:
    known = views([(0, 0, 0), (90, 0, 0), (180, 0, 0), (270, 0, 0), (0, 9, 0), (350, 0.5, 0)])
    poses = torch.tensor([[[math.radians(d), 0.0, 0.0] for d in (355.0, 300.0)]])
    assert numbers(nearest_keyframes(known, poses, 2)) == [0, 5]
    assert numbers(nearest_keyframes(known, poses, 3)) == [0, 3, 5], "one for the last pose as well"
    assert numbers(nearest_keyframes(known, poses, 9)) == [0, 1, 2, 3, 4, 5]
    away = poses + torch.tensor([math.pi, 0.0, 0.0])
    assert numbers(nearest_keyframes(known, away, 2)) == [1, 2]


def test_a_memory_keeps_more_keyframes_than_a_chunk_attends_to() -> None:
    config = MemoryConfig(replace(CONFIG, budget=34, keyframes=24), attended_keyframes=6)
    assert config.attended == 16
    memory = HierarchicalMemory(config, SmallCompressor())
    latents, poses = history(400)
    state = remember(memory, latents, poses, chunk=17)
    whole = memory.tokens(state)
    assert len(whole.spans) > config.attended
    chosen = {}
    for at in (40, 200):
        held = memory.tokens(state, poses[:, at : at + 4])
        assert set(state.schedule.spans) <= set(held.spans) <= set(whole.spans)
        assert len(held.spans) == len(state.schedule.spans) + 6
        assert held.poses is not None
        chosen[at] = set(held.spans) - set(state.schedule.spans)
        for k, span in enumerate(held.spans):
            row = whole.spans.index(span)
            assert torch.equal(held.tokens[:, :, k], whole.tokens[:, :, row])
    assert chosen[40] != chosen[200]
    with pytest.raises(ValueError, match="attended_keyframes must be 0 to 24"):
        replace(config, attended_keyframes=25)


def test_states_share_keyframes_that_stay() -> None:
    first = select_keyframes(None, views([(0, 0, 0), (120, 0, 0)]), 2)
    again = select_keyframes(first, views([(1, 0, 0)], first=2), 2)
    assert again.tokens is first.tokens
    assert numbers(select_keyframes(first, views([(240, 9, 0)], first=2), 2)) != [0, 1]
