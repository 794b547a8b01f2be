"""Segmentation of the object in a box or at a point by Segment Anything (arXiv 2304.02643).

The network is that of transformers, with weights from a folder in its layout. The package's own
reading of pictures needs torchvision, and is done here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loci.errors import LociError, install_hint
from loci.io.config_files import read_json
from loci.io.files import shown
from loci.objects.inputs.segmentation import check_box, check_point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, UInt8
    from torch import Tensor

CONFIG = "config.json"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXPECTED = "expected the folder of a SAM in the layout of transformers, as facebook/sam-vit-base"


def load_sam(folder: Path) -> Any:
    """The network.

    Args:
        folder: with config.json and the weights.

    Raises:
        LociError: when transformers is missing, or the folder holds no SAM.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise LociError(f"{shown(folder)}: {found}, {EXPECTED}")
    try:
        from transformers import SamModel
    except ImportError as error:
        raise LociError(f"--sam needs transformers: {install_hint('sam')}") from error
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if not isinstance(config, dict) or config.get("model_type") != "sam":
        raise LociError(f"{shown(folder)}: no {CONFIG} of one, {EXPECTED}")
    try:
        loaded: Any = SamModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        network, told = loaded
    except Exception as error:  # of whatever kind, by what is wrong with the files
        reason = type(error).__name__
        raise LociError(f"{shown(folder)}: cannot be loaded ({reason}), {EXPECTED}") from error
    if told["missing_keys"]:
        raise LociError(f"{shown(folder)}: weights are missing, {EXPECTED}")
    return network.eval()


def mask_from_box(
    network: Any, pixels: UInt8[np.ndarray, "h w 3"], box: tuple[int, int, int, int]
) -> Bool[np.ndarray, "h w"]:
    """The object in a box.

    Args:
        network: from `load_sam`.
        pixels: RGB.
        box: columns x0 <= x < x1 and rows y0 <= y < y1.

    Raises:
        LociError: when the box is not inside the picture, or nothing is found there.
    """
    return _best_mask(network, pixels, check_box(pixels, box), box=box)


def mask_from_point(
    network: Any, pixels: UInt8[np.ndarray, "h w 3"], point: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """The object at a point: of the three masks of a click, the one that the network trusts most.

    Args:
        network: from `load_sam`.
        pixels: RGB.
        point: column and row.

    Raises:
        LociError: when the point is not inside the picture, or nothing is found there.
    """
    return _best_mask(network, pixels, check_point(pixels, point), point=point)


def _best_mask(
    network: Any,
    pixels: UInt8[np.ndarray, "h w 3"],
    name: str,
    box: Sequence[int] | None = None,
    point: Sequence[int] | None = None,
) -> Bool[np.ndarray, "h w"]:
    import torch
    from torch.nn import functional as F

    height, width = pixels.shape[:2]
    side = int(network.config.vision_config.image_size)
    share = side / max(height, width)
    rows, columns = (max(1, round(n * share)) for n in (height, width))
    picture = _normalized(pixels, (rows, columns))
    picture = F.pad(picture, (0, side - columns, 0, side - rows))
    scale = torch.tensor([columns / width, rows / height])
    prompt: dict[str, Any] = {"multimask_output": box is None}
    if box is not None:
        prompt["input_boxes"] = (torch.tensor(box).view(2, 2) * scale).view(1, 1, 4)
    if point is not None:
        prompt["input_points"] = ((torch.tensor(point) + 0.5) * scale).view(1, 1, 1, 2)
        prompt["input_labels"] = torch.ones(1, 1, 1, dtype=torch.long)
    with torch.no_grad():
        found = network(pixel_values=picture[None], **prompt)
    logits = found.pred_masks[0, 0, found.iou_scores[0, 0].argmax()]
    logits = F.interpolate(logits[None, None], (side, side), mode="bilinear")
    logits = F.interpolate(logits[..., :rows, :columns], (height, width), mode="bilinear")
    inside = (logits[0, 0] > 0).numpy()
    if not inside.any() or inside.all():
        raise LociError(f"{name}: no object found there; give a --mask")
    return inside


def _normalized(
    pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> Float[Tensor, "3 r c"]:
    import torch
    from torch.nn import functional as F

    picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    resized = F.interpolate(picture, size, mode="bilinear", antialias=True)[0] / 255
    mean, std = (resized.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (resized - mean) / std
