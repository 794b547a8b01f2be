"""Segmentation from a box or a point."""

import numpy as np
import pytest

from loci.errors import LociError
from loci.objects.inputs.segmentation import mask_from_box, mask_from_point

pytest.importorskip("cv2")


def scene(height: int = 90, width: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """A red disc with a white hole on a green background, a little noisy."""
    rows, columns = np.mgrid[0:height, 0:width]
    distance = np.hypot(rows - height * 0.5, columns - width * 0.6)
    disc = distance < height * 0.3
    pixels = np.where(disc[:, :, None], (200, 40, 30), (40, 120, 60))
    pixels[distance < height * 0.07] = (250, 250, 250)
    noise = np.random.default_rng(0).normal(0, 6, pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8), disc


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


PIXELS, DISC = scene()


def test_a_box_selects_the_object_that_fills_it() -> None:
    mask = mask_from_box(PIXELS, (40, 14, 104, 76))
    assert mask.shape == DISC.shape
    assert mask.dtype == bool
    assert overlap(mask, DISC) > 0.93
    assert not mask[:, :40].any()


def test_a_point_selects_the_object_there() -> None:
    mask = mask_from_point(PIXELS, (72, 28))
    assert overlap(mask, DISC) > 0.9


def test_a_point_on_a_small_object_selects_no_background() -> None:
    rng = np.random.default_rng(2)
    pixels = rng.integers(60, 250, (2, 3, 3)).repeat(60, 0).repeat(54, 1)[:, :160]
    rows, columns = np.mgrid[0:120, 0:160]
    disc = np.hypot(rows - 64, columns - 86) < 15
    pixels[disc] = (10, 20, 30)
    noisy = (pixels + rng.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
    assert overlap(mask_from_point(noisy, (90, 67)), disc) > 0.95


def test_segmentation_is_deterministic() -> None:
    first, second = (mask_from_box(PIXELS, (40, 14, 104, 76)) for _ in range(2))
    assert np.array_equal(first, second)


def test_masks_of_large_pictures_have_their_size() -> None:
    large = PIXELS.repeat(6, 0).repeat(6, 1)
    mask = mask_from_box(large, (240, 84, 624, 456))
    assert mask.shape == large.shape[:2]
    assert overlap(mask, DISC.repeat(6, 0).repeat(6, 1)) > 0.9


@pytest.mark.parametrize(
    "box",
    [(-1, 0, 50, 50), (0, 0, 121, 50), (50, 10, 50, 40), (60, 10, 50, 40), (0, 40, 9, 10)],
)
def test_boxes_outside_the_picture_are_named(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(LociError, match=r"^box .* inside the picture of 120 x 90$") as caught:
        mask_from_box(PIXELS, box)
    assert " ".join(map(str, box)) in str(caught.value)


@pytest.mark.parametrize("point", [(-1, 4), (120, 4), (4, 90)])
def test_points_outside_the_picture_are_named(point: tuple[int, int]) -> None:
    with pytest.raises(LociError, match=r"^point .*: expected inside the picture of 120 x 90$"):
        mask_from_point(PIXELS, point)


def test_a_box_around_everything_leaves_no_background() -> None:
    with pytest.raises(LociError, match="expected some background around it"):
        mask_from_box(PIXELS, (0, 0, 120, 90))


def test_where_nothing_stands_out_nothing_is_cut() -> None:
    flat = np.full((40, 50, 3), 90, np.uint8)
    with pytest.raises(LociError, match="point 20 20: no object found there"):
        mask_from_point(flat, (20, 20))
