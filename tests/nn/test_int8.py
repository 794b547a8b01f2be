"""Linear layers with weights of one byte."""

import torch
from torch import nn

from loci.nn.int8 import Int8Linear, quantize_linears, quantized


def test_weights_are_rounded_to_the_nearest_level_of_their_channel() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 64) * torch.logspace(-3, 3, 5)[:, None]
    weight[2] = 0
    levels, scale = quantized(weight)
    assert levels.dtype == torch.int8
    error = (levels * scale[:, None] - weight).abs()
    assert (error <= 0.5001 * scale[:, None]).all()
    assert levels.abs().amax(dim=1).tolist() == [127, 127, 0, 127, 127]


def test_a_layer_is_near_the_original_in_half_the_memory() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(256, 128).bfloat16()
    small = Int8Linear(layer.weight, layer.bias, torch.bfloat16)
    x = torch.randn(7, 256).bfloat16()
    exact, found = layer(x).float(), small(x).float()
    assert found.sub(exact).norm() < 0.012 * exact.norm()
    nbytes = sum(t.nbytes for t in small.state_dict().values())
    assert nbytes < 0.53 * sum(t.nbytes for t in layer.state_dict().values())


def test_scales_stay_exact_when_the_rest_changes_its_type() -> None:
    layer = Int8Linear(torch.randn(4, 8), torch.zeros(4), torch.float32)
    scale = layer.scale.clone()
    layer.to(torch.bfloat16)
    assert torch.equal(layer.scale, scale)
    assert layer.bias is not None
    assert layer.bias.dtype == torch.bfloat16


def test_every_linear_layer_inside_is_replaced() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"a": nn.Linear(4, 4, bias=False)}))
    quantize_linears(model, torch.bfloat16)
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 2
