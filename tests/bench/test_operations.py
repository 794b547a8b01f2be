"""Counted operations, against the formulas."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from loci.bench.operations import OTHER, profiled
from loci.nn.conv import Conv3d
from loci.nn.cpu_inference import linear_gelu


@pytest.fixture(autouse=True)
def inference():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_products(dtype, bias):
    layer, x = nn.Linear(64, 128, bias).to(dtype), torch.randn(2, 10, 64).to(dtype)
    profile = profiled(lambda: linear_gelu(layer, layer.weight.new_ones(5, 64)) if bias else None)
    assert profile.operations == (2 * 5 * 64 * 128 if bias else 0)
    profile = profiled(lambda: F.relu(layer(x)))
    assert profile.operations == 2 * 20 * 64 * 128
    assert set(profile.seconds) == {"products", OTHER}
    assert all(seconds > 0 for seconds in profile.seconds.values())
    assert profiled(lambda: x @ x.mT).operations == 2 * 2 * 10 * 10 * 64


@pytest.mark.parametrize("masked", [True, False])
def test_attention(masked):
    q, k = torch.randn(1, 3, 10, 32), torch.randn(1, 3, 14, 32)
    mask = torch.ones(1, 1, 1, 14, dtype=torch.bool) if masked else None
    profile = profiled(lambda: F.scaled_dot_product_attention(q, k, k, attn_mask=mask))
    assert profile.operations == 4 * 3 * 10 * 14 * 32
    assert set(profile.seconds) == {"attention", OTHER}


@pytest.mark.parametrize("kind", [nn.Conv3d, Conv3d])
def test_convolutions(kind):
    layer, x = kind(4, 8, 3, padding=1), torch.randn(1, 4, 5, 6, 7)
    profile = profiled(lambda: layer(x))
    assert profile.operations == 2 * (8 * 5 * 6 * 7) * (4 * 27)
    assert set(profile.seconds) == {"convolutions", OTHER}
