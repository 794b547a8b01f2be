"""The device and the element type that a model computes in."""

from pathlib import Path

import torch

from loci.errors import LociError
from loci.io.models import LARGE, weight_bytes


def available_device(device: str | torch.device, option: str = "device") -> torch.device:
    """A device of this machine.

    Args:
        device: as torch names it.
        option: what errors call it.

    Raises:
        LociError: when there is no such device.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise LociError(f"{option}: {device!r}, expected cpu, cuda or mps") from error
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise LociError(f"{option}: there is no {found} on this machine") from error
    return found


def automatic_dtype(model: Path, device: torch.device) -> torch.dtype:
    """bfloat16 for large models on CUDA devices that compute in it natively, as published models
    are run by their authors; otherwise float32."""
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native and weight_bytes(model) > LARGE else torch.float32
