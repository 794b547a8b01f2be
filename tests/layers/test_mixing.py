import pytest
import torch
from torch.nn import functional as F

from loci.layers.mixing import mixed_values


def inputs(dtype: torch.dtype, grad: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8))
    return [torch.randn(shape).to(dtype).requires_grad_(grad) for shape in shapes]


@pytest.mark.parametrize("masked", [False, True])
def test_written_out_it_is_the_same_with_the_same_gradients(masked: bool) -> None:
    mask = (
        torch.rand(2, 1, 1, 7, generator=torch.Generator().manual_seed(1)) > 0.4 if masked else None
    )
    narrow, wide = inputs(torch.bfloat16, True), inputs(torch.bfloat16, False)
    wide = [x.float().requires_grad_() for x in wide]
    q, k, v = narrow
    ours = mixed_values(q, k, v, mask)
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


def test_masked_keys_are_not_looked_at() -> None:
    queries, keys, values = inputs(torch.bfloat16, True)
    mask = torch.arange(7) < 4
    ours = mixed_values(queries, keys, values, mask=mask.expand(2, 1, 1, 7))
    fewer = mixed_values(queries, keys[:, :, :4], values[:, :, :4])
    torch.testing.assert_close(ours, fewer, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gradients_it_is_the_fused_kernel(dtype: torch.dtype) -> None:
    q, k, v = inputs(dtype, False)
    assert torch.equal(mixed_values(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_under_autocast_it_is_written_out_too() -> None:
    q, k, v = inputs(torch.float32, True)
    with torch.autocast("cpu", torch.bfloat16):
        ours = mixed_values(q, k, v)
    assert ours.dtype is torch.bfloat16
    assert "ScaledDotProduct" not in type(ours.grad_fn).__name__
    theirs = F.scaled_dot_product_attention(q, k, v)
    assert "ScaledDotProduct" in type(theirs.grad_fn).__name__, "torch calls its kernels otherwise"
    torch.testing.assert_close(ours.float(), theirs, atol=2e-2, rtol=2e-2)
