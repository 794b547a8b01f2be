"""Any still picture becomes upright RGB, any mask True inside; what is neither is named."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from loci.errors import LociError
from loci.io.images import read_mask, read_pixels

GRADIENT = np.stack(np.meshgrid(np.arange(48), np.arange(32), indexing="xy"), 2) * 5
PIXELS = np.concatenate([GRADIENT, np.full((32, 48, 1), 90)], 2).astype(np.uint8)
INSIDE = np.zeros((32, 48), bool)
INSIDE[8:20, 10:40] = True


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


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


def mask_files() -> dict[str, Image.Image]:
    grey = Image.fromarray(INSIDE.astype(np.uint8) * 255)
    colour = np.zeros((32, 48, 3), np.uint8)
    colour[INSIDE] = (200, 0, 10)
    cut_out = Image.fromarray(PIXELS)
    cut_out.putalpha(grey)
    exif_turned = Image.fromarray(np.ascontiguousarray(np.rot90(np.asarray(grey))))
    return {
        "grey": grey,
        "one_bit": grey.convert("1"),
        "zeros_and_ones": Image.fromarray(INSIDE.astype(np.uint8)),
        "colour": Image.fromarray(colour),
        "palette": Image.fromarray(colour).quantize(4),
        "cut_out": cut_out,
        "deep": Image.fromarray(INSIDE.astype(np.uint16) * 65535),
        "grey_and_opaque": Image.merge("LA", [grey, Image.new("L", grey.size, 255)]),
        "turned": exif_turned,
    }


@pytest.mark.parametrize("kind", mask_files())
def test_masks_of_every_kind_mean_the_same(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    if kind == "turned":
        exif[0x0112] = 6
    path = saved(tmp_path / "mask.png", mask_files()[kind], exif=exif)
    mask = read_mask(path)
    assert mask.dtype == bool
    assert np.array_equal(mask, INSIDE)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_fix_boolean_masks_are_masks(inside: np.ndarray) -> None:
    forms = [inside, inside * np.uint8(1), inside * np.uint8(255), inside.astype(np.float32)]
    for form in forms:
        if inside.any():
            assert np.array_equal(read_mask(form), inside)
        else:
            with pytest.raises(LociError, match="mask: empty, expected an object"):
                read_mask(form)


def test_soft_edges_are_cut_in_the_middle() -> None:
    assert read_mask(np.array([[0, 127, 128, 255]], np.uint8)).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), np.uint8), "mask 2: empty, expected an object"),
        (np.full((4, 4), 3, np.uint8), "mask 2: values up to 3, expected 0 outside and 255"),
        (np.full((4, 4), 7.0), "mask 2: values up to 7.0, expected"),
        (np.full((4, 4), np.nan), "mask 2: expected values from 0 up"),
        (np.full((4, 4), -1), "mask 2: expected values from 0 up"),
        (np.ones((4, 4, 3), bool), r"mask 2: array \[4, 4, 3\], expected \[height, width\]"),
        (np.ones((0, 4), bool), r"mask 2: array \[0, 4\], expected"),
        (np.full((4, 4), "x"), "mask 2: <U1, expected booleans, bytes or floats"),
    ],
)
def test_masks_that_are_none_are_refused(array: Any, message: str) -> None:
    with pytest.raises(LociError, match=message):
        read_mask(array, "mask 2")


def test_mask_files_that_are_none_are_named(tmp_path: Path) -> None:
    black = saved(tmp_path / "black.png", Image.new("L", (8, 8)))
    labels = saved(tmp_path / "labels.png", Image.fromarray(np.full((8, 8), 4, np.uint8)))
    cut = tmp_path / "cut.png"
    cut.write_bytes(black.read_bytes()[:45])
    frames = [Image.fromarray(INSIDE), Image.fromarray(~INSIDE)]
    moving = saved(tmp_path / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    for path, message in (
        (black, "empty, expected an object"),
        (labels, "values up to 4, expected 0 outside"),
        (cut, "damaged"),
        (moving, "animated"),
        (tmp_path / "nowhere.png", "cannot be read"),
    ):
        with pytest.raises(LociError, match=message) as caught:
            read_mask(path)
        assert str(path) in str(caught.value)


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
    with pytest.raises(LociError, match=f"mask 2: {kind}, expected a file"):
        read_mask(source, "mask 2")
