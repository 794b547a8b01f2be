"""Any still picture becomes upright RGB; what is none is named."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from loci.errors import LociError
from loci.io.images import read_pixels

GRADIENT = np.stack(np.meshgrid(np.arange(48), np.arange(32), indexing="xy"), 2) * 5
PIXELS = np.concatenate([GRADIENT, np.full((32, 48, 1), 90)], 2).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_files_and_images_give_the_same(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    assert np.array_equal(read_pixels(saved(tmp_path / "a.png", image)), PIXELS)
    assert np.array_equal(read_pixels(str(tmp_path / "a.png")), PIXELS)
    assert np.array_equal(read_pixels(image), PIXELS)


def test_gray_becomes_three_equal_channels(tmp_path: Path) -> None:
    gray = Image.fromarray(PIXELS[:, :, 0])
    pixels = read_pixels(saved(tmp_path / "grey.png", gray))
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


def test_an_iphones_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "IMG_1.HEIC"
    path.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(64))
    with pytest.raises(LociError, match=r"IMG_1.HEIC: HEIC, .*export the picture as JPEG"):
        read_pixels(path)
    path.write_bytes(b"\x00\x00\x00\x18ftypisom" + bytes(64))
    with pytest.raises(LociError, match="IMG_1.HEIC: no picture"):
        read_pixels(path)


def test_nothing_is_warned_of_that_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "a.png", Image.fromarray(PIXELS))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS[..., 0].size - 1)
    with warnings.catch_warnings(action="error"):
        assert np.array_equal(read_pixels(tmp_path / "a.png"), PIXELS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS[..., 0].size // 3)
    with pytest.raises(LociError, match="a.png: too many pixels, expected at most"):
        read_pixels(tmp_path / "a.png")


@pytest.mark.parametrize("source", [None, b"bytes", 3, [[1, 2]], {"size": [4, 4], "counts": "1"}])
def test_what_is_no_picture_is_named_by_its_type(source: Any) -> None:
    kind = type(source).__name__
    with pytest.raises(LociError, match=f"picture: {kind}, expected a file"):
        read_pixels(source)


def test_tensors_are_pictures_too() -> None:
    pixels = torch.from_numpy(PIXELS)
    forms = [pixels, pixels.movedim(-1, 0), pixels / 255, (pixels / 255).movedim(-1, 0)[None]]
    for form in forms:
        assert np.array_equal(read_pixels(form), PIXELS)
    for wrong in (pixels[:, :, 0], pixels / 1.0, torch.full((8, 8, 3), torch.nan)):
        with pytest.raises(LociError, match="picture: tensor .*expected"):
            read_pixels(wrong)


@pytest.mark.parametrize("source", ["a" * 5000, "nowhere\n" * 900, "\0" * 3000])
def test_a_content_in_place_of_a_name_is_not_quoted(source: str) -> None:
    with pytest.raises(LociError) as caught:
        read_pixels(source)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
