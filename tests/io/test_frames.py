import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loci.errors import LociError
from loci.io.frames import (
    ASPECT_RATIO_627_F64,
    choose_bucket,
    fit,
    frames_to_tensor,
    load_picture,
    tensor_to_frames,
)

GRADIENT = np.stack(np.meshgrid(np.arange(48), np.arange(32), indexing="xy"), 2) * 5
PIXELS = np.concatenate([GRADIENT, np.full((32, 48, 1), 90)], 2).astype(np.uint8)


def test_values_shape_and_orientation() -> None:
    picture = load_picture(PIXELS, (32, 48))
    assert picture.shape == (1, 3, 1, 32, 48)
    assert picture.dtype == torch.float32
    assert np.array_equal(tensor_to_frames(picture)[0], PIXELS)
    black_and_white = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert load_picture(black_and_white, (1, 2)).flatten(3)[0, 0, 0].tolist() == [-1, 1]


def test_every_level_survives_the_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    assert np.array_equal(tensor_to_frames(frames_to_tensor(levels)), levels)


def test_area_interpolation_averages_what_lies_under_a_pixel() -> None:
    ramp = np.array([0, 10, 20, 60, 100, 110], np.uint8).reshape(1, 6, 1).repeat(3, 2).repeat(2, 0)
    assert fit(ramp[:, :6], (1, 3))[0, :, 0].tolist() == [5, 40, 105]
    # 6 pixels onto 4: each new pixel covers one and a half old ones.
    wide = ramp.repeat(2, 0)
    thirds = [(0 + 10 / 2) / 1.5, (10 / 2 + 20) / 1.5, (60 + 100 / 2) / 1.5, (100 / 2 + 110) / 1.5]
    assert fit(wide[:3], (2, 4))[0, :, 0].tolist() == [round(value) for value in thirds]


@pytest.mark.parametrize(("height", "width", "rows"), [(30, 20, slice(5, 25)), (20, 30, None)])
def test_the_center_is_kept(height: int, width: int, rows: slice | None) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = pixels[rows] if rows else pixels[:, 5:25]
    assert np.array_equal(fit(pixels, (20, 20)), expected)


@given(st.tuples(*[st.integers(1, 90)] * 4))
def test_any_size_fits(sides: tuple[int, int, int, int]) -> None:
    height, width, target_h, target_w = sides
    pixels = np.full((height, width, 3), 200, np.uint8)
    if max(height, width) > 32 * min(height, width):
        with pytest.raises(LociError, match="32 to 1"):
            fit(pixels, (target_h, target_w))
        return
    fitted = fit(pixels, (target_h, target_w))
    assert fitted.shape == (target_h, target_w, 3)
    assert (fitted == 200).all()


def test_buckets() -> None:
    assert choose_bucket(768, 1376) == (448, 896)
    assert choose_bucket(500, 500) == (640, 640)
    assert choose_bucket(2000, 100) == (1280, 320)
    assert len(ASPECT_RATIO_627_F64) == 15
    for ratio, (height, width) in ASPECT_RATIO_627_F64.items():
        assert height % 64 == width % 64 == 0
        assert abs(height / width - ratio) < 0.01
