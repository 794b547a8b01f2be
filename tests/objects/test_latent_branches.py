from dataclasses import replace

import pytest
import torch
from torch import Tensor

from loci.acceleration.fast3dcache import Fast3DCache
from loci.acceleration.ledger import Ledger
from loci.acceleration.speeds import SPEEDS, Speed
from loci.acceleration.token_baselines import MergedTokens, RandomTokens
from loci.acceleration.token_budget import TokenBudget, TokenBudgetConfig
from loci.flow.policy import Always
from loci.layers.sparse import Voxels
from loci.objects.latent_branches import LatentBranch
from loci.objects.latent_sampling import LatentSampling, latent_noise, sample_latents

from .test_latent_flow import SMALL, LatentFlow, LatentFlowConfig, ball, small_flow

SETTINGS = LatentSampling(steps=12)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def flow() -> LatentFlow:
    return small_flow()


VOXELS = Voxels(ball())
BLOCKS = VOXELS.coarser.parent
SCORES = torch.linspace(0, 1, len(VOXELS))
CONDITION = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(3))


def lifted(flow: LatentFlow, policy) -> Tensor:
    noise = latent_noise(flow, VOXELS, torch.Generator().manual_seed(4))
    return sample_latents(flow, CONDITION, VOXELS, noise, SETTINGS, policy)


def some_rows() -> Tensor:
    return (BLOCKS % 3 == 0).nonzero()[:, 0]


@pytest.mark.parametrize("io_channels", [(16,), (8, 16)])
def test_a_part_is_exact_where_nothing_changed(io_channels: tuple[int, ...]) -> None:
    config = LatentFlowConfig(
        dim=32, condition_dim=12, blocks=2, heads=2, io_channels=io_channels, io_blocks=2
    )
    flow = small_flow(config)
    levels = VOXELS.coarser
    blocks = levels.parent
    for _ in io_channels[1:]:
        levels = levels.voxels.coarser
        blocks = levels.parent[blocks]
    branch = LatentBranch(flow, VOXELS, flow.context(CONDITION), keeping=True)
    latents, time = latent_noise(flow, VOXELS), torch.tensor([300.0])
    whole = branch.whole(latents, time)
    assert torch.equal(whole, flow(latents, time, VOXELS, CONDITION))
    rows = (blocks % 3 == 0).nonzero()[:, 0]
    assert 0 < len(rows) < len(VOXELS)
    assert torch.allclose(branch.part(latents, time, rows), whole[rows], atol=1e-5)


def test_a_part_sees_its_own_pixels() -> None:
    flow = small_flow(replace(SMALL, aligned=3))
    pixels = torch.randn(len(VOXELS), 3, generator=torch.Generator().manual_seed(5))
    branch = LatentBranch(flow, VOXELS, flow.context(CONDITION, pixels), keeping=True)
    latents, time, rows = latent_noise(flow, VOXELS), torch.tensor([300.0]), some_rows()
    whole = branch.whole(latents, time)[rows]
    assert torch.allclose(branch.part(latents, time, rows), whole, atol=1e-5)


def test_carved_voxels_stay_in_sight_or_not(flow: LatentFlow) -> None:
    latents, time, rows = latent_noise(flow, VOXELS), torch.tensor([300.0]), some_rows()
    context = flow.context(CONDITION)
    seen, alone = (LatentBranch(flow, VOXELS, context, keeping=k) for k in (True, False))
    whole = seen.whole(latents, time)[rows]
    assert torch.allclose(seen.part(latents, time, rows), whole, atol=1e-5)
    apart = alone.part(latents, time, rows)
    expected = flow(latents[rows], time, Voxels(VOXELS.coords[rows]), CONDITION)
    assert torch.equal(apart, expected)
    assert not torch.allclose(apart, whole, atol=1e-3)


def test_a_branch_that_looks_back_at_nothing_is_evaluated_whole(flow: LatentFlow) -> None:
    latents, time, rows = latent_noise(flow, VOXELS), torch.tensor([300.0]), some_rows()
    branch = LatentBranch(flow, VOXELS, None, keeping=True)
    assert torch.equal(branch.part(latents, time, rows), flow(latents, time, VOXELS, None)[rows])


@pytest.mark.parametrize(
    "policy", [None, Always(), TokenBudget(TokenBudgetConfig(0.0), (0, 500), BLOCKS)]
)
def test_nothing_spared_is_bit_equal(flow: LatentFlow, policy) -> None:
    plain = lifted(flow, None)
    assert torch.equal(lifted(flow, policy), plain)
    assert torch.equal(lifted(flow, Ledger().watched("latents", policy)), plain)


@pytest.mark.parametrize("speed", [make() for make in SPEEDS.values()], ids=list(SPEEDS))
def test_every_speed_runs_on_the_latent_flow(flow: LatentFlow, speed: Speed) -> None:
    ledger, interval = Ledger(), SETTINGS.interval
    policy = speed.latent_policy(interval, SCORES, BLOCKS)
    ours, exact = lifted(flow, ledger.watched("latents", policy, interval)), lifted(flow, None)
    entry = ledger.entry("latents")
    assert entry.exact == 19
    assert ours.isfinite().all()
    if speed.latents is None:
        assert entry.made == 19
        assert torch.equal(ours, exact)
    else:
        assert entry.tokens < 19
        assert (ours - exact).norm() < exact.norm()


@pytest.mark.parametrize(
    "policy",
    [
        lambda: RandomTokens(0.3, torch.Generator().manual_seed(0)),
        lambda: MergedTokens(BLOCKS),
        lambda: Fast3DCache(),
    ],
)
def test_every_baseline_runs_on_the_latent_flow(flow: LatentFlow, policy) -> None:
    ledger = Ledger()
    ours = lifted(flow, ledger.watched("latents", policy(), SETTINGS.interval))
    assert ours.isfinite().all()
    share = ledger.entry("latents").active_share
    assert share is not None
    assert 0.1 < share < 1


def test_more_tolerance_more_is_spared_and_lost(flow: LatentFlow) -> None:
    exact, tokens, errors = lifted(flow, None), [], []
    for tolerance in (0.001, 0.02, 0.2):
        ledger = Ledger()
        policy = TokenBudget(TokenBudgetConfig(tolerance), SETTINGS.interval, BLOCKS)
        ours = lifted(flow, ledger.watched("latents", policy, SETTINGS.interval))
        tokens.append(ledger.entry("latents").tokens)
        errors.append(float((ours - exact).norm() / exact.norm()))
    assert tokens[0] > tokens[1] > tokens[2]
    assert errors[0] < errors[2]
