"""Mode `released` of our accelerations against the published implementation.

Limits are those stated with the fixtures: 2e-4 for samplers, 1e-5 for closed formulas, each times
max(1, max|reference|); integers, booleans and index sets are equal.
"""

import pytest
import torch
from torch import Tensor

from loci.acceleration.published.decoding import ReleasedDecoding
from loci.acceleration.published.step_caches import PublishedStepCacheConfig
from loci.acceleration.published.token_carving import (
    CarvingConfig,
    ReleasedCarving,
    ReleasedSelection,
    released_saliency,
)
from loci.acceleration.spectral import gray, token_scores, windowed_gray
from loci.acceleration.stats import CountingPolicy, StageStats
from loci.flow import State, StepPolicy, TokenIndices, rescaled_times, sample
from loci.nn.sparse.voxels import Voxels
from loci.objects.models.slat_flow import SlatStatistics
from loci.objects.sampling import SlatSampling, sample_slat
from tests.parity.conftest import Fixture
from tests.parity.test_sam3d_stage2 import error, slat_flow

SAMPLER, FORMULA = 2e-4, 1e-5


class Witness(CountingPolicy):
    """Writes down the velocity of every step and which tokens were evaluated for it."""

    def __init__(self, policy: StepPolicy) -> None:
        super().__init__(StageStats(), policy, None)
        self.velocities: list[State] = []
        self.indices: list[TokenIndices | None] = []
        self.full: list[bool] = []

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        velocity = super().propose(step, timesteps, state)
        self.full.append(velocity is None)
        if velocity is not None:
            self.velocities.append(velocity)
            self.indices.append(None)
        return velocity

    def select(self, step: int, timesteps: Tensor, state: State) -> TokenIndices | None:
        indices = super().select(step, timesteps, state)
        (x,) = state.values()
        self.indices.append(torch.arange(len(x)) if indices is None else indices)
        return indices

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        self.velocities.append(velocity)
        super().observe(step, timesteps, state, velocity)


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@pytest.mark.kind("ss_step_cache")
@pytest.mark.parametrize(
    ("mode", "reference"), [("released", "released"), ("paper", "smoothing_as_in_paper")]
)
def test_step_cache(fixture: Fixture, mode, reference: str) -> None:
    c, recorded = fixture.sidecar["config"], under(fixture.inputs, "recorded_v/")
    times = rescaled_times(c["steps"], c["rescale_t"], torch.float64)
    for run, r in c["runs"].items():
        config = PublishedStepCacheConfig(
            mode,
            r["ss_cache_stride"],
            r["ss_warmup"],
            r["ss_order"],
            r["ss_momentum_beta"],
            layout=tuple(recorded.keys() - {"shape"}),
        )
        witness = Witness(config.policy())

        def velocity(state: State, timestep: Tensor, seen=witness) -> State:
            return {name: v[len(seen.full) - 1] for name, v in recorded.items()}

        noise = under(fixture.outputs, f"{run}/noise/")
        final = sample(velocity, noise, times[:-1] * 1000, policy=witness, end=1.0)
        assert witness.full == fixture.outputs[f"{run}/is_full"].bool().tolist(), run
        for name, expected in under(fixture.outputs, f"{run}/{reference}/v/").items():
            ours = torch.stack([v[name] for v in witness.velocities])
            assert error(ours, expected) < FORMULA, (run, name)
        for name, expected in under(fixture.outputs, f"{run}/{reference}/x_final/").items():
            assert error(final[name], expected) < FORMULA, (run, name)


@pytest.mark.kind("token_selection")
def test_token_selection(fixture: Fixture) -> None:
    c, given, expected = fixture.sidecar["config"], fixture.inputs, fixture.outputs
    select = ReleasedSelection(given["coords_scores"][:, 0])
    for i, velocity in enumerate(given["velocities"][:, 0]):
        saliency = released_saliency(velocity, select.before, select.scores)
        for name, ours in saliency._asdict().items():
            assert error(ours, expected[name][i]) < FORMULA, name
        kept = select(velocity, c["num_to_skip"])
        assert torch.equal(kept, expected["mask"][i].bool())
        assert torch.equal(select.streak, expected["streak"][i])


