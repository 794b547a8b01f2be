from dataclasses import replace

import pytest
import torch
from torch import Tensor

from loci.nn.sparse.voxels import Voxels
from loci.objects.models.slat_flow import SlatFlow, SlatFlowConfig, SlatStatistics
from loci.objects.sampling import SlatSampling, sample_slat, slat_noise

SMALL = SlatFlowConfig(dim=32, condition_dim=12, blocks=2, heads=2, io_channels=(16,))


def small_flow(config: SlatFlowConfig = SMALL) -> SlatFlow:
    torch.manual_seed(0)
    flow = SlatFlow(config)
    for parameter in flow.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return flow.eval()


def ball(side: int = 8, item: int = 0) -> Tensor:
    """Coordinates of a solid ball."""
    coords = torch.cartesian_prod(torch.tensor([item]), *(torch.arange(side),) * 3)
    return coords[(coords[:, 1:] - (side - 1) / 2).norm(dim=1) < side / 2]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("io_channels", [(16,), (8, 16)])
def test_one_velocity_for_every_voxel(io_channels: tuple[int, ...]) -> None:
    config = SlatFlowConfig(
        dim=32, condition_dim=12, blocks=1, heads=2, io_channels=io_channels, io_blocks=3
    )
    flow, voxels = small_flow(config), Voxels(ball())
    noise = slat_noise(flow, voxels, torch.Generator().manual_seed(1))
    out = flow(noise, torch.tensor([300.0]), voxels, torch.randn(1, 5, 12))
    assert out.shape == noise.shape
    assert not torch.allclose(out, flow(noise, torch.tensor([900.0]), voxels, None))


def test_items_of_a_batch_do_not_see_each_other() -> None:
    flow = small_flow()
    places = [Voxels(ball(8)), Voxels(ball(6))]
    noise = [torch.randn(len(p), 8) for p in places]
    condition, time = torch.randn(2, 5, 12), torch.tensor([100.0, 700.0])
    both = Voxels(torch.cat([ball(8), ball(6, item=1)]))
    together = flow(torch.cat(noise), time, both, condition)
    alone = [flow(noise[i], time[[i]], places[i], condition[[i]]) for i in range(2)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_the_unconditional_branch_is_a_condition_of_zeros() -> None:
    """The closed form of cross-attention changes no number (SAM 3D Objects, 4.4)."""
    flow, voxels = small_flow(), Voxels(ball())
    noise, time = slat_noise(flow, voxels), torch.tensor([400.0])
    zeros = flow(noise, time, voxels, torch.zeros(1, 9, 12))
    assert torch.allclose(flow(noise, time, voxels, None), zeros, atol=1e-5)


def test_keys_kept_over_all_steps_change_nothing() -> None:
    flow, voxels, condition = small_flow(), Voxels(ball()), torch.randn(1, 5, 12)
    noise, context = slat_noise(flow, voxels), flow.context(condition)
    for t in (0.0, 250.0, 960.0):
        time = torch.tensor([t])
        kept = flow.velocity(noise, time, voxels, context)
        assert torch.equal(kept, flow(noise, time, voxels, condition))


def test_preserved_latents_are_denormalized_with_the_pipelines_numbers() -> None:
    """Trap of SAM 3D Objects, 8: the numbers of pipeline.yaml, not those in the code."""
    statistics = SlatStatistics()
    start = statistics.denormalize(torch.zeros(1, 8))
    assert start[0, :2].tolist() == pytest.approx([0.12211431, 0.37204156])
    spread = statistics.denormalize(torch.ones(1, 8)) - start
    assert spread[0, -2:].tolist() == pytest.approx([2.41684985, 2.08374643], abs=1e-5)
    latents = torch.randn(4, 8)
    assert torch.allclose(statistics.normalize(statistics.denormalize(latents)), latents, atol=1e-5)


def test_the_published_run_takes_thirty_eight_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, voxels = small_flow(), Voxels(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]]))
    asked = {"conditional": 0, "unconditional": 0}
    published = flow.velocity

    def counted(latents, time, voxels, context):
        asked["unconditional" if context is None else "conditional"] += 1
        assert time.shape == (1,)
        return published(latents, time, voxels, context)

    monkeypatch.setattr(flow, "velocity", counted)
    sample_slat(flow, torch.randn(1, 5, 12), voxels, slat_noise(flow, voxels))
    assert asked == {"conditional": 25, "unconditional": 13}
    sample_slat(
        flow,
        torch.randn(1, 5, 12),
        voxels,
        slat_noise(flow, voxels),
        SlatSampling(steps=4, guidance_strength=0.0),
    )
    assert asked == {"conditional": 29, "unconditional": 13}


def test_pixel_aligned_features_change_the_velocity_and_none_equal_zeros() -> None:
    flow, voxels = small_flow(replace(SMALL, aligned=6)), Voxels(ball())
    noise, condition, time = slat_noise(flow, voxels), torch.randn(1, 5, 12), torch.tensor([9.0])
    without = flow(noise, time, voxels, condition)
    pixels = torch.zeros(len(voxels), 6)
    assert torch.equal(flow(noise, time, voxels, condition, pixels), without)
    pixels[3] = 1
    changed = (flow(noise, time, voxels, condition, pixels) - without).abs().amax(dim=1)
    assert changed[3] > 1e-3
    with pytest.raises(ValueError, match=f"features of 1 for {len(voxels)} voxels"):
        flow(noise, time, voxels, condition, pixels[:1])
    context = flow.context(condition, pixels)
    assert context is not None
    assert context.aligned is not None
    indices = torch.tensor([5, 3])
    part = context.part(indices).aligned
    assert part is not None
    assert torch.equal(part, context.aligned[indices])
    with pytest.raises(ValueError, match="4 pixel-aligned features, expected 6"):
        flow.context(condition, pixels[:, :4])
    with pytest.raises(ValueError, match="6 pixel-aligned features, expected 0"):
        small_flow().context(condition, pixels)


def test_a_lower_temperature_begins_with_less_noise() -> None:
    flow, voxels = small_flow(), Voxels(ball())
    noise, condition = slat_noise(flow, voxels), torch.randn(1, 5, 12)
    cool = SlatSampling(steps=2, temperature=0.5)
    found = sample_slat(flow, condition, voxels, noise, cool)
    plain = replace(cool, temperature=1.0)
    assert torch.equal(found, sample_slat(flow, condition, voxels, 0.5 * noise, plain))
    assert not torch.allclose(found, sample_slat(flow, condition, voxels, noise, plain))
    with pytest.raises(ValueError, match="temperature: -1, expected a number from 0 on"):
        replace(cool, temperature=-1)


def test_bfloat16_keeps_to_its_type() -> None:
    flow, voxels = small_flow(), Voxels(ball(4))
    noise, time, condition = (
        slat_noise(flow, voxels),
        torch.tensor([250.0]),
        torch.randn(1, 5, 12),
    )
    full = flow(noise, time, voxels, condition)
    low = flow.bfloat16()(noise, time, voxels, condition)
    assert low.dtype == torch.float32
    assert (low - full).abs().max() < 0.1 * full.abs().max()


def test_latents_must_be_as_many_as_voxels() -> None:
    flow, voxels = small_flow(), Voxels(ball(4))
    with pytest.raises(ValueError, match=f"3 latents for {len(voxels)} voxels"):
        flow(torch.randn(3, 8), torch.tensor([1.0]), voxels, None)


def test_a_flow_without_a_finer_level_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one level of at least two"):
        SlatFlow(SlatFlowConfig(io_channels=()))
