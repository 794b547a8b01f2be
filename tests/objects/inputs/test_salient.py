"""U2-Net on a box, with the real weights where they are found, and without."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loci.errors import LociError
from loci.io.models import SHIPPED
from loci.objects.inputs import salient
from loci.objects.inputs.masks import read_mask

PIXELS = np.array(Image.open(SHIPPED / "home" / "example.png").convert("RGB"))
INSIDE = read_mask(SHIPPED / "home" / "example_mask.png")
ROWS, COLUMNS = np.nonzero(INSIDE)
BOX = (int(COLUMNS.min()), int(ROWS.min()), int(COLUMNS.max()) + 1, int(ROWS.max()) + 1)


def test_weights_are_looked_for_where_rembg_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    monkeypatch.setattr(salient, "find_spec", lambda name: None)
    assert salient.find_weights() is None
    (tmp_path / "u2netp.onnx").touch()
    assert salient.find_weights() == tmp_path / "u2netp.onnx"
    with pytest.raises(LociError, match="own.onnx: no such file, expected u2netp.onnx"):
        salient.find_weights(tmp_path / "own.onnx")


def test_what_cannot_be_run_is_named(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    path = tmp_path / "u2netp.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(LociError, match=r"u2netp.onnx: cannot be run, expected u2netp.onnx"):
        salient.mask_from_box(PIXELS, BOX, path)
    with pytest.raises(LociError, match="box 0 0 999 9: expected x0 < x1"):
        salient.mask_from_box(PIXELS, (0, 0, 999, 9), path)


def test_the_object_in_a_box_is_found_and_clipped_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def bright(pixels: np.ndarray, weights: Path) -> np.ndarray:
        seen.append(pixels.shape)
        return (pixels[:, :, 0] > 100).astype(float)

    monkeypatch.setattr(salient, "_salience", bright)
    pixels = np.zeros((50, 100, 3), np.uint8)
    pixels[10:40, 20:80] = 200
    found = salient.mask_from_box(pixels, (25, 5, 90, 30), Path("none"))
    expected = np.zeros((50, 100), bool)
    expected[10:30, 25:80] = True
    assert np.array_equal(found, expected)
    assert seen == [(31, 81, 3)], "12 % more on each side, inside the picture"
    with pytest.raises(LociError, match="box 0 0 9 9: no object found"):
        salient.mask_from_box(pixels, (0, 0, 9, 9), Path("none"))


@pytest.mark.skipif(salient.find_weights() is None, reason="needs u2netp.onnx, as rembg has it")
def test_the_sofa_is_cut_out() -> None:
    weights = salient.find_weights()
    assert weights is not None
    found = salient.mask_from_box(PIXELS, BOX, weights)
    assert (found & INSIDE).sum() / (found | INSIDE).sum() > 0.95
