from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

from loci.acceleration.area_resize import _overlaps, area_resized


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 16]))
def test_a_flat_picture_stays_flat(height: int, width: int, size: int) -> None:
    flat = torch.full((height, width), 77, dtype=torch.uint8)
    assert torch.equal(area_resized(flat, size), torch.full((size, size), 77, dtype=torch.uint8))


def test_resizing_by_area() -> None:
    picture = torch.arange(16, dtype=torch.uint8).view(4, 4) * 10
    assert area_resized(picture, 2).tolist() == [[25, 45], [105, 125]]
    assert torch.equal(area_resized(picture, 4), picture)
    # A whole factor of enlargement repeats pixels.
    assert torch.equal(
        area_resized(picture, 8), picture.repeat_interleave(2, 0).repeat_interleave(2, 1)
    )


def squares(height: int, width: int) -> torch.Tensor:
    return (torch.arange(height * width).view(height, width) ** 2 % 251).to(torch.uint8)


def test_both_sides_grow_as_in_opencv() -> None:
    """Values of cv2.resize(..., interpolation=cv2.INTER_AREA)."""
    assert area_resized(squares(3, 5), 7).tolist() == [
        [0, 1, 2, 4, 8, 12, 16],
        [0, 1, 2, 4, 8, 12, 16],
        [17, 21, 26, 34, 43, 51, 59],
        [25, 32, 39, 49, 61, 71, 81],
        [50, 59, 67, 81, 95, 107, 119],
        [100, 113, 126, 144, 164, 180, 196],
        [100, 113, 126, 144, 164, 180, 196],
    ]


def test_one_side_grows_as_in_opencv() -> None:
    assert area_resized(squares(9, 7), 8).tolist() == [
        [5, 8, 11, 16, 23, 31, 40, 51],
        [82, 97, 74, 77, 97, 118, 140, 164],
        [194, 223, 74, 34, 67, 101, 138, 175],
        [119, 161, 105, 111, 109, 93, 143, 194],
        [137, 72, 110, 168, 120, 38, 101, 165],
        [78, 75, 134, 110, 75, 102, 154, 88],
        [112, 194, 138, 136, 114, 91, 144, 20],
        [126, 221, 139, 166, 158, 116, 182, 71],
    ]


def test_both_sides_shrink_as_in_opencv() -> None:
    assert area_resized(squares(9, 7), 4).tolist() == [
        [48, 45, 67, 99],
        [174, 81, 93, 162],
        [91, 130, 84, 127],
        [163, 145, 120, 105],
    ]
    # Means of four pixels are rounded half up: 0.5, 0.25, 254.75 and 2.5.
    pixels = [[0, 1, 0, 0], [0, 1, 0, 1], [255, 254, 3, 1], [255, 255, 3, 3]]
    assert area_resized(torch.tensor(pixels, dtype=torch.uint8), 2).tolist() == [[1, 0], [255, 3]]


def test_one_side_stays_and_the_other_shrinks_as_in_opencv() -> None:
    wide = [[0, 5, 15, 31], [55, 84, 118, 158], [208, 46, 68, 132], [208, 70, 116, 204]]
    high = [[7, 11, 18, 26], [80, 98, 118, 140], [65, 97, 131, 131], [106, 152, 199, 141]]
    assert area_resized(squares(4, 7), 4).tolist() == wide
    assert area_resized(squares(7, 4), 4).tolist() == high


def test_shares_of_pixels_are_exact_to_the_last_bits() -> None:
    length, size = 1000, 7
    scale = Fraction(length, size)
    expected = [
        [
            float(max(0, min(pixel + 1, (k + 1) * scale) - max(pixel, k * scale)) / scale)
            for pixel in range(length)
        ]
        for k in range(size)
    ]
    shares = _overlaps(length, size)
    torch.testing.assert_close(
        shares, torch.tensor(expected, dtype=torch.float64), atol=1e-14, rtol=1e-9
    )
