"""The short forms for bfloat16 on the CPU agree with the plain ones in float32."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from loci.nn.attention import FeedForward
from loci.nn.cpu_inference import infers_bfloat16_on_cpu, linear_gelu
from loci.nn.embeddings import apply_rotary, grid_rotary_embedding
from loci.nn.int8 import Int8Linear
from loci.nn.norms import AffineLayerNorm, layer_norm, modulate, modulated_norm

LAST_BIT = 2**-7
"""Relative spacing of bfloat16, half of which is lost in one rounding."""


def near(narrow: torch.Tensor, wide: torch.Tensor, bits: float = 0.6) -> bool:
    """Within a rounding to bfloat16 of the largest number of `wide`, and in bfloat16."""
    error = (narrow.float() - wide).abs() / wide.abs().clamp(min=0.1)
    return narrow.dtype is torch.bfloat16 and float(error.max()) <= bits * LAST_BIT


@pytest.fixture(autouse=True)
def inference():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def test_short_forms_are_for_inference_in_bfloat16_on_the_cpu():
    x = torch.zeros(2, 4)
    assert infers_bfloat16_on_cpu(x.bfloat16())
    assert not infers_bfloat16_on_cpu(x)
    assert not infers_bfloat16_on_cpu(x.half())
    assert not infers_bfloat16_on_cpu(x.bfloat16().to("meta"))
    with torch.enable_grad():
        assert not infers_bfloat16_on_cpu(x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not infers_bfloat16_on_cpu(x.bfloat16())


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("shape", [(5, 32), (2, 5, 32)])
def test_gelu_is_applied_before_the_sums_are_rounded(approximate, shape):
    layer = nn.Linear(32, 64).bfloat16()
    x = torch.randn(shape).bfloat16()
    wide = F.gelu(
        F.linear(x.float(), layer.weight.float(), layer.bias.float()), approximate=approximate
    )
    assert near(linear_gelu(layer, x, approximate), wide)


def test_gelu_of_layers_that_are_not_plain():
    layer = Int8Linear(torch.randn(64, 32), torch.randn(64), torch.bfloat16)
    x = torch.randn(5, 32).bfloat16()
    assert linear_gelu(layer, x).equal(F.gelu(layer(x), approximate="tanh"))


def test_a_feed_forward_layer_keeps_its_names_and_its_result():
    layer = FeedForward(32, 64)
    assert set(layer.state_dict()) == {f"mlp.{i}.{n}" for i in (0, 2) for n in ("weight", "bias")}
    x = torch.randn(3, 7, 32)
    assert layer(x).equal(layer.mlp(x))
    wide = layer.bfloat16().float()(x.bfloat16().float())
    error = layer.bfloat16()(x.bfloat16()).float() - wide
    assert error.norm() < LAST_BIT / 2 * wide.norm()


def test_a_modulated_norm_is_rounded_once():
    x = (3 * torch.randn(1, 7, 64) + 2).bfloat16()
    shift, scale = torch.randn(2, 1, 1, 64)
    wide = modulate(layer_norm(x.float()), shift, scale)
    assert near(modulated_norm(x, shift, scale), wide)
    assert modulated_norm(x.float(), shift, scale).equal(wide)


@pytest.mark.parametrize("shape", [(2, 1, 64), (2, 7, 64), (7, 64)])
def test_a_modulated_norm_with_several_vectors(shape):
    x = torch.randn(7, 64) if len(shape) == 2 else torch.randn(2, 7, 64)
    x, (shift, scale) = x.bfloat16(), torch.randn(2, *shape)
    assert modulated_norm(x, shift, scale).equal(modulate(layer_norm(x), shift, scale))


def test_norms_are_computed_in_float32():
    x = (3 * torch.randn(2, 7, 64) + 2).bfloat16()
    assert near(layer_norm(x), layer_norm(x.float()))
    norm = AffineLayerNorm(64, 1e-6)
    nn.init.normal_(norm.weight)
    norm = norm.bfloat16()
    assert near(norm(x), norm.float()(x.float()))


@pytest.mark.parametrize("batched", [False, True])
def test_rotation_is_computed_in_float32(batched):
    rotary = grid_rotary_embedding(2, 3, 4, 12)
    if batched:
        rotary = type(rotary)(*(torch.stack([part, part.flip(0)]) for part in rotary))
    x = torch.randn(2, 24, 3, 12).transpose(1, 2).bfloat16()
    assert near(apply_rotary(x, rotary), apply_rotary(x.float(), rotary))
