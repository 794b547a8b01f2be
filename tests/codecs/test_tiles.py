"""Tiles cover a grid once, with enough around each."""

import numpy as np
import pytest

from loci.codecs.tiles import tiles


@pytest.mark.parametrize(("height", "width"), [(56, 112), (40, 152), (5, 300), (1, 1)])
def test_tiles_cover_every_cell_once(height: int, width: int) -> None:
    covered = np.zeros((height, width), int)
    made = tiles(height, width, 7, 900)
    for tile in made:
        covered[tile.inner] += 1
        for outer, inner, side in zip(tile.outer, tile.inner, (height, width), strict=True):
            assert outer.start == max(0, inner.start - 7)
            assert outer.stop == min(side, inner.stop + 7)
        whole = np.arange(height * width).reshape(height, width)
        assert (whole[tile.outer][tile.kept()] == whole[tile.inner]).all()
        fine = whole.repeat(2, 0).repeat(2, 1)
        assert (
            fine[tile.scaled(2)][tile.kept(2)] == whole[tile.inner].repeat(2, 0).repeat(2, 1)
        ).all()
    assert (covered == 1).all()


def test_small_pictures_are_one_tile() -> None:
    assert len(tiles(32, 32, 13, 3200)) == 1


def test_the_published_size_is_cut_into_columns() -> None:
    made = tiles(56, 112, 13, 3200)
    areas = [
        (t.outer[0].stop - t.outer[0].start) * (t.outer[1].stop - t.outer[1].start) for t in made
    ]
    assert max(areas) <= 3200
    assert sum(areas) < 2 * 56 * 112
