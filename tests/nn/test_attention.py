import math

import pytest
import torch
from torch.nn import functional as F

from loci.nn.attention import Attention, CrossAttention, KeysValues, dot_product_attention
from loci.nn.embeddings import apply_rotary, grid_rotary_embedding, split_pairs, timestep_embedding
from loci.nn.norms import (
    AffineLayerNorm,
    HeadRMSNorm,
    RMSNorm,
    gated_residual,
    layer_norm,
    modulate,
)


@pytest.mark.parametrize(
    ("pairs", "expected"), [(64, (22, 21, 21)), (16, (6, 5, 5)), (4, (2, 1, 1))]
)
def test_channel_pairs_are_split_as_published(pairs: int, expected: tuple[int, int, int]) -> None:
    assert split_pairs(pairs) == expected


def test_rotary_embedding_keeps_norms_and_depends_on_differences_only() -> None:
    at = grid_rotary_embedding(6, 3, 4, 24)
    q, k = torch.randn(2, 1, 1, 24).unbind(0)
    turned_q, turned_k = (apply_rotary(x.expand(1, 1, 72, 24)[0][None], at)[0, 0] for x in (q, k))
    assert torch.allclose(turned_q.norm(dim=-1), q.norm().expand(72), atol=1e-5)
    scores = (turned_q @ turned_k.T).view(6, 3, 4, 6, 3, 4)
    assert torch.allclose(scores[1, 0, 1, 3, 2, 2], scores[2, 0, 0, 4, 2, 1], atol=1e-5)
    assert not torch.allclose(scores[1, 0, 1, 3, 2, 2], scores[3, 2, 2, 1, 0, 1], atol=1e-3)


def test_attention_equals_its_formula() -> None:
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
def test_norms_keep_the_dtype(norm) -> None:
    x = torch.randn(2, 16).bfloat16()
    assert norm(x).dtype == torch.bfloat16


def test_heads_are_normalized_separately() -> None:
    norm, x = HeadRMSNorm(2, 4), torch.randn(1, 3, 2, 4)
    with torch.no_grad():
        norm.gamma[1] *= 3
    lengths = norm(x).norm(dim=-1)
    assert torch.allclose(lengths, torch.tensor([2.0, 6.0]).expand(1, 3, 2), atol=1e-5)
    assert norm(torch.zeros_like(x)).abs().max() == 0
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_cross_attention_equals_its_formula() -> None:
    attention = CrossAttention(24, 10, 3)
    x, y = torch.randn(2, 5, 24), torch.randn(2, 7, 10)
    q = attention.to_q(x).view(2, 5, 3, 8).transpose(1, 2)
    k, v = (p.view(2, 7, 3, 8).transpose(1, 2) for p in attention.to_kv(y).chunk(2, dim=-1))
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(8), dim=-1)
    expected = attention.to_out((weights @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(attention(x, attention.keys_values(y)), expected, atol=1e-5)
    with pytest.raises(ValueError, match="width 24 does not split into 5 heads"):
        CrossAttention(24, 10, 5)


def test_timestep_embeddings_begin_with_cosines() -> None:
    code = timestep_embedding(torch.tensor([0.0, 250.0]), 8)
    assert code[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert code[1, 0].item() == pytest.approx(math.cos(250), abs=1e-6)
    assert code[1, 5].item() == pytest.approx(math.sin(250 * 10000 ** (-1 / 4)), abs=1e-6)


def test_a_float32_modulation_of_bfloat16_tokens_is_computed_in_float32() -> None:
    x, update = torch.randn(2, 2, 5, 8).bfloat16().unbind(0)
    shift, scale = torch.randn(2, 2, 1, 8).unbind(0)
    bent, added = modulate(x, shift, scale), gated_residual(x, update, scale)
    assert bent.dtype == added.dtype == torch.bfloat16
    assert torch.equal(bent, (x.float() * (1 + scale) + shift).bfloat16())
    assert torch.equal(added, (x.float() + update.float() * scale).bfloat16())
    # In bfloat16 throughout when all of it is.
    narrow = shift.bfloat16(), scale.bfloat16()
    assert torch.equal(modulate(x, *narrow), x * (1 + narrow[1]) + narrow[0])


def inputs(dtype: torch.dtype, grad: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8))
    return [torch.randn(shape).to(dtype).requires_grad_(grad) for shape in shapes]


@pytest.mark.parametrize("masked", [False, True])
def test_explicit_products_equal_the_fused_kernel_with_gradients(masked: bool) -> None:
    mask = (
        torch.rand(2, 1, 1, 7, generator=torch.Generator().manual_seed(1)) > 0.4 if masked else None
    )
    narrow, wide = inputs(torch.bfloat16, True), inputs(torch.bfloat16, False)
    wide = [x.float().requires_grad_() for x in wide]
    q, k, v = narrow
    ours = dot_product_attention(q, k, v, mask)
    assert ours.dtype is torch.bfloat16
    assert "ScaledDotProduct" not in type(ours.grad_fn).__name__
    q, k, v = wide
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(ours.float(), theirs, atol=2e-2, rtol=2e-2)
    ours.float().square().sum().backward()
    theirs.square().sum().backward()
    for one, other in zip(narrow, wide, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad.float(), other.grad, atol=4e-2, rtol=4e-2)


def test_masked_keys_have_no_effect() -> None:
    queries, keys, values = inputs(torch.bfloat16, True)
    mask = torch.arange(7) < 4
    ours = dot_product_attention(queries, keys, values, mask=mask.expand(2, 1, 1, 7))
    fewer = dot_product_attention(queries, keys[:, :, :4], values[:, :, :4])
    torch.testing.assert_close(ours, fewer, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gradients_the_fused_kernel_is_used(dtype: torch.dtype) -> None:
    q, k, v = inputs(dtype, False)
    assert torch.equal(dot_product_attention(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_under_autocast_explicit_products_are_used() -> None:
    q, k, v = inputs(torch.float32, True)
    with torch.autocast("cpu", torch.bfloat16):
        ours = dot_product_attention(q, k, v)
    assert ours.dtype is torch.bfloat16
    assert "ScaledDotProduct" not in type(ours.grad_fn).__name__
    theirs = F.scaled_dot_product_attention(q, k, v)
    assert "ScaledDotProduct" in type(theirs.grad_fn).__name__, "torch calls its kernels otherwise"
    torch.testing.assert_close(ours.float(), theirs, atol=2e-2, rtol=2e-2)
