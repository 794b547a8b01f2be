"""The quicker convolution is the same convolution."""

import pytest
import torch
from torch import nn

from loci.nn.conv import Conv3d


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0)])
def test_results_equal_torch(batch: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    ours = Conv3d(3, 5, 3, stride=stride, padding=padding)
    plain = nn.Conv3d(3, 5, 3, stride=stride, padding=padding)
    plain.load_state_dict(ours.state_dict())
    volume = torch.randn(batch, 3, 7, 8, 9).transpose(2, 4)
    with torch.no_grad():
        assert torch.allclose(ours(volume), plain(volume), atol=1e-5)


def test_onednn_is_used_for_one_sample_with_zero_padding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    onednn = torch.mkldnn_convolution
    monkeypatch.setattr(
        torch, "mkldnn_convolution", lambda x, *rest: (asked.append(len(x)), onednn(x, *rest))[1]
    )
    volume = torch.randn(2, 2, 4, 4, 4)
    conv, around = Conv3d(2, 2, 3, padding=1), Conv3d(2, 2, 3, padding=1)
    around.padding_mode = "circular"
    with torch.no_grad():
        for x in (volume, volume[:1]):
            conv(x)
            around(x)
        with torch.backends.mkldnn.flags(enabled=False):
            conv(volume[:1])
    assert asked == ([1] if torch.backends.mkldnn.is_available() else [])


def test_gradients_are_computed_where_needed() -> None:
    torch.manual_seed(0)
    conv = Conv3d(2, 2, 3, padding=1)
    volume = torch.randn(1, 2, 4, 4, 4, requires_grad=True)
    conv(volume).square().sum().backward()
    assert volume.grad is not None
    assert volume.grad.abs().sum() > 0
    with torch.no_grad():
        assert conv(torch.randn(1, 2, 4, 4, 4)).shape == (1, 2, 4, 4, 4)
