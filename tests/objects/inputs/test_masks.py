"""Masks of every kind are True inside; what is none is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from loci.errors import LociError
from loci.objects.inputs.masks import check_not_picture, read_alpha, read_mask

GRADIENT = np.stack(np.meshgrid(np.arange(48), np.arange(32), indexing="xy"), 2) * 5
PIXELS = np.concatenate([GRADIENT, np.full((32, 48, 1), 90)], 2).astype(np.uint8)
INSIDE = np.zeros((32, 48), bool)
INSIDE[8:20, 10:40] = True


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def mask_files() -> dict[str, Image.Image]:
    gray = Image.fromarray(INSIDE.astype(np.uint8) * 255)
    color = np.zeros((32, 48, 3), np.uint8)
    color[INSIDE] = (200, 0, 10)
    cut_out = Image.fromarray(PIXELS)
    cut_out.putalpha(gray)
    exif_turned = Image.fromarray(np.ascontiguousarray(np.rot90(np.asarray(gray))))
    return {
        "grey": gray,
        "one_bit": gray.convert("1"),
        "zeros_and_ones": Image.fromarray(INSIDE.astype(np.uint8)),
        "colour": Image.fromarray(color),
        "palette": Image.fromarray(color).quantize(4),
        "cut_out": cut_out,
        "deep": Image.fromarray(INSIDE.astype(np.uint16) * 65535),
        "grey_and_opaque": Image.merge("LA", [gray, Image.new("L", gray.size, 255)]),
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
        (np.full((4, 4), np.nan), "mask 2: values must be finite"),
        (np.full((4, 4), -1), "mask 2: values must be finite"),
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


@pytest.mark.parametrize("source", [None, b"bytes", 3, [[1, 2]], INSIDE.tolist()])
def test_what_is_no_mask_is_named_by_its_type(source: Any) -> None:
    with pytest.raises(LociError, match=f"mask 2: {type(source).__name__}, expected a file"):
        read_mask(source, "mask 2")


def test_masks_as_segmenters_give_them() -> None:
    logits = np.where(INSIDE, 3.0, -8.0)
    batch = INSIDE[None]
    forms = [batch, batch[None], logits, logits[None], torch.from_numpy(logits).to(torch.bfloat16)]
    for form in [*forms, torch.from_numpy(INSIDE), torch.from_numpy(INSIDE * np.uint8(255))]:
        assert np.array_equal(read_mask(form), INSIDE)
    with pytest.raises(LociError, match=r"array \[3, 32, 48\], expected"):
        read_mask(np.stack([INSIDE] * 3))
    with pytest.raises(LociError, match="not finite"):
        read_mask(np.where(INSIDE, np.inf, -1.0))


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_a_label_selects_an_object(tmp_path: Path, mode: str) -> None:
    labels = np.where(INSIDE, 7, 0).astype(np.uint16 if mode == "I;16" else np.uint8)
    labels[25:, :4] = 9
    image = Image.fromarray(labels)
    if mode == "P":
        image.putpalette([255] * 768)
    path = saved(tmp_path / "labels.png", image)
    assert np.array_equal(read_mask(path, label=7), INSIDE)
    assert read_mask(path, label=9).sum() == 28
    assert np.array_equal(read_mask(labels, label=7), INSIDE)
    with pytest.raises(LociError, match=r"labels.png: no label 3, expected one of 0, 7, 9$"):
        read_mask(path, label=3)
    if mode == "L":
        with pytest.raises(LociError, match="values up to 9, .*; a label image needs a label"):
            read_mask(path)


def run_lengths(inside: np.ndarray) -> list[int]:
    flat = [False, *inside.T.ravel().tolist()]
    changes = [i for i in range(1, len(flat)) if flat[i] != flat[i - 1]]
    return np.diff([0, *[c - 1 for c in changes], inside.size]).tolist()


def compressed(counts: list[int]) -> str:
    """As COCO's reference encodes them."""
    text = ""
    for number, count in enumerate(counts):
        x = count - (counts[number - 2] if number > 2 else 0)
        more = True
        while more:
            char = x & 0x1F
            x >>= 5
            more = x != -1 if char & 0x10 else x != 0
            text += chr((char | 0x20 if more else char) + 48)
    return text


