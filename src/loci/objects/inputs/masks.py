"""Masks in: files, arrays, tensors, label images, run lengths and polygons, as booleans."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loci.errors import LociError
from loci.io.files import shown
from loci.io.images import open_image, upright
from loci.objects.inputs.coco import listed, mask_from_coco

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

MAX_MIDTONES = 0.2
"""Share of a mask's pixels that are neither dark nor bright; photographs have more."""
DARK, BRIGHT = 0.1, 0.9
MAX_TONES = 2
"""Different values among these that a coloured mask may have."""


def read_mask(
    source: Any,
    name: str = "mask",
    size: tuple[int, int] | None = None,
    label: int | None = None,
) -> Bool[np.ndarray, "h w"]:
    """A mask, True inside, at its own size, upright as `read_pixels` makes the picture.

    Inside is what is bright in a file: more than half of the range in any channel, or 1 in a
    file of zeros and ones. Where a file is partly transparent its opacity counts instead of its
    colours. Arrays and tensors are booleans, bytes (0..255, or 0 and 1), floats in [0, 1], or
    logits, which are positive inside; leading axes of length 1 are dropped.

    Args:
        source: a picture file, a Pillow image, an array or tensor `[h, w]`, a COCO mask as a
            dictionary, or a .json file with one (`coco.mask_from_coco`).
        name: what an error calls a mask that is no file.
        size: height and width of the picture, for polygons.
        label: of a label image: inside is what has this value. Of a list of annotations: the id.

    Raises:
        LociError: when it cannot be read, leaves open what is inside, or holds nothing.
    """
    if hasattr(source, "detach"):  # a tensor
        source = source.detach()
        source = (source.float() if source.is_floating_point() else source).cpu().numpy()
    if isinstance(source, np.ndarray):
        return _not_empty(_from_array(source, name, label), name)
    if isinstance(source, Mapping):
        return _not_empty(mask_from_coco(source, size, name, label), name)
    named = shown(source) if isinstance(source, str | Path) else name
    if isinstance(source, str | Path) and str(source).lower().endswith(".json"):
        return _not_empty(mask_from_coco(_json(source), size, named, label), named)
    if label is not None:
        return open_image(source, name, lambda image, name: _labelled(image, name, label))
    return _not_empty(open_image(source, name, _from_image), named)


def read_alpha(source: Any, name: str = "picture") -> Bool[np.ndarray, "h w"] | None:
    """What is opaque in a picture file or a Pillow image; None where all of it is."""
    if not isinstance(source, str | Path | Image.Image):
        return None

    def opacity(image: Image.Image, name: str) -> NDArray[Any] | None:
        image = upright(image, name)
        if not image.has_transparency_data:
            return None
        return np.asarray(image.convert("RGBA"))[:, :, 3]

    alpha = open_image(source, name, opacity)
    return None if alpha is None or alpha.min() == 255 else _not_empty(alpha > 127, name)


def _json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise LociError(f"{shown(path)}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise LociError(f"{shown(path)}: damaged, expected JSON with a COCO mask") from error


def _from_array(values: NDArray[Any], name: str, label: int | None) -> Bool[np.ndarray, "h w"]:
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if label is not None:
        return _equal(values, name, label)
    if values.dtype.kind == "f" and values.ndim == 2 and values.size and values.min() < 0:
        if not np.isfinite(values).all():
            raise LociError(f"{name}: not finite, expected booleans, bytes, floats or logits")
        return values > 0  # logits
    levels = _levels(values, name)
    if values.dtype.kind in "ui":
        _check_two_tones(levels, name)
    return levels > 0.5


def _from_image(image: Image.Image, name: str) -> Bool[np.ndarray, "h w"]:
    image = upright(image, name)
    if image.mode.startswith("I"):
        levels = _levels(np.asarray(image), name)
    elif (opacity := _opacity(image)) is not None:
        return _levels(opacity, name) > 0.5
    elif image.mode == "1":
        levels = _levels(np.asarray(image), name)
    else:
        levels = _levels(np.asarray(image.convert("RGB")).max(axis=2), name)
    _check_two_tones(levels, name)
    return levels > 0.5


def _opacity(image: Image.Image) -> NDArray[Any] | None:
    if not image.has_transparency_data:
        return None
    opacity = np.asarray(image.convert("RGBA"))[:, :, 3]
    return opacity if opacity.min() < 255 else None


def _labelled(image: Image.Image, name: str, label: int) -> Bool[np.ndarray, "h w"]:
    """The pixels of one value; of a palette's index where there is one."""
    image = upright(image, name)
    if image.mode not in ("L", "P", "1") and not image.mode.startswith("I"):
        raise LociError(f"{name}: {image.mode} pixels, expected one number a pixel for a label")
    return _equal(np.asarray(image), name, label)


def _equal(values: NDArray[Any], name: str, label: int) -> Bool[np.ndarray, "h w"]:
    if values.ndim != 2 or not values.size:
        raise LociError(f"{name}: array {list(values.shape)}, expected [height, width]")
    inside = values == label
    if not inside.any():
        raise LociError(
            f"{name}: no label {label}, expected one of {listed(np.unique(values).tolist())}"
        )
    return inside


def _levels(values: NDArray[Any], name: str) -> Float[np.ndarray, "h w"]:
    """Values in [0, 1] of booleans, floats, integers up to 1, 255 or 65535."""
    if values.ndim != 2 or not values.size:
        raise LociError(f"{name}: array {list(values.shape)}, expected [height, width]")
    if values.dtype.kind not in "buif":
        raise LociError(f"{name}: {values.dtype}, expected booleans, bytes or floats")
    if not np.isfinite(values).all() or values.min() < 0:
        raise LociError(f"{name}: values must be finite and at least 0")
    most = values.max()
    whole_range = 255 if most <= 255 else 65535
    scale = 1 if values.dtype.kind in "bf" or most <= 1 else whole_range
    levels = values.astype(np.float32) / scale
    if most > scale or (most and levels.max() <= 0.5):
        hint = "" if values.dtype.kind == "f" else "; a label image needs a label"
        raise LociError(
            f"{name}: values up to {most}, expected 0 outside and 255 or 1 inside{hint}"
        )
    return levels


def _check_two_tones(levels: Float[np.ndarray, "h w"], name: str) -> None:
    """Raises LociError for photographs."""
    midtones = levels[(levels > DARK) & (levels < BRIGHT)]
    if len(midtones) > MAX_MIDTONES * levels.size and len(np.unique(midtones)) > MAX_TONES:
        raise LociError(
            f"{name}: a photograph by its greys, expected a mask, white on the object and black "
            "elsewhere"
        )


def _not_empty(inside: Bool[np.ndarray, "h w"], name: str) -> Bool[np.ndarray, "h w"]:
    if not inside.any():
        raise LociError(f"{name}: empty, expected an object but no pixel is inside")
    return inside


def check_not_picture(source: Any, picture: Any, name: str) -> None:
    """Raises LociError where a mask is the picture itself."""
    if not isinstance(source, str | Path) or not isinstance(picture, str | Path):
        return
    same = Path(source).exists() and Path(picture).exists() and Path(source).samefile(picture)
    if same and read_alpha(source) is None:
        raise LociError(f"{name}: the picture itself, expected a mask of the object in it")
