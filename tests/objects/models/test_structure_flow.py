from dataclasses import replace

import pytest
import torch
from torch import Tensor

from loci.acceleration.presets import LAYOUT_LATENTS
from loci.flow import State
from loci.nn.attention import CrossAttention
from loci.nn.embeddings import cube_embedding, sincos_embedding
from loci.objects.models.structure_flow import (
    LAYOUT_STREAM,
    SHAPE,
    StructureFlow,
    StructureFlowConfig,
)
from loci.objects.sampling import StructureSampling, sample_structure

CONFIG = StructureFlowConfig(
    dim=32, condition_dim=24, blocks=2, heads=2, resolution=2, shape_channels=4, frequencies=16
)
MOMENT = torch.tensor([300.0])


@pytest.fixture
def flow() -> StructureFlow:
    torch.manual_seed(0)
    return StructureFlow(CONFIG).eval()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def latents(flow: StructureFlow, batch: int = 1, seed: int = 1) -> dict[str, Tensor]:
    return flow.noise(batch, torch.Generator().manual_seed(seed))


def condition(batch: int = 1) -> Tensor:
    return torch.randn(batch, 7, 24, generator=torch.Generator().manual_seed(2))


def largest_difference(a: State, b: State) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_gain_keys_and_values_kept_over_all_steps_change_nothing(flow: StructureFlow) -> None:
    context = flow.context(condition())
    for t in (0.0, 300.0, 900.0):
        time = torch.tensor([t])
        kept = flow.velocity(latents(flow), time, context)
        assert largest_difference(kept, flow(latents(flow), time, condition())) == 0


def test_gain_the_closed_form_is_what_attention_to_zeros_returns(flow: StructureFlow) -> None:
    zeros = torch.zeros(1, 7, 24)
    attention = CrossAttention(32, 24, 2)
    attended = attention(torch.randn(1, 5, 32), attention.keys_values(zeros))
    assert torch.allclose(attended, attention.unconditional().expand_as(attended), atol=1e-6)
    written_out = flow(latents(flow), MOMENT, zeros)
    assert largest_difference(flow(latents(flow), MOMENT, None), written_out) < 2e-6


def test_the_layout_never_disturbs_the_shape(flow: StructureFlow) -> None:
    """The protected stream; the other way round the layout does see the shape."""
    base, inputs = flow(latents(flow), MOMENT, condition()), latents(flow)
    other = flow(inputs | {"translation": inputs["translation"] + 1}, MOMENT, condition())
    assert torch.equal(other[SHAPE], base[SHAPE])
    assert not torch.allclose(other["scale"], base["scale"])
    other = flow(inputs | {SHAPE: inputs[SHAPE] + 1}, MOMENT, condition())
    assert not torch.allclose(other["scale"], base["scale"])


def test_trap_the_step_embedding_is_added_at_step_zero_too(flow: StructureFlow) -> None:
    base = flow(latents(flow), MOMENT, condition())
    zero = flow(latents(flow), MOMENT, condition(), torch.zeros(1))
    assert largest_difference(base, zero) == 0
    added = flow.embed_time(MOMENT, torch.zeros(1)) - flow.embed_time(MOMENT, None)
    assert torch.allclose(added, flow.d_embedder(torch.zeros(1)), atol=1e-6)
    assert added.abs().max() > 0.01


def test_every_latent_the_time_the_step_and_the_condition_matter(flow: StructureFlow) -> None:
    inputs = latents(flow)
    base = flow(inputs, MOMENT, condition())
    for name in inputs:
        changed = flow(inputs | {name: inputs[name] + 1}, MOMENT, condition())
        assert largest_difference(base, changed) > 1e-3, name
    assert largest_difference(base, flow(inputs, MOMENT + 200, condition())) > 1e-3
    assert largest_difference(base, flow(inputs, MOMENT, condition() + 1)) > 1e-3
    assert largest_difference(base, flow(inputs, MOMENT, condition(), MOMENT)) > 1e-3


def test_rows_of_a_batch_are_independent(flow: StructureFlow) -> None:
    inputs, given, time = latents(flow, 2), condition(2), torch.tensor([300.0, 800.0])
    both = flow(inputs, time, given)
    for row in range(2):
        one = slice(row, row + 1)
        alone = flow({n: x[one] for n, x in inputs.items()}, time[one], given[one])
        assert largest_difference({n: x[one] for n, x in both.items()}, alone) < 1e-5


def test_noise_is_drawn_in_alphabetical_order(flow: StructureFlow) -> None:
    drawn = latents(flow)
    assert set(drawn) == {*LAYOUT_LATENTS, SHAPE}
    assert list(drawn) == [LAYOUT_STREAM, "scale", "shape", "translation", "translation_scale"]
    generator = torch.Generator().manual_seed(1)
    for name, (tokens, channels) in flow.latent_shapes().items():
        expected = torch.randn(1, tokens, channels, generator=generator)
        assert torch.equal(drawn[name], expected), name


def test_the_shape_positions_are_a_stored_buffer(flow: StructureFlow) -> None:
    stored = flow.state_dict()["latent_mapping.shape.pos_emb"]
    assert torch.equal(stored, cube_embedding(2, 32))
    parameters = dict(flow.named_parameters())
    assert "latent_mapping.shape.pos_emb" not in parameters
    assert "latent_mapping.scale.pos_emb" in parameters


def test_positions_are_sines_then_cosines_per_axis_padded_with_zeros() -> None:
    code = sincos_embedding(torch.tensor([[0, 1, 2]]), 14)[0]
    angles = torch.tensor([[0.0, 0.0], [1.0, 0.01], [2.0, 0.02]])
    expected = torch.cat([angles.sin(), angles.cos()], dim=1).flatten()
    assert torch.allclose(code[:12], expected, atol=1e-6)
    assert code[12:].tolist() == [0, 0]
    first = sincos_embedding(torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0]]), 14)
    assert torch.equal(cube_embedding(2, 14)[:3], first)


def test_bfloat16_weights_take_and_give_float32_latents(flow: StructureFlow) -> None:
    exact = flow(latents(flow), MOMENT, condition())
    rough = flow.bfloat16()(latents(flow), MOMENT, condition())
    assert {x.dtype for x in rough.values()} == {torch.float32}
    assert largest_difference(exact, rough) < 0.1


def test_a_shortcut_run_is_unguided_and_tells_the_step(flow: StructureFlow) -> None:
    given, noise = condition(), latents(flow)
    settings = StructureSampling(steps=1, shortcut=True)
    context = flow.context(given)
    v = flow.velocity(noise, torch.zeros(1), context, torch.tensor([1000.0]))
    one_step = {name: noise[name] + v[name] for name in noise}
    assert largest_difference(sample_structure(flow, given, noise, settings), one_step) < 1e-6
    cool = sample_structure(flow, given, noise, replace(settings, temperature=0.5))
    half = {name: 0.5 * x for name, x in noise.items()}
    assert largest_difference(cool, sample_structure(flow, given, half, settings)) == 0
    assert largest_difference(cool, one_step) > 0.1
    guided = sample_structure(flow, given, noise, replace(settings, shortcut=False))
    assert largest_difference(guided, one_step) > 1e-3