@given(hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_run_lengths_are_masks(inside: np.ndarray) -> None:
    inside[0, 0] = True
    counts = run_lengths(inside)
    for form in (counts, compressed(counts), compressed(counts).encode()):
        rle = {"size": [*inside.shape], "counts": form}
        assert np.array_equal(read_mask(rle), inside)
        assert np.array_equal(read_mask({"segmentation": rle}), inside)


def test_a_known_string_of_run_lengths() -> None:
    """3 rows, 3 columns: outside 4, inside 1, outside 4."""
    expected = np.zeros((3, 3), bool)
    expected[1, 1] = True
    assert np.array_equal(read_mask({"size": [3, 3], "counts": "414"}), expected)


def test_polygons_and_annotations(tmp_path: Path) -> None:
    polygon = [[10, 8, 40, 8, 40, 20, 10, 20]]
    contents = {
        "polygons": polygon,
        "annotation": {"segmentation": polygon},
        "one of several": {
            "annotations": [
                {"id": 5, "segmentation": polygon},
                {"id": 6, "segmentation": []},
            ]
        },
        "sam": [{"segmentation": {"size": [32, 48], "counts": run_lengths(INSIDE)}, "area": 3}],
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        label = 5 if "several" in name else None
        found = read_mask(path, size=(32, 48), label=label)
        assert np.array_equal(found, INSIDE), name
    with pytest.raises(LociError, match="several.json: no label, expected one of 5, 6"):
        read_mask(tmp_path / "one of several.json", size=(32, 48))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"size": [256, 320], "counts": "x"}, "run lengths"),
        ({"size": [4], "counts": [16]}, "damaged run lengths"),
        ({"size": [4, 4], "counts": [3]}, "run lengths of 3 pixels, expected 4 x 4"),
        ({"size": [4, 4], "counts": [16]}, "empty"),
        ({"size": [4, 4], "counts": "~" * 9000}, "damaged run lengths"),
        ({"counts": "1"}, "dict, expected a COCO mask"),
        ({"segmentation": [[1, 2, 3]]}, "at least three corners"),
        ({"segmentation": ["a"]}, "no polygons"),
        ({"segmentation": [[1, 1, 9, 1, 9, 9]]}, "polygons, expected the size"),
        ({}, "dict, expected a COCO mask"),
    ],
)
def test_damaged_coco_masks_are_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(LociError, match=f"mask 2: .*{message}|mask 2: {message}") as caught:
        read_mask(content, "mask 2")
    assert len(str(caught.value)) < 200
    path = tmp_path / "mask.json"
    path.write_text(json.dumps(content)[:-1])
    with pytest.raises(LociError, match=r"mask.json: damaged"):
        read_mask(path)


def test_a_photograph_is_no_mask(tmp_path: Path) -> None:
    photo = saved(tmp_path / "photo.png", Image.fromarray(PIXELS // 2 + 60))
    with pytest.raises(LociError, match="photo.png: a photograph by its greys, expected a mask"):
        read_mask(photo)
    with pytest.raises(LociError, match="mask: a photograph"):
        read_mask(PIXELS[:, :, 0])
    with pytest.raises(LociError, match=r"mask: array \[32, 48, 3\]"):
        read_mask(PIXELS)
    with pytest.raises(LociError, match="mask: the picture itself"):
        check_not_picture(photo, str(photo), "mask")
    clear = Image.fromarray(PIXELS)
    clear.putalpha(Image.fromarray(INSIDE))
    cut_out = saved(tmp_path / "clear.png", clear)
    check_not_picture(cut_out, cut_out, "its opacity is a mask")
    assert np.array_equal(read_mask(cut_out), INSIDE)


def test_what_is_opaque_is_a_mask(tmp_path: Path) -> None:
    clear = Image.fromarray(PIXELS)
    clear.putalpha(Image.fromarray(INSIDE))
    found = read_alpha(saved(tmp_path / "clear.png", clear))
    assert found is not None
    assert np.array_equal(found, INSIDE)
    assert read_alpha(saved(tmp_path / "opaque.png", Image.fromarray(PIXELS))) is None
    assert read_alpha(PIXELS) is None
