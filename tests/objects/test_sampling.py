from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loci.acceleration.calibration import ModelCalibration
from loci.acceleration.error_budget import ErrorScale
from loci.acceleration.presets import (
    PRESETS,
    UNCALIBRATED,
    Preset,
    exact,
    fast,
    faster,
    get_preset,
)
from loci.acceleration.published.decoding import PaperDecoding, ReleasedDecoding
from loci.acceleration.published.published_presets import paper, released
from loci.acceleration.published.token_baselines import (
    Fast3DCache,
    MergedTokens,
    RandomTokens,
    random_drop,
)
from loci.acceleration.spectral import DecodingConfig, SpectralThresholds
from loci.acceleration.stats import Stats
from loci.acceleration.token_cache import TokenCache, TokenCacheConfig
from loci.errors import LociError
from loci.flow import EvaluateAll
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.mesh.mesh import Mesh
from loci.nn.sparse.voxels import Voxels
from loci.objects import sampling
from loci.objects.asset import Asset
from loci.objects.inputs.observation import rgba_crop
from loci.objects.lifter import Lifter
from loci.objects.parts import LoadedParts
from loci.objects.placement.voxels import choose_voxels
from loci.objects.sampling import (
    PresetSampler,
    SlatSampling,
    SlatVelocity,
    StructureSampling,
    ancestors,
    guided_interval,
    sample_slat,
    slat_noise,
)
from tests.objects.lifters import example, small_config, small_lifter, small_modules
from tests.objects.models.test_slat_flow import (
    SMALL,
    SlatFlow,
    SlatFlowConfig,
    ball,
    small_flow,
)
from tests.objects.test_lifter import same

SETTINGS = SlatSampling(steps=12)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def flow() -> SlatFlow:
    return small_flow()


VOXELS = Voxels(ball())
BLOCKS = VOXELS.coarser.parent
SCORES = torch.linspace(0, 1, len(VOXELS))
CONDITION = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(3))


def lifted(flow: SlatFlow, policy) -> Tensor:
    noise = slat_noise(flow, VOXELS, torch.Generator().manual_seed(4))
    return sample_slat(flow, CONDITION, VOXELS, noise, SETTINGS, policy)


def some_rows() -> Tensor:
    return (BLOCKS % 3 == 0).nonzero()[:, 0]


@pytest.mark.parametrize("io_channels", [(16,), (8, 16)])
def test_a_part_is_exact_where_nothing_changed(io_channels: tuple[int, ...]) -> None:
    config = SlatFlowConfig(
        dim=32, condition_dim=12, blocks=2, heads=2, io_channels=io_channels, io_blocks=2
    )
    flow = small_flow(config)
    levels = VOXELS.coarser
    blocks = levels.parent
    for _ in io_channels[1:]:
        levels = levels.voxels.coarser
        blocks = levels.parent[blocks]
    branch = SlatVelocity(flow, VOXELS, flow.context(CONDITION), cached=True)
    latents, time = slat_noise(flow, VOXELS), torch.tensor([300.0])
    whole = branch.whole(latents, time)
    assert torch.equal(whole, flow(latents, time, VOXELS, CONDITION))
    indices = (blocks % 3 == 0).nonzero()[:, 0]
    assert 0 < len(indices) < len(VOXELS)
    assert torch.allclose(branch.part(latents, time, indices), whole[indices], atol=1e-5)


def test_a_part_sees_its_own_pixels() -> None:
    flow = small_flow(replace(SMALL, aligned=3))
    pixels = torch.randn(len(VOXELS), 3, generator=torch.Generator().manual_seed(5))
    branch = SlatVelocity(flow, VOXELS, flow.context(CONDITION, pixels), cached=True)
    latents, time, indices = slat_noise(flow, VOXELS), torch.tensor([300.0]), some_rows()
    whole = branch.whole(latents, time)[indices]
    assert torch.allclose(branch.part(latents, time, indices), whole, atol=1e-5)


