"""Picture, mask and pointmap to the square inputs of both stages, each as crop and full frame."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from loci.errors import LociError
from loci.geometry.camera import CENTER
from loci.objects.inputs.pointmap import Normalizer, normalizer

INPUT_SIZE = 518
BOX_FACTOR = 1.2


class StructureInputs(NamedTuple):
    """The inputs of both stages (pointmaps: of stage 1), and the normaliser of the pose.

    `tensors` holds image, rgb_image `[1, 3, s, s]`, mask, rgb_image_mask `[1, 1, s, s]` in [0, 1]
    and, if there is a pointmap, pointmap, rgb_pointmap `[1, 3, s, s]`. Under their published names,
    those with rgb_ are the full frame and the others the crop.
    """

    tensors: Mapping[str, Tensor]
    normalizer: Normalizer


def around_principal(
    frame: tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"], Float[Tensor, "3 h w"] | None],
    principal: tuple[float, float],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Picture, mask and pointmap, padded until the principal point is in the centre.

    The models are trained on pictures that are not cropped, in which the place of an object in the
    full frame tells its direction. The padding is black, outside the mask and of unknown points,
    and at most as large as the picture.
    """
    if principal == CENTER:
        return frame
    rgb, mask, points = frame
    shares = [min(max(share, 0.0), 1.0) for share in principal]
    sides = mask.shape[-1], mask.shape[-2]
    left, top = (max(0, round(n * (1 - 2 * s))) for n, s in zip(sides, shares, strict=True))
    right, bottom = (max(0, round(n * (2 * s - 1))) for n, s in zip(sides, shares, strict=True))
    padding = (left, right, top, bottom)
    if points is not None:
        points = F.pad(points, padding, value=torch.nan)
    return F.pad(rgb, padding), F.pad(mask, padding), points


class Box(NamedTuple):
    """Columns x1:x2 and rows y1:y2; may extend beyond the picture."""

    x1: int
    y1: int
    x2: int
    y2: int


def structure_inputs(
    rgb: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "1 h w"],
    pointmap: Float[Tensor, "3 h' w'"] | None = None,
    size: int = INPUT_SIZE,
) -> StructureInputs:
    """The inputs of stage 1, which include those of stage 2.

    Args:
        rgb: picture in [0, 1], with its background.
        mask: in [0, 1].
        pointmap: in the frame of `loci.objects.inputs.pointmap`. Without one there are no pointmap
            tensors and the normaliser is the identity.
        size: side of every output in pixels.

    Raises:
        LociError: when the mask is less than two pixels wide and high.
    """
    tensors = slat_inputs(rgb, mask, size)
    if pointmap is None:
        return StructureInputs(tensors, Normalizer(rgb.new_ones(3), rgb.new_zeros(3)))
    units = normalizer(pointmap, mask)
    points = _at_size(units.apply(pointmap), rgb.shape[-2], rgb.shape[-1])
    crop = _cropped(points, crop_box(mask))
    # As published, the crop is filled with 0 outside the picture, a valid point at the object's
    # centre; only the padding that makes a crop square is NaN.
    crop, full = _square(crop, torch.nan), _square(points, 0.0)
    tensors["pointmap"], tensors["rgb_pointmap"] = _nearest(crop, size), _nearest(full, size)
    return StructureInputs(tensors, units)


def slat_inputs(
    rgb: Float[Tensor, "3 h w"], mask: Float[Tensor, "1 h w"], size: int = INPUT_SIZE
) -> dict[str, Tensor]:
    """The inputs of stage 2: picture and mask."""
    box = crop_box(mask)
    return {
        "image": _smooth(_square(_cropped(rgb, box)), size),
        "mask": _nearest(_square(_cropped(mask, box)), size),
        "rgb_image": _smooth(_square(rgb), size),
        "rgb_image_mask": _nearest(_square(mask), size),
    }


def crop_box(mask: Float[Tensor, "1 h w"], factor: float = BOX_FACTOR) -> Box:
    """The box around the mask's pixels, `factor` times as large as their longer side.

    Raises:
        LociError: when the mask is less than two pixels wide and high.
    """
    rows, columns = torch.nonzero(mask[0], as_tuple=True)
    if not len(rows):
        raise LociError("mask: expected an object, but no pixel is inside")
    (x1, x2), (y1, y2) = ((int(v.min()), int(v.max())) for v in (columns, rows))
    if max(x2 - x1, y2 - y1) < 2:
        raise LociError("mask: expected an object of at least three pixels across")
    half = int(max(x2 - x1, y2 - y1) * factor) // 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return Box(int(x - half), int(y - half), int(x + half), int(y + half))


def square_crop(x: Float[Tensor, "c h w"], mask: Float[Tensor, "1 h w"]) -> Float[Tensor, "c n n"]:
    """An image cropped to an object, not resized; zeros outside the image.

    Raises:
        LociError: when the mask is less than two pixels wide and high.
    """
    return _square(_cropped(x, crop_box(mask)))


def _cropped(x: Tensor, box: Box) -> Tensor:
    """The box, with zeros outside the picture."""
    height, width = x.shape[-2:]
    inside = x[..., max(box.y1, 0) : box.y2, max(box.x1, 0) : box.x2]
    left, top = max(-box.x1, 0), max(-box.y1, 0)
    right, bottom = max(box.x2 - width, 0), max(box.y2 - height, 0)
    return F.pad(inside, (left, right, top, bottom))


def _square(x: Tensor, value: float = 0.0) -> Tensor:
    """Padded to a centred square; an odd pixel goes to the right or bottom."""
    height, width = x.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    return F.pad(x, (left, side - width - left, top, side - height - top), value=value)


def _at_size(pointmap: Tensor, height: int, width: int) -> Tensor:
    """A pointmap at the picture's size; unknown points stay unknown."""
    if pointmap.shape[-2:] == (height, width):
        return pointmap
    size = (height, width)
    known = torch.nan_to_num(pointmap, nan=0.0, posinf=0.0, neginf=0.0)
    points = F.interpolate(known[None], size, mode="bilinear", antialias=True)[0]
    invalid = (~pointmap.isfinite()).float()
    invalid = F.interpolate(invalid[None], size, mode="nearest")[0] > 0.5
    return torch.where(invalid, torch.nan, points)


def _smooth(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x[None], (size, size), mode="bilinear", antialias=True)


def _nearest(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x[None], (size, size), mode="nearest")
