"""The device and the element type that a model computes in."""

from pathlib import Path

import pytest
import torch

from loci.errors import LociError
from loci.nn import device as nn_device
from loci.nn.device import automatic_dtype, available_device


def test_a_device_that_is_not_there_is_named() -> None:
    assert available_device("cpu") == available_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(LociError, match="^device: 'gpu', expected cpu, cuda or mps"):
        available_device("gpu")
    with pytest.raises(LociError, match="^--device: there is no xpu on this machine"):
        available_device("xpu", "--device")


def test_auto_is_bfloat16_for_large_models_on_devices_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(60))
    (tmp_path / "model.json").write_bytes(bytes(60))
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    for native, limit, device, expected in (
        (True, 59, cuda, torch.bfloat16),
        (True, 60, cuda, torch.float32),
        (False, 59, cuda, torch.float32),
        (True, 59, cpu, torch.float32),
    ):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, native=native, **__: native)
        monkeypatch.setattr(nn_device, "LARGE", limit)
        assert automatic_dtype(tmp_path, device) == expected
