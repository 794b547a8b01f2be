import time

import pytest
import torch

from loci.acceleration.presets import LAYOUT_LATENTS, PRESETS, Preset, as_preset, get_preset
from loci.acceleration.published.step_caches import PublishedStepCacheConfig
from loci.acceleration.published.token_carving import CarvingConfig, ReleasedCarving
from loci.acceleration.stats import Stats
from loci.acceleration.step_cache import StepCacheConfig, StridedStepCacheConfig
from loci.acceleration.token_cache import TokenCacheConfig
from loci.errors import LociError
from loci.flow import State, TokenIndices, interval_guidance, sample
from tests.acceleration.toy import INTERVAL, error, run, same, times, tokens

SCORES, BLOCKS = torch.linspace(0, 1, 40), torch.arange(40) // 4


def test_released_evaluations_of_the_first_stage() -> None:
    """44 without skipping, 17 with: the figures of the released code."""
    stats = Stats()
    policy = PublishedStepCacheConfig("released").policy()
    watched, _ = run(stats.counted("structure", policy, INTERVAL))
    entry = stats.stage("structure")
    assert (entry.exact_evaluations, entry.evaluations, entry.saved) == (44, 17, 27)
    assert (entry.steps, entry.steps_skipped) == (25, 15)
    plain, _ = run(PublishedStepCacheConfig("released").policy())
    assert same(watched, plain)


def test_parts_count_as_parts() -> None:
    stats = Stats()
    policy = ReleasedCarving(CarvingConfig(threshold=0.0, ratio=0.5), SCORES)
    _, toy = run(stats.counted("slat", policy, INTERVAL), start=tokens())
    entry = stats.stage("slat")
    assert entry.evaluations == entry.exact_evaluations == 44
    assert toy.parts[0] == 20
    assert entry.active_share is not None
    assert 0.5 < entry.active_share < 0.8


def test_a_run_watched_over_nothing_is_exact() -> None:
    stats = Stats()
    exact, _ = run(None)
    watched, _ = run(stats.counted("structure", None, INTERVAL))
    assert same(watched, exact)
    assert stats.stage("structure").saved == 0


def test_seconds_errors_and_the_table() -> None:
    stats = Stats()
    with stats.timed("structure") as entry:
        time.sleep(0.01)
    assert entry.seconds >= 0.01
    exact = {"shape": torch.ones(10)}
    stats.record_errors("structure", {"shape": torch.full((10,), 1.1)}, exact)
    assert entry.errors["shape"] == pytest.approx(0.1, rel=1e-5)
    run(stats.counted("slat", None, INTERVAL), start=tokens())
    stats.stage("decoding").decoding_factor = 1.25
    lines = stats.table().splitlines()
    assert [line.split()[0] for line in lines] == [
        "stage", "structure", "slat", "decoding", "all",
    ]  # fmt: skip
    assert "1.25" in lines[3]
    assert "44" in lines[2]
    assert "100%" in lines[2]
    written = stats.to_dict()
    assert written["slat"]["saved"] == 0
    assert written["structure"]["errors"]["shape"] == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset(name: str) -> None:
    chosen = get_preset(name)
    assert chosen.name == name
    exact, _ = run(None)
    ends = [run(chosen.structure_policy(INTERVAL)) for _ in range(2)]
    assert same(ends[0][0], ends[1][0])
    skips = name in ("released", "paper")
    assert (len(ends[0][1].evaluated) < 25) == skips
    assert error(ends[0][0], exact) < 0.3
    latents, toy = run(chosen.slat_policy(INTERVAL, SCORES, BLOCKS), start=tokens())
    assert latents["latents"].isfinite().all()
    assert (len(toy.evaluated) < 25 or bool(toy.parts)) == skips
    assert (chosen.structure_step_share < 1) == (name in ("fast", "faster"))
    assert (chosen.slat_step_share < 1) == (name in ("fast", "faster"))
    walked, _ = run(chosen.walk_policy(), start=tokens())
    assert walked["latents"].isfinite().all()


def test_the_presets_are_those_that_were_measured() -> None:
    """Settings of `fast` and `faster` are those of the documentation."""
    named = {name: get_preset(name) for name in PRESETS}
    strided = {n: p.walk for n, p in named.items() if isinstance(p.walk, StridedStepCacheConfig)}
    assert {n: (walk.stride, walk.warmup) for n, walk in strided.items()} == {
        "fast": (2, 2),
        "faster": (3, 2),
    }
    assert all(preset.walk_step_share == 1 for preset in named.values())
    assert (named["fast"].structure_step_share, named["fast"].slat_step_share) == (0.5, 0.5)
    assert (named["faster"].structure_step_share, named["faster"].slat_step_share) == (
        1 / 3,
        1 / 8,
    )
    assert [p.guide_every for p in named.values()] == [1, 2, None, 1, 1]
    assert [p.prunes_interior for p in named.values()] == [True, True, True, False, False]
    assert [p.decoding is None for p in named.values()] == [True, *[False] * 4]


def test_a_tolerance_takes_the_place_of_fewer_steps() -> None:
    zero = get_preset("fast").within(0.0)
    assert (zero.walk_step_share, zero.structure_step_share, zero.slat_step_share) == (1, 1, 1)
    assert zero.guide_every == 1
    exact, _ = run(None)
    assert same(run(zero.structure_policy(INTERVAL))[0], exact)
    loose = get_preset("exact").within(0.1)
    assert isinstance(loose.structure, StepCacheConfig)
    assert loose.structure.layout == LAYOUT_LATENTS
    assert len(run(loose.structure_policy(INTERVAL))[1].evaluated) < 25