@pytest.mark.kind("slat_fast_sampler")
def test_fast_latent_sampler(fixture: Fixture) -> None:
    c, given = fixture.sidecar["config"], fixture.inputs
    flow, voxels = slat_flow(fixture, c["model"]), Voxels(given["coords"])
    plain = SlatStatistics((0.0,) * 8, (1.0,) * 8)
    for run, r in c["runs"].items():
        expected = under(fixture.outputs, f"{run}/")
        config = CarvingConfig(
            "released", r["slat_thresh"], r["slat_warmup"], r["slat_carving_ratio"]
        )
        policy = ReleasedCarving(config, given["coords_scores"][:, 0])
        witness, states, rates = Witness(policy), [], []

        def note(step: int, state: State, states=states, rates=rates, policy=policy) -> None:
            states.append(state["latents"])
            rates.append(policy.rate)

        last = sample_slat(
            flow,
            given["cond"],
            voxels,
            given["noise"][0],
            SlatSampling(
                c["steps"], c["rescale_t"], c["cfg_strength"], tuple(c["cfg_interval"]), plain
            ),
            witness,
            note,
        )
        counts = [-1 if indices is None else len(indices) for indices in witness.indices]
        assert counts == expected["tokens_evaluated"].tolist(), run
        for indices, mask in zip(witness.indices, expected["update_mask"], strict=True):
            if indices is not None and len(indices) < len(voxels):
                assert torch.equal(indices, mask.nonzero()[:, 0]), run
        velocities = torch.stack([v["latents"] for v in witness.velocities])
        assert error(velocities, expected["v_steps"][:, 0]) < SAMPLER, run
        assert error(torch.stack([*states[1:], last]), expected["x_steps"][:, 0]) < SAMPLER, run
        after = torch.tensor([torch.nan if k is None else k for k in [*rates[1:], policy.rate]])
        assert torch.allclose(after, expected["k"], rtol=SAMPLER, equal_nan=True), run


@pytest.mark.kind("hfer2d")
def test_picture_ratio(fixture: Fixture) -> None:
    for name, bgra in under(fixture.inputs, "bgra/").items():
        picture = bgra[..., [2, 1, 0, 3]]
        ours = torch.tensor(ReleasedDecoding().image_ratio(picture), dtype=torch.float64)
        assert error(ours, fixture.outputs[f"hfer/{name}"]) < FORMULA, name
        if f"windowed/{name}" in fixture.outputs:
            assert error(windowed_gray(picture), fixture.outputs[f"windowed/{name}"]) < FORMULA, (
                name
            )
        if f"gray/{name}" in fixture.outputs:
            assert torch.equal(gray(picture[..., :3]), fixture.outputs[f"gray/{name}"]), name


@pytest.mark.kind("hfer3d_aggregation")
def test_grid_ratio_and_aggregation(fixture: Fixture) -> None:
    c, given, expected = fixture.sidecar["config"], fixture.inputs, fixture.outputs
    coords, values, size = given["coords_raw"], given["positive_values"], c["grid_size"]
    ratio = torch.tensor(ReleasedDecoding().grid_ratio(coords, values, size), dtype=torch.float64)
    assert error(ratio, expected["hfer3d"]) < FORMULA
    scores = token_scores(coords, values, size)
    assert error(scores, expected["coords_scores"][:, 0]) < FORMULA
    for name in ("f100", "f125", "f150", "f200"):
        merged = ReleasedDecoding().aggregate(coords, expected[f"{name}/factor"].item(), size)
        assert torch.equal(merged.coords, expected[f"{name}/coords"])
        assert error(merged.pooled(scores), expected[f"{name}/scores"][:, 0]) < FORMULA
        assert merged.pose_factor == expected[f"{name}/factor"]
    mean = ReleasedDecoding().aggregate(coords, 1.5, size).pooled(scores, "mean")
    assert error(mean, expected["f150_mean/scores"][:, 0]) < FORMULA


@pytest.mark.kind("hfer3d_aggregation")
def test_decoding_factor(fixture: Fixture) -> None:
    c, expected = fixture.sidecar["config"], fixture.outputs
    weight = c["weights"]["w2d"]
    for row in expected["factor_table"].tolist():
        picture, grid, factor, joint, high, low = row
        config = ReleasedDecoding(high, low, weight, c["max_coords"], minimum=c["min_coords"])
        if factor > 1:
            assert config.joint_ratio(picture, grid) == pytest.approx(joint, abs=1e-12)
        assert config.factor(picture, grid, c["min_coords"]) == factor
    few, many = len(expected["few/coords"]), c["max_coords"]
    assert config.factor(0.6, 0.6, few) == expected["few/factor"]
    assert config.factor(0.9, 0.9, many) == expected["over_budget/factor"]
