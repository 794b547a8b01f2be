"""Whether the tensors of a file are those of a model: names, former names, shapes and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from loci.errors import LociError
from loci.io.tensor_files import PIECE, TensorInfo

T = TypeVar("T")
NAMES_SHOWN = 8
_EXPONENTS = {
    torch.float32: (torch.int32, 0x7F800000),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float16: (torch.int16, 0x7C00),
}
"""Integer type and bits that are all set in infinities and NaN."""
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LORA = ("lora_", ".lora.", "_lora.", "lokr_", "hada_w")
"""Parts of names that only low-rank adapters have."""
# What other published models have, and what of it Infinite-World and SAM 3D Objects have too.
OTHER_MODELS = (
    ("Infinite-World", ("patch_embedding.weight", "action_encoder.proj.weight"), ()),
    (
        "Wan 2.1 itself, which has neither actions nor memory",
        ("patch_embedding.weight", "blocks.0.self_attn.q.weight"),
        ("action_encoder.proj.weight",),
    ),
    (
        "Wan 2.1 in the layout of diffusers, which has neither actions nor memory",
        ("patch_embedding.weight", "condition_embedder.time_embedder.linear_1.weight"),
        (),
    ),
    ("the Wan 2.1 autoencoder", ("encoder.downsamples.0.residual.0.gamma", "conv1.weight"), ()),
    ("the UMT5 text encoder", ("token_embedding.weight", "blocks.0.ffn.gate.0.weight"), ()),
    ("a generator of SAM 3D Objects", ("_base_models.condition_embedder.idx_emb",), ()),
    (
        "a flow of TRELLIS, which has other conditions than SAM 3D Objects",
        ("t_embedder.mlp.0.weight", "blocks.0.self_attn.to_qkv.weight", "input_layer.weight"),
        ("latent_mapping.shape.input_layer.weight",),
    ),
)


def check_fit(
    expected: Mapping[str, TensorInfo], found: Mapping[str, TensorInfo], what: str
) -> None:
    """Raises LociError listing every missing, unexpected or misshapen tensor (the first few of
    each, and counts), types that are no weights, low-rank adapters, or naming the other model that
    this is. `what` names the weights."""
    if adapters := [name for name in found if any(part in name for part in LORA)]:
        raise LociError(
            f"{what}: a LoRA file ({len(adapters)} tensors such as {adapters[0]}), expected whole "
            "weights; low-rank adapters are not supported: merge them into the model first, and "
            "load the result"
        )
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {list(found[name].shape)} instead of {list(info.shape)}"
        for name, info in expected.items()
        if name in found and found[name].shape != info.shape
    ]
    _check_types(expected, found, what)
    problems = [
        f"{len(names)} {kind}: {first_few(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
        )
        if names
    ]
    if not problems:
        return
    other = other_model(found) if missing else None
    is_other = "" if other is None or other == other_model(expected) else f"this is {other}; "
    raise LociError(f"{what}: {is_other}weights do not fit the model; " + "; ".join(problems))


def _check_types(
    expected: Mapping[str, TensorInfo], found: Mapping[str, TensorInfo], what: str
) -> None:
    wrong = sorted(
        name
        for name, info in expected.items()
        if name in found and info.dtype.is_floating_point and found[name].dtype not in FLOATS
    )
    if wrong:
        kind = str(found[wrong[0]].dtype).removeprefix("torch.")
        raise LociError(
            f"{what}: quantised weights ({kind}: {first_few(wrong)}), expected float32, bfloat16 "
            "or float16; use a version of the model that is not quantised"
        )


def other_model(names: Iterable[str]) -> str | None:
    """The published model that has tensors of these names, if it is one that is known."""
    names = set(names)
    for model, has, lacks in OTHER_MODELS:
        if names.issuperset(has) and not names.intersection(lacks):
            return model
    return None


def first_few(names: list[str]) -> str:
    """The first few of the names, and how many there are more."""
    few = ", ".join(names[:NAMES_SHOWN])
    return few if len(names) <= NAMES_SHOWN else f"{few} and {len(names) - NAMES_SHOWN} more"


def current_names(tensors: Mapping[str, T], former: Mapping[str, str]) -> dict[str, T]:
    """Tensors by name, where a name that begins as one of `former` begins as its new one."""

    def renamed(name: str) -> str:
        old = next((old for old in former if name.startswith(old)), "")
        return former[old] + name.removeprefix(old) if old else name

    return {renamed(name): tensor for name, tensor in tensors.items()}


def rename_tensors(tensors: dict[str, Tensor], prefix: str, former: Mapping[str, str]) -> None:
    """Renames tensors in place: after `prefix`, former beginnings of names to new."""
    for old, new in former.items():
        for name in [name for name in tensors if name.startswith(prefix + old)]:
            tensors[prefix + new + name.removeprefix(prefix + old)] = tensors.pop(name)


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither infinities nor NaN.

    On one thread, by the bits of the exponents: many small tensors are slow on several.
    """
    bits = _EXPONENTS.get(tensor.dtype)
    if bits is None or tensor.is_meta:
        return True
    for piece in tensor.detach().reshape(-1).split(PIECE):
        numbers = piece.cpu().contiguous().view(bits[0]).numpy()
        if ((numbers & bits[1]) == bits[1]).any():
            return False
    return True
