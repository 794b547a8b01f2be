"""Masks as segmenters leave them, and masks that are none of an object."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loci.errors import LociError
from loci.objects.inputs.cleaning import check_mask, clean_mask, components, overlaps

HEIGHT, WIDTH = 60, 80
PIXELS = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
DISC = (ROWS - 30) ** 2 + (COLUMNS - 40) ** 2 < 20**2


def test_a_clean_mask_is_returned_as_it_is() -> None:
    assert clean_mask(DISC).inside is DISC
    assert clean_mask(DISC).notes == ()
    ring = DISC & ~((ROWS - 30) ** 2 + (COLUMNS - 40) ** 2 < 6**2)
    assert clean_mask(ring).inside is ring, "the hole of a ring is the object's"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 8), st.integers(0, 20), st.integers(0, 3), st.integers(0, 10))
def test_islands_are_dropped_and_pinholes_filled(
    row: int, column: int, size: int, hole: int
) -> None:
    given = DISC.copy()
    given[row : row + size, column : column + size] = True
    given[30, 32 + hole] = False
    cleaned = clean_mask(given, "m.png")
    assert np.array_equal(cleaned.inside, DISC)
    filled = "filled 1 pinhole (1 pixel)"
    said = f"m.png: {filled}"
    if size:
        pixels = "1 pixel" if size == 1 else f"{size**2} pixels"
        said = f"m.png: dropped 1 island ({pixels}) and {filled}"
    assert cleaned.notes == (said,)
    assert clean_mask(cleaned.inside).notes == (), "twice is once"


def test_large_islands_are_kept_and_mentioned() -> None:
    given = DISC.copy()
    given[2:8, 2:12] = True
    cleaned = clean_mask(given, "m.png")
    assert cleaned.inside is given
    assert cleaned.notes == ("m.png: in 2 parts, the largest of 95%; all are kept",)


@settings(deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))), st.booleans())
def test_components_are_those_of_scipy(inside: np.ndarray, corners: bool) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    inside[0, 0] = True
    labels, sizes = components(inside, corners)
    expected, count = ndimage.label(inside, np.ones((3, 3)) if corners else None)
    assert len(sizes) == count
    assert (labels[~inside] == -1).all()
    assert len({*zip(labels[inside].tolist(), expected[inside].tolist(), strict=True)}) == count
    assert sizes.tolist() == np.bincount(labels[inside], minlength=count).tolist()


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        (~DISC, "m: covers the picture's edge all around, .* inverted"),
        (DISC | True, "m: covers the whole picture"),
        ((ROWS == 30) & (COLUMNS > 4), "m: a line one pixel wide"),
        (ROWS == COLUMNS, "m: a line one pixel wide"),
        ((ROWS == 9) & (COLUMNS == 9), "m: an object too small"),
        (DISC[1:], "m: 80 x 59, expected 80 x 60"),
    ],
)
def test_masks_of_no_object_are_refused(inside: np.ndarray, message: str) -> None:
    with pytest.raises(LociError, match=message):
        check_mask(inside, PIXELS, "m")


def test_objects_at_the_edge_are_taken() -> None:
    close = (ROWS > 4) & (COLUMNS > 2) & (COLUMNS < 76)
    assert check_mask(close, PIXELS).inside is close


def test_overlapping_masks_are_mentioned() -> None:
    assert overlaps([DISC, ROWS < 8], ["a", "b"]) == []
    (note,) = overlaps([DISC, np.roll(DISC, 20, 1)], ["a", "b"])
    assert note.startswith("a and b: overlap in 39% of the smaller")
    assert "100%" in overlaps([DISC, DISC], ["a", "b"])[0]