def test_carved_voxels_stay_in_sight_or_not(flow: SlatFlow) -> None:
    latents, time, indices = slat_noise(flow, VOXELS), torch.tensor([300.0]), some_rows()
    context = flow.context(CONDITION)
    seen, alone = (SlatVelocity(flow, VOXELS, context, cached=k) for k in (True, False))
    whole = seen.whole(latents, time)[indices]
    assert torch.allclose(seen.part(latents, time, indices), whole, atol=1e-5)
    apart = alone.part(latents, time, indices)
    expected = flow(latents[indices], time, Voxels(VOXELS.coords[indices]), CONDITION)
    assert torch.equal(apart, expected)
    assert not torch.allclose(apart, whole, atol=1e-3)


def test_a_branch_that_looks_back_at_nothing_is_evaluated_whole(flow: SlatFlow) -> None:
    latents, time, indices = slat_noise(flow, VOXELS), torch.tensor([300.0]), some_rows()
    branch = SlatVelocity(flow, VOXELS, None, cached=True)
    assert torch.equal(
        branch.part(latents, time, indices), flow(latents, time, VOXELS, None)[indices]
    )


@pytest.mark.parametrize(
    "policy", [None, EvaluateAll(), TokenCache(TokenCacheConfig(0.0), (0, 500), BLOCKS)]
)
def test_nothing_spared_is_bit_equal(flow: SlatFlow, policy) -> None:
    plain = lifted(flow, None)
    assert torch.equal(lifted(flow, policy), plain)
    assert torch.equal(lifted(flow, Stats().counted("slat", policy)), plain)


@pytest.mark.parametrize("speed", [get_preset(name) for name in PRESETS], ids=list(PRESETS))
def test_every_speed_runs_on_the_slat_flow(flow: SlatFlow, speed: Preset) -> None:
    ledger, interval = Stats(), SETTINGS.interval
    policy = speed.slat_policy(interval, SCORES, BLOCKS)
    ours, exact = lifted(flow, ledger.counted("slat", policy, interval)), lifted(flow, None)
    entry = ledger.stage("slat")
    assert entry.exact_evaluations == 19
    assert ours.isfinite().all()
    if speed.slat is None:
        assert entry.evaluations == 19
        assert torch.equal(ours, exact)
    else:
        assert entry.token_shares < 19
        assert (ours - exact).norm() < exact.norm()


@pytest.mark.parametrize(
    "policy",
    [
        lambda: RandomTokens(0.3, torch.Generator().manual_seed(0)),
        lambda: MergedTokens(BLOCKS),
        lambda: Fast3DCache(),
    ],
)
def test_every_baseline_runs_on_the_slat_flow(flow: SlatFlow, policy) -> None:
    ledger = Stats()
    ours = lifted(flow, ledger.counted("slat", policy(), SETTINGS.interval))
    assert ours.isfinite().all()
    share = ledger.stage("slat").active_share
    assert share is not None
    assert 0.1 < share < 1


def test_more_tolerance_more_is_spared_and_lost(flow: SlatFlow) -> None:
    exact, tokens, errors = lifted(flow, None), [], []
    for tolerance in (0.001, 0.02, 0.2):
        ledger = Stats()
        policy = TokenCache(TokenCacheConfig(tolerance), SETTINGS.interval, BLOCKS)
        ours = lifted(flow, ledger.counted("slat", policy, SETTINGS.interval))
        tokens.append(ledger.stage("slat").token_shares)
        errors.append(float((ours - exact).norm() / exact.norm()))
    assert tokens[0] > tokens[1] > tokens[2]
    assert errors[0] < errors[2]


PIXELS, INSIDE = example()
UNIFORM = {"high": float("inf"), "low": -float("inf"), "minimum": 0}


class Held:
    """Evaluates the first step, and holds its velocity."""

    def propose(self, step: int, timesteps: Tensor, state: Any) -> Any:
        return self.last if step else None

    def observe(self, step: int, timesteps: Tensor, state: Any, velocity: Any) -> None:
        self.last = velocity


HELD = Preset("held", structure=lambda interval: Held(), slat=lambda *known: Held())


@pytest.fixture(scope="module")
def lifter() -> Lifter:
    lifter = small_lifter()
    lifter.loader.keep = True
    return lifter


@pytest.fixture(scope="module")
def asset(lifter: Lifter) -> Asset:
    return lifter(PIXELS, INSIDE, seed=3)


