import pytest
import torch

from loci.acceleration.published.step_caches import EasyCache, TaylorSeer
from loci.acceleration.published.token_baselines import (
    Fast3DCache,
    Fast3DCacheConfig,
    MergedTokens,
    RandomTokens,
    random_drop,
)
from tests.acceleration.toy import INTERVAL, Toy, error, run, same, times, tokens


@pytest.mark.parametrize(
    ("spared", "exact"),
    [
        (lambda: TaylorSeer(3), lambda: TaylorSeer(1)),
        (lambda: EasyCache(0.2), lambda: EasyCache(0.0)),
    ],
)
def test_steps_are_skipped_or_all_evaluated(spared, exact) -> None:
    truth, _ = run(None)
    nothing, all_evaluated = run(exact())
    assert same(nothing, truth)
    assert len(all_evaluated.evaluated) == 25
    ours, toy = run(spared())
    assert 3 < len(toy.evaluated) < 20
    assert 0 < error(ours, truth) < 0.3
    assert toy.evaluated[-1] == pytest.approx(times()[-1].item())


def test_taylorseer_extrapolates_across_the_switch() -> None:
    """It does not know about guidance."""
    _, toy = run(TaylorSeer(4))
    after = next(t for t in toy.evaluated if t > INTERVAL[1])
    assert after > next(t for t in times().tolist() if t > INTERVAL[1])


def test_easycache_reuses_the_difference_of_velocity_and_state() -> None:
    policy, grid = EasyCache(1e9, warmup=2), times(6, 1.0)
    x = {"a": torch.ones(3)}
    for step in range(2):
        assert policy.propose(step, grid, x) is None
        policy.observe(step, grid, x, {"a": torch.full((3,), 5.0 + step)})
        x = {"a": x["a"] + 1}
    kept = policy.propose(2, grid, {"a": torch.full((3,), 10.0)})
    assert kept is not None
    assert torch.equal(kept["a"], torch.full((3,), 10.0 + (6 - 2)))


def test_fast3dcache_falls_by_its_schedule() -> None:
    policy = Fast3DCache(Fast3DCacheConfig())
    shares = [policy.share(step, 25) for step in range(25)]
    assert shares[:6] == [1] * 6
    assert shares[6:19] == sorted(shares[6:19], reverse=True)
    assert shares[12] == pytest.approx(2.71828 ** (-0.07 * 7), rel=1e-4)
    assert shares[19:] == pytest.approx([0.3, 0.3, 1, 0.3, 0.3, 1])
    exact, _ = run(None, start=tokens())
    ours, toy = run(policy, start=tokens())
    assert toy.parts == [round(s * 40) for s in shares if s < 1]
    assert error(ours, exact) < 0.3


def test_random_tokens_differ_from_step_to_step() -> None:
    exact, _ = run(None, start=tokens())
    ours, toy = run(RandomTokens(0.25, torch.Generator().manual_seed(0)), start=tokens())
    assert toy.parts == [30] * 22
    assert 0 < error(ours, exact) < 0.3
    nothing, _ = run(RandomTokens(0.0), start=tokens())
    assert same(nothing, exact)


def test_merged_tokens_share_the_velocity_of_their_block() -> None:
    policy = MergedTokens(torch.tensor([7, 2, 7, 2, 9]))
    state = {"latents": torch.arange(5.0)[:, None]}
    indices = policy.select(5, times(), state)
    assert indices is not None
    assert indices.tolist() == [0, 1, 4]
    filled = policy.fill(5, times(), state, indices, {"latents": state["latents"][indices]})
    assert filled["latents"][:, 0].tolist() == [0, 1, 0, 1, 4]
    _, toy = run(policy, Toy(), start=tokens(5))
    assert toy.parts == [3] * 22


def test_voxels_dropped() -> None:
    coords = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), *(torch.arange(8),) * 3)
    kept = random_drop(coords, 0.5, torch.Generator().manual_seed(0))
    assert len(kept) == 256
    assert torch.equal(torch.unique(kept, dim=0), kept)
    with pytest.raises(ValueError, match="share"):
        random_drop(coords, 1.0)
