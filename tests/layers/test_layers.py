import math

import pytest
import torch

from loci.layers.attention import Attention, KeysValues
from loci.layers.cross_attention import CrossAttention
from loci.layers.modulation import gated, modulated
from loci.layers.norms import AffineLayerNorm, HeadRMSNorm, RMSNorm, layer_norm
from loci.layers.rotary import grid_rotation, rotate, split_pairs
from loci.layers.timestep import timestep_code


@pytest.mark.parametrize(
    ("pairs", "expected"), [(64, (22, 21, 21)), (16, (6, 5, 5)), (4, (2, 1, 1))]
)
def test_pairs_are_shared_out_as_released(pairs: int, expected: tuple[int, int, int]) -> None:
    assert split_pairs(pairs) == expected


def test_rotation_keeps_lengths_and_sees_only_differences() -> None:
    at = grid_rotation(6, 3, 4, 24)
    q, k = torch.randn(2, 1, 1, 24).unbind(0)
    turned_q, turned_k = (rotate(x.expand(1, 1, 72, 24)[0][None], at)[0, 0] for x in (q, k))
    assert torch.allclose(turned_q.norm(dim=-1), q.norm().expand(72), atol=1e-5)
    scores = (turned_q @ turned_k.T).view(6, 3, 4, 6, 3, 4)
    assert torch.allclose(scores[1, 0, 1, 3, 2, 2], scores[2, 0, 0, 4, 2, 1], atol=1e-5)
    assert not torch.allclose(scores[1, 0, 1, 3, 2, 2], scores[3, 2, 2, 1, 0, 1], atol=1e-3)


def test_attention_is_the_written_out_formula() -> None:
    attention = Attention(24, 3)
    x, y = torch.randn(2, 5, 24), torch.randn(2, 7, 24)
    q, (k, v) = attention.queries(x), attention.keys_values(y)
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(8), dim=-1)
    expected = attention.o((weights @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(attention.attend(q, KeysValues(k, v)), expected, atol=1e-5)


def test_a_width_that_does_not_split_is_refused() -> None:
    with pytest.raises(ValueError, match="width 30 does not split into 4 heads"):
        Attention(30, 4)


@pytest.mark.parametrize(
    "norm", [layer_norm, RMSNorm(16).bfloat16(), AffineLayerNorm(16).bfloat16()]
)
def test_norms_return_the_type_they_were_given(norm) -> None:
    x = torch.randn(2, 16).bfloat16()
    assert norm(x).dtype == torch.bfloat16


def test_each_head_has_a_norm_of_its_own() -> None:
    norm, x = HeadRMSNorm(2, 4), torch.randn(1, 3, 2, 4)
    with torch.no_grad():
        norm.gamma[1] *= 3
    lengths = norm(x).norm(dim=-1)
    assert torch.allclose(lengths, torch.tensor([2.0, 6.0]).expand(1, 3, 2), atol=1e-5)
    assert norm(torch.zeros_like(x)).abs().max() == 0
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_cross_attention_is_the_written_out_formula() -> None:
    attention = CrossAttention(24, 10, 3)
    x, y = torch.randn(2, 5, 24), torch.randn(2, 7, 10)
    q = attention.to_q(x).view(2, 5, 3, 8).transpose(1, 2)
    k, v = (p.view(2, 7, 3, 8).transpose(1, 2) for p in attention.to_kv(y).chunk(2, dim=-1))
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(8), dim=-1)
    expected = attention.to_out((weights @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(attention(x, attention.keys_values(y)), expected, atol=1e-5)
    with pytest.raises(ValueError, match="width 24 does not split into 5 heads"):
        CrossAttention(24, 10, 5)


def test_timesteps_are_coded_cosines_first() -> None:
    code = timestep_code(torch.tensor([0.0, 250.0]), 8)
    assert code[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert code[1, 0].item() == pytest.approx(math.cos(250), abs=1e-6)
    assert code[1, 5].item() == pytest.approx(math.sin(250 * 10000 ** (-1 / 4)), abs=1e-6)


def test_a_float32_modulation_of_bfloat16_tokens_is_computed_in_float32() -> None:
    x, update = torch.randn(2, 2, 5, 8).bfloat16().unbind(0)
    shift, scale = torch.randn(2, 2, 1, 8).unbind(0)
    bent, added = modulated(x, shift, scale), gated(x, update, scale)
    assert bent.dtype == added.dtype == torch.bfloat16
    assert torch.equal(bent, (x.float() * (1 + scale) + shift).bfloat16())
    assert torch.equal(added, (x.float() + update.float() * scale).bfloat16())
    # In bfloat16 throughout when all of it is.
    narrow = shift.bfloat16(), scale.bfloat16()
    assert torch.equal(modulated(x, *narrow), x * (1 + narrow[1]) + narrow[0])