def test_exact_is_no_policy_at_all_to_the_last_bit(
    lifter: Lifter, asset: Asset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert same(asset, lifter(PIXELS, INSIDE, seed=3, speed="exact"))
    assert same(asset, lifter(PIXELS, INSIDE, seed=3, speed=fast().within(0.0)))

    def alone(function: Callable[..., Any], inputs: int) -> Callable[..., Any]:
        return lambda *given: function(*given[:inputs])

    structure = alone(sampling.sample_structure, 4)
    monkeypatch.setattr(sampling, "sample_structure", structure)
    monkeypatch.setattr(sampling, "sample_slat", alone(sampling.sample_slat, 5))
    assert same(asset, lifter(PIXELS, INSIDE, seed=3))


def test_the_ledger_counts_what_is_made_and_spared(lifter: Lifter) -> None:
    whole, held = Stats(), Stats()
    lifter(PIXELS, INSIDE, seed=3, stats=whole)
    lifter(PIXELS, INSIDE, seed=3, speed=HELD, stats=held)
    # Guided up to the middle of the time: of 3 steps (0, 1/7, 2/5) all, of 2 both.
    assert [whole.stage(name).evaluations for name in ("structure", "slat")] == [6, 4]
    assert [whole.stage(name).saved for name in ("structure", "slat")] == [0, 0]
    assert [held.stage(name).evaluations for name in ("structure", "slat")] == [2, 2]
    assert [held.stage(name).saved for name in ("structure", "slat")] == [4, 2]
    assert list(whole.stages) == ["pictures", "structure", "voxels", "slat", "decoding"]
    assert all(entry.seconds > 0 for entry in whole.stages.values())


def test_verifying_tells_the_error_and_changes_nothing(lifter: Lifter, asset: Asset) -> None:
    ledger = Stats()
    assert same(asset, lifter(PIXELS, INSIDE, seed=3, verify=True, stats=ledger))
    for stage in ("structure", "slat"):
        assert set(ledger.stage(stage).errors.values()) == {0.0}
    plain, verified = Stats(), Stats()
    first = lifter(PIXELS, INSIDE, seed=3, speed=HELD, stats=plain)
    assert same(first, lifter(PIXELS, INSIDE, seed=3, speed=HELD, stats=verified, verify=True))
    assert verified.stage("structure").evaluations == plain.stage("structure").evaluations
    assert verified.stage("structure").errors.keys() >= {"shape", "scale"}
    assert min(verified.stage("slat").errors.values()) > 0


def test_a_calibration_in_the_folder_changes_what_is_skipped(tmp_path: Path) -> None:
    """The same weights and tolerance; true errors said to be as predicted, or a thousand times."""
    settings = {"structure": StructureSampling(steps=12)}
    small_lifter(**settings).save_pretrained(tmp_path)
    made, notes = {}, {}
    for name, laws in {
        "none": ModelCalibration(),
        "mild": ModelCalibration(ErrorScale(), ErrorScale()),
        "strict": ModelCalibration(ErrorScale(1e3), ErrorScale(1e3)),
    }.items():
        laws.write(tmp_path)
        lifter, ledger = Lifter.from_pretrained(tmp_path), Stats()
        assert lifter.calibration == laws
        lifter(PIXELS, INSIDE, seed=3, speed=exact().within(0.3), stats=ledger)
        made[name], notes[name] = ledger.stage("structure").evaluations, ledger.notes
    assert made["none"] == made["mild"] < made["strict"]
    assert notes == {"none": [UNCALIBRATED], "mild": [], "strict": []}
    assert UNCALIBRATED in ledger_of(small_lifter(), exact().within(0.03)).table()
    assert UNCALIBRATED not in ledger_of(small_lifter(), "exact").table()


def ledger_of(lifter: Lifter, speed: str | Preset) -> Stats:
    ledger = Stats()
    lifter(PIXELS, INSIDE, seed=3, speed=speed, stats=ledger)
    return ledger


def test_laws_go_where_the_model_goes(tmp_path: Path) -> None:
    laws = ModelCalibration(decoding=SpectralThresholds(0.6, 0.4))
    Lifter(small_config(), LoadedParts(small_modules()), calibration=laws).save_pretrained(
        tmp_path / "a"
    )
    Lifter.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert ModelCalibration.load_from(tmp_path / "b") == laws


def test_thresholds_in_the_folder_decide_how_finely_faster_decodes() -> None:
    """All objects are below these: the factor is 2, and the asset at its true size."""
    coarse = ModelCalibration(decoding=SpectralThresholds(2.0, 2.0))
    lifter = Lifter(small_config(), LoadedParts(small_modules()), keep=True, calibration=coarse)
    plain, merged = (ledger_of(one, "faster") for one in (small_lifter(), lifter))
    assert plain.stage("decoding").decoding_factor == 1
    assert 0 < (plain.stage("decoding").spectral_ratio or 0) < 1
    assert merged.stage("decoding").spectral_ratio == plain.stage("decoding").spectral_ratio
    assert merged.stage("decoding").decoding_factor == 2
    assert chosen(faster().calibrated(coarse)).aggregation.factor == 2
    assert chosen(faster()).aggregation is None


def test_objects_of_a_scene_are_as_if_alone_at_any_speed(lifter: Lifter) -> None:
    masks = [INSIDE, np.roll(INSIDE, -12, axis=1)]
    scene = lifter.scene(PIXELS, masks, seed=3, speed=HELD)
    for mask, together in zip(masks, scene.objects, strict=True):
        assert same(together, lifter(PIXELS, mask, seed=3, speed=HELD))


@pytest.mark.parametrize("made", [released, paper])
def test_published_speeds_run_through(lifter: Lifter, made: Callable[[], Preset]) -> None:
    asset = lifter(PIXELS, INSIDE, seed=3, speed=made())
    assert asset.gaussians is not None
    assert asset.gaussians.positions.isfinite().all()


def test_speeds_that_are_none_are_named(lifter: Lifter) -> None:
    with pytest.raises(LociError, match="unknown preset 'slow': expected one of exact, fast"):
        lifter(PIXELS, INSIDE, speed="slow")
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(LociError, match="tolerance: .*, expected a number from 0 on"):
            exact().within(wrong)


def test_guidance_that_is_off_has_no_interval() -> None:
    assert guided_interval(StructureSampling()) == (0.0, 500.0)
    assert guided_interval(StructureSampling(guidance_strength=0)) is None
    assert guided_interval(StructureSampling(shortcut=True)) is None
    assert PresetSampler("faster").preset.name == "faster"


def test_tokens_are_ancestors() -> None:
    coords = torch.cartesian_prod(torch.zeros(1).long(), *[torch.arange(8)] * 3)
    voxels = Voxels(coords[torch.randperm(len(coords), generator=torch.Generator().manual_seed(0))])
    for levels in (1, 2):
        labels = ancestors(voxels, levels)
        blocks = (voxels.coords[:, 1:] // 2**levels * torch.tensor([64, 8, 1])).sum(dim=1)
        _, expected = torch.unique(blocks, return_inverse=True)
        assert len(labels.unique()) == (8 // 2**levels) ** 3
        assert (torch.stack([labels, expected]).unique(dim=1).shape[1]) == len(labels.unique())


def shell(resolution: int = 32) -> tuple[Tensor, Tensor]:
    """Voxels of a shell off the grid's middle, and logits of the grid."""
    axis = torch.arange(resolution) + 0.5
    middle = torch.tensor([18.0, 15.0, 16.0])
    grid = torch.cartesian_prod(axis, axis, axis).view(*(resolution,) * 3, 3)
    logits = 2.5 - ((grid - middle).norm(dim=-1) - 10).abs()
    return torch.argwhere(logits[None] > 0).int(), logits[None, None]


def chosen(speed: Preset, limit: int = 42000) -> Any:
    coords, logits = shell()
    picture = rgba_crop(PIXELS, INSIDE)
    return choose_voxels(
        *(coords, logits, picture, speed), *(1, limit, torch.Generator().manual_seed(0))
    )


def test_unmerged_voxels_are_the_structure() -> None:
    coords, _ = shell()
    choice = chosen(exact())
    assert choice.voxels is choice.mesh_voxels
    assert torch.equal(choice.voxels.coords, choice.structure.long())
    assert len(choice.structure) < len(coords), "the interior is pruned"
    assert len(chosen(released()).structure) == len(coords)
    assert choice.scores.shape == (len(choice.structure),)
    assert choice.downsample_factor == 1
    small = chosen(exact(), limit=100)
    assert small.downsample_factor == 2
    assert len(small.voxels) == len(small.scores) == 100


def test_merged_assets_come_out_at_their_true_size() -> None:
    """Splats in the middles of the voxels are where they would have been, half a voxel apart."""
    for decoding, late in ((DecodingConfig, False), (PaperDecoding, True)):
        speed = Preset("merged", decoding=decoding(**UNIFORM))
        choice = chosen(speed)
        assert choice.aggregation.factor == 1.5
        assert choice.merges_mesh_only == late
        assert choice.downsample_factor == 1
        made = choice.mesh_voxels.coords[:, 1:]
        mesh = Mesh((made + 0.5) / 32 - 0.5, torch.zeros(0, 3, dtype=torch.long))
        true = (choice.structure[:, 1:] + 0.5) / 32 - 0.5
        apart = torch.cdist(true, choice.restore_mesh(mesh).vertices).amin(dim=1)
        assert apart.max() < 1.8 * 1.5 / 32
        assert len(choice.scores) == len(choice.voxels)
        values = torch.rand(len(choice.voxels), 8)
        assert len(choice.mesh_latents(values)) == len(choice.mesh_voxels)
        splats = Gaussians(
            *(mesh.vertices, mesh.vertices, torch.ones_like(mesh.vertices)),
            *(torch.ones(len(made), 4), torch.ones(len(made))),
        )
        if not late:
            near = (choice.centers - choice.restore_mesh(mesh).vertices).abs().amax()
            assert near < 0.5 * 1.5 / 32 + 1e-6, "each within the cell that stands for it"
            assert choice.voxel_size == 1.5 / 32
        else:
            assert torch.equal(choice.centers, true)
            assert choice.voxel_size == 1 / 32
        grown = choice.restore_gaussians(splats)
        assert torch.equal(grown.scales, splats.scales * (1 if late else 1.5))


def test_released_merging_is_made_up_for_by_the_pose(lifter: Lifter, asset: Asset) -> None:
    speed = Preset("merged", decoding=ReleasedDecoding(**UNIFORM))
    ledger = Stats()
    small = lifter(PIXELS, INSIDE, seed=3, speed=speed, stats=ledger)
    assert torch.allclose(small.pose.scale, 1.5 * asset.pose.scale)
    assert torch.equal(small.voxels, asset.voxels), "as they were found"
    assert small.downsample_factor == 1.5
    assert ledger.stage("decoding").decoding_factor == 1.5
    assert "1.5" in ledger.table()


def test_dropped_voxels_are_gone() -> None:
    kept, whole = (
        chosen(Preset("drop", drop_voxels=lambda coords, rng: random_drop(coords, 0.5, rng))),
        chosen(exact()),
    )
    assert len(kept.structure) == round(len(whole.structure) / 2)


@pytest.mark.parametrize("shift", [(0, 0), (-14, -30), (-13, -22), (10, 8)])
def test_a_crop_has_the_spectral_ratio_of_the_whole_picture(shift: tuple[int, int]) -> None:
    inside = np.zeros_like(INSIDE)
    inside[14:30, 30:52] = True
    inside = np.roll(inside, shift, axis=(0, 1))
    noise = np.random.default_rng(0).integers(0, 256, PIXELS.shape, dtype=np.uint8)
    whole = np.concatenate([noise, inside[:, :, None] * np.uint8(255)], axis=2)
    part = rgba_crop(noise, inside)
    assert part.shape[0] * part.shape[1] < inside.size
    assert DecodingConfig().image_ratio(part) == DecodingConfig().image_ratio(
        torch.from_numpy(whole)
    )


def test_fewer_steps_and_a_held_difference_are_written_down(lifter: Lifter) -> None:
    full, spared = Stats(), Stats()
    lifter(PIXELS, INSIDE, seed=3, stats=full)
    speed = Preset("spared", structure_step_share=0.5, slat_step_share=0.5, guide_every=None)
    lifter(PIXELS, INSIDE, seed=3, stats=spared, speed=speed)
    for stage in ("structure", "slat"):
        exact, entry = full.stage(stage), spared.stage(stage)
        assert entry.exact_evaluations == exact.evaluations, "what exact would have made"
        assert entry.steps == round(exact.steps / 2)
        assert entry.steps < entry.evaluations + 1 <= entry.steps + 2
        assert entry.saved == exact.evaluations - entry.evaluations