def test_an_unknown_preset_names_the_known() -> None:
    with pytest.raises(LociError, match="unknown preset 'warp': expected one of exact, fast"):
        get_preset("warp")


def test_a_reused_guidance_difference_is_an_evaluation_saved() -> None:
    plain, reused = Stats(), Stats()
    run(plain.counted("structure", None, INTERVAL))
    run(reused.counted("structure", None, INTERVAL, every=1000))
    exact, stage = plain.stage("structure"), reused.stage("structure")
    assert stage.exact_evaluations == exact.exact_evaluations == exact.evaluations
    assert stage.evaluations == stage.steps + 1
    assert stage.saved == exact.evaluations - stage.steps - 1


class Half:
    """Evaluates half of the tokens at some steps."""

    attends_to_cached = False

    def __init__(self, partial_steps: set[int]) -> None:
        self.partial_steps, self.latest = partial_steps, {}

    def propose(self, step, timesteps, state):
        return None

    def select(self, step, timesteps, state):
        return torch.arange(20) if step in self.partial_steps else None

    def fill(self, step, timesteps, state, indices, part):
        return {name: self.latest[name].index_copy(0, indices, v) for name, v in part.items()}

    def observe(self, step, timesteps, state, velocity):
        self.latest = velocity


@pytest.mark.parametrize("every", [1, 2, 3, 1000])
@pytest.mark.parametrize("partial_steps", [set(), {2, 3, 5}, {1, 2, 4, 6, 7}])
def test_partial_evaluations_are_counted_with_rarer_guidance(every: int, partial_steps) -> None:
    """As many evaluations as the network made: a partial guided step always makes both."""
    calls = [0]

    def network(state: State, timestep: torch.Tensor) -> State:
        calls[0] += 1
        return {name: torch.ones_like(x) for name, x in state.items()}

    def part(state: State, timestep: torch.Tensor, indices: TokenIndices) -> State:
        some = {name: x[indices] for name, x in state.items()}
        return interval_guidance(network, network, 2.0, INTERVAL)(some, timestep)

    stats = Stats()
    sample(
        interval_guidance(network, network, 2.0, INTERVAL, every),
        tokens(),
        times(8, 1.0),
        policy=stats.counted("slat", Half(partial_steps), INTERVAL, every),
        end=1.0,
        partial=part,
    )
    stage = stats.stage("slat")
    assert stage.evaluations == calls[0]
    assert stage.exact_evaluations == 8 + 5
    halves = sum(1 if step > 4 else 2 for step in partial_steps)
    assert stage.token_shares == calls[0] - halves / 2


def test_a_preset_is_given_as_such_or_by_name() -> None:
    assert as_preset(None) == get_preset("exact")
    assert as_preset("fast") == get_preset("fast")
    own = Preset("own", walk_step_share=0.7)
    assert as_preset(own) is own
    with pytest.raises(LociError, match="unknown preset ''"):
        as_preset("")
    assert get_preset("fast", 0.1) == get_preset("fast").within(0.1)


def test_a_tolerance_keeps_the_other_settings_of_a_stage() -> None:
    given = Preset(
        "own",
        StepCacheConfig(layout=("a",), beta=0.2),
        TokenCacheConfig(max_skips=7),
        walk=TokenCacheConfig(warmup=4),
    )
    spent = given.within(0.3)
    assert spent.name == "own, tolerance 0.3"
    assert spent.structure == StepCacheConfig(0.3, layout=("a",), beta=0.2)
    assert spent.slat == TokenCacheConfig(0.3, max_skips=7)
    assert spent.walk == TokenCacheConfig(0.3, warmup=4)
    for wrong in (-0.1, float("inf"), float("nan")):
        with pytest.raises(LociError, match="tolerance"):
            given.within(wrong)


def test_errors_are_relative_and_the_largest_is_kept() -> None:
    stats = Stats()
    exact = {"a": torch.tensor([2.0, -2.0]), "b": torch.tensor([10.0])}
    stats.record_errors("x", {"a": torch.tensor([3.0, -2.0]), "b": torch.tensor([11.0])}, exact)
    assert stats.stage("x").errors == pytest.approx({"a": 0.5**0.5 / 2, "b": 0.1})
    stats.record_errors("x", {"a": torch.tensor([2.0, -2.0]), "b": torch.tensor([20.0])}, exact)
    assert stats.stage("x").errors == pytest.approx({"a": 0.5**0.5 / 2, "b": 1.0})


def test_the_table_of_two_stages() -> None:
    stats = Stats()
    first, second = stats.stage("structure"), stats.stage("decoding")
    first.evaluations, first.exact_evaluations, first.token_shares, first.seconds = 4, 10, 3.0, 1.5
    first.errors = {"a": 0.25, "b": 0.125}
    second.decoding_factor, second.seconds = 1.25, 0.5
    stats.note("a note")
    assert [line.split() for line in stats.table().splitlines()] == [
        ["stage", "evaluations", "saved", "active", "tokens", "factor", "seconds", "error"],
        ["structure", "4", "6", "75%", "-", "1.50", "0.25"],
        ["decoding", "-", "-", "-", "1.25", "0.50", "-"],
        ["all", "4", "6", "-", "-", "2.00", "-"],
        ["(a", "note)"],
    ]
    assert second.active_share is None
    written = stats.to_dict()["structure"]
    assert (written["saved"], written["active_share"]) == (6, 0.75)


def test_a_counted_policy_caches_tokens_if_the_policy_does() -> None:
    assert not Stats().counted("x").attends_to_cached
    assert Stats().counted("x", TokenCacheConfig().policy()).attends_to_cached
    assert not Stats().counted("x", Half(set())).attends_to_cached
