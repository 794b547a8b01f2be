import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loci.errors import LociError
from loci.world.picture import (
    ASPECT_RATIO_627_F64,
    choose_bucket,
    fit,
    frames_to_tensor,
    load_picture,
    read_pixels,
    tensor_to_frames,
)

GRADIENT = np.stack(np.meshgrid(np.arange(48), np.arange(32), indexing="xy"), 2) * 5
PIXELS = np.concatenate([GRADIENT, np.full((32, 48, 1), 90)], 2).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


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


def test_files_and_images_give_the_same(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    assert np.array_equal(read_pixels(saved(tmp_path / "a.png", image)), PIXELS)
    assert np.array_equal(read_pixels(str(tmp_path / "a.png")), PIXELS)
    assert np.array_equal(read_pixels(image), PIXELS)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = Image.fromarray(PIXELS[:, :, 0])
    pixels = read_pixels(saved(tmp_path / "grey.png", grey))
    assert np.array_equal(pixels, PIXELS[:, :, :1].repeat(3, 2))


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    deep = Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257)
    assert deep.mode.startswith("I;16")
    pixels = read_pixels(saved(tmp_path / name, deep))
    assert np.array_equal(pixels, PIXELS[:, :, :1].repeat(3, 2))


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (40, 30), (220, 30, 40))
    pixels = read_pixels(saved(tmp_path / "cmyk.jpg", red.convert("CMYK"), quality=95))
    assert pixels.shape == (30, 40, 3)
    assert np.abs(pixels.astype(int) - [220, 30, 40]).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    stored = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS, 1),
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(PIXELS, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    path = saved(tmp_path / "phone.png", image, exif=exif)
    assert np.array_equal(read_pixels(path), PIXELS)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    clear = np.concatenate([PIXELS, np.zeros((32, 48, 1), np.uint8)], 2)
    clear[:, :24, 3] = 255
    pixels = read_pixels(saved(tmp_path / "clear.png", Image.fromarray(clear)))
    assert np.array_equal(pixels[:, :24], PIXELS[:, :24])
    assert (pixels[:, 24:] == 255).all()


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS).quantize(16)
    pixels = read_pixels(saved(tmp_path / "few.gif", image))
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", ["moving.gif", "moving.png", "moving.webp"])
def test_animations_are_refused(tmp_path: Path, name: str) -> None:
    still = [Image.fromarray(np.roll(PIXELS, 7 * i, 1)) for i in range(3)]
    path = saved(tmp_path / name, still[0], save_all=True, append_images=still[1:])
    with pytest.raises(LociError, match=r"animated \(3 frames\), expected a single") as caught:
        read_pixels(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, form: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, form)
    path = tmp_path / "cut"
    path.write_bytes(buffer.getvalue()[: int(kept * len(buffer.getvalue()))])
    with pytest.raises(LociError) as caught:
        read_pixels(path)
    assert str(path) in str(caught.value)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with pytest.raises(LociError, match="expected") as caught:
        read_pixels(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.png", tmp_path):
        with pytest.raises(LociError, match="cannot be read") as caught:
            read_pixels(path)
        assert str(path) in str(caught.value)


def test_pixels_without_a_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LociError, match="floating-point"):
        read_pixels(saved(tmp_path / "a.tif", Image.fromarray(np.full((8, 8), 1e4, np.float32))))
    with pytest.raises(LociError, match="32-bit"):
        read_pixels(saved(tmp_path / "b.tif", Image.fromarray(np.full((8, 8), 10**6, np.int32))))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array: Any) -> None:
    with pytest.raises(LociError, match=r"expected uint8 \[height, width, 3\]"):
        read_pixels(array)


def test_area_interpolation_averages_what_lies_under_a_pixel() -> None:
    ramp = np.array([0, 10, 20, 60, 100, 110], np.uint8).reshape(1, 6, 1).repeat(3, 2).repeat(2, 0)
    assert fit(ramp[:, :6], (1, 3))[0, :, 0].tolist() == [5, 40, 105]
    # 6 pixels onto 4: each new pixel covers one and a half old ones.
    wide = ramp.repeat(2, 0)
    thirds = [(0 + 10 / 2) / 1.5, (10 / 2 + 20) / 1.5, (60 + 100 / 2) / 1.5, (100 / 2 + 110) / 1.5]
    assert fit(wide[:3], (2, 4))[0, :, 0].tolist() == [round(value) for value in thirds]


@pytest.mark.parametrize(("height", "width", "rows"), [(30, 20, slice(5, 25)), (20, 30, None)])
def test_the_centre_is_kept(height: int, width: int, rows: slice | None) -> None:
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
