"""The plan of the unbounded memory: coverage, budget and permanence at every length."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.memory.schedule import MergeConfig, Merges, MergeSchedule, Span, is_cover

CONFIGS = [MergeConfig(), MergeConfig(window=64), MergeConfig(recent=4)]
FIRST_FOLD = 49_149


def check_step(before: MergeSchedule, after: MergeSchedule, merges: Merges) -> None:
    """One latent later: every span is kept, was filled up, or was merged with three others."""
    assert is_cover(after.spans, after.length)
    assert len(after.spans) <= after.config.budget
    gone, new = set(before.spans) - set(after.spans), set(after.spans) - set(before.spans)
    slot = after.spans[-1]
    assert slot in new
    assert slot.level == 1
    if not before.length % 4:
        assert slot.length == 1
    else:
        gone.remove(Span(1, slot.start, slot.end - 1))
    for parent in new - {slot}:
        parts = merges.get(parent) or parent.quarters
        assert [p.start for p in parts] == [parent.start] + [p.end for p in parts[:-1]]
        assert parts[-1].end == parent.end
        gone -= set(parts)
    assert not gone
    assert len(new) <= 2


def test_no_spans_cover_only_an_empty_history() -> None:
    assert is_cover((), 0)
    assert not is_cover((), 1)


@pytest.mark.parametrize("recent", [0, 4])
def test_every_length_to_20_000_is_covered_within_the_budget(recent: int) -> None:
    plan = MergeSchedule(MergeConfig(recent=recent))
    for length in range(1, 20_001):
        after, merges = plan.extend(1)
        assert after.length == length
        assert not merges
        check_step(plan, after, merges)
        levels = [span.level for span in after.spans]
        assert levels == sorted(levels, reverse=True)
        plan = after


def test_spans_are_aligned_and_never_straddle_the_window_that_is_filling() -> None:
    plan = MergeSchedule(MergeConfig(window=64))
    for _ in range(3_000):
        plan, _ = plan.extend(1)
        for span in plan.spans:
            assert span.start % 4**span.level == 0
            assert span.complete or span == plan.spans[-1]
            assert not span.start < plan.settled < span.end


def test_resolution_stays_near_uniform() -> None:
    """No code covers more than a third of a history that the published memory could not hold."""
    for length in range(81, 1_281, 7):
        plan, _ = MergeSchedule().extend(length)
        assert max(span.length for span in plan.spans) <= length / 3


def test_the_first_fold_comes_where_the_digits_of_the_length_exceed_the_budget() -> None:
    plan, merges = MergeSchedule().extend(FIRST_FOLD - 1)
    assert not merges
    assert len(plan.spans) == plan.config.budget
    after, merges = plan.extend(1)
    assert len(merges) == 1
    check_step(plan, after, merges)


@pytest.mark.parametrize(
    "config",
    [MergeConfig(4, 4), MergeConfig(8, 7), MergeConfig(64, 10, 3)],
    ids=str,
)
def test_the_budget_holds_beyond_alignment(config: MergeConfig) -> None:
    """With the least budget a window allows, merges come early: the regime of endless walks."""
    plan, seen = MergeSchedule(config), 0
    for _ in range(6_000):
        after, merges = plan.extend(1)
        check_step(plan, after, merges)
        for parent in merges:
            assert parent.end % config.window == 0
            assert parent.end <= after.settled
            assert not parent.complete
        seen += len(merges)
        plan = after
    assert seen > 3


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*CONFIGS, MergeConfig(8, 7, 2), MergeConfig(16, 11)]),
    st.lists(st.integers(0, 300), max_size=12),
)
def test_the_plan_does_not_depend_on_how_latents_are_handed_over(
    config: MergeConfig, counts: list[int]
) -> None:
    once, merges = MergeSchedule(config).extend(sum(counts))
    plan, seen = MergeSchedule(config), Merges()
    for count in counts:
        plan, more = plan.extend(count)
        seen |= more
    assert plan == once
    assert seen == merges


@pytest.mark.parametrize(
    "sizes",
    [{"window": 0}, {"window": 6}, {"window": 12}, {"budget": 6}, {"recent": -1}],
)
def test_impossible_configurations_are_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="window|budget|recent"):
        MergeConfig(**sizes)
