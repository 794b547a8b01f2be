"""Where the weights of a model are while it computes, all in memory, streamed, or int8."""

from __future__ import annotations

import hashlib
from typing import Literal, TypeVar

import torch
from torch import nn

from loci.nn.int8 import quantize_linears
from loci.nn.streamed import stream_blocks

WeightPlacement = Literal["resident", "streamed", "int8"]
"""resident: all of them in memory; streamed: block by block from disk, with the same results; int8:
linear layers of blocks in a byte a number, with results that differ slightly."""
ModuleT = TypeVar("ModuleT", bound=nn.Module)
_KEPT = "_fingerprint_of_original"


def place_weights(
    module: ModuleT,
    device: torch.device | str,
    dtype: torch.dtype,
    weights: WeightPlacement = "resident",
    blocks: str = "blocks",
) -> ModuleT:
    """The module on its device, in its element type, with its blocks as `weights` says.

    Args:
        module: as it was loaded, its weights mapped files; changed in place.
        device: where it computes.
        dtype: of activations, and of weights but for int8.
        weights: of the blocks; what lies outside of them is resident.
        blocks: the name of the list of blocks.
    """
    if weights == "streamed":
        stream_blocks(module, blocks, torch.device(device), dtype)
    elif weights == "int8":
        setattr(module, _KEPT, fingerprint(module))
        quantize_linears(getattr(module, blocks), dtype)
    return module.to(device, dtype)


def fingerprint(module: nn.Module) -> str:
    """Tells one training of the same configuration from another: a hash of a few weights, which
    does not see the type they are kept in."""
    if (kept := getattr(module, _KEPT, None)) is not None:
        return kept
    few = [tensor.flatten()[:4] for tensor in module.state_dict().values()]
    content = torch.cat([part.to("cpu", torch.bfloat16) for part in few]).float().numpy()
    return hashlib.sha256(content.tobytes()).hexdigest()[:16]
