import numpy as np
import pytest

from loci.data.objects.cleaning import normalized
from loci.data.objects.mesh_files import triangles
from loci.data.objects.simple_shapes import (
    MAKERS,
    SIMPLE_KINDS,
    _mug,
    arc,
    simple,
    tube,
    turned,
    turned_mesh,
)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_part_is_closed_and_wound_outwards(kind: str) -> None:
    rng = np.random.default_rng(4)
    for _ in range(6):
        for part in MAKERS[kind][1](rng):
            assert part.is_watertight
            assert part.volume > 0


def test_a_tube_has_the_volume_of_its_length() -> None:
    straight = tube(np.linspace([0, 0, 0], [0, 0, 2], 5), 0.1)
    section = 12 / 2 * np.sin(2 * np.pi / 12) * 0.1**2
    assert straight.volume == pytest.approx(2 * section, rel=1e-6)
    ring = tube(arc((0, 0, 0), (1, 1), (0, 360), (0, 1))[:-1], 0.1, closed=True)
    assert ring.volume == pytest.approx(2 * np.pi * section, rel=0.02)
    assert np.ptp(ring.vertices[:, 2]) == pytest.approx(0.2, rel=0.01)


def test_a_mug_is_open_above_with_its_handle_on_the_right() -> None:
    body, handle = _mug(np.random.default_rng(0))
    wide = np.abs(body.vertices[:, 0]).max()
    assert handle.vertices[:, 0].max() > wide + 0.1
    assert abs(handle.vertices[:, 1]).max() < 0.3 * wide
    on_axis = body.vertices[np.hypot(*body.vertices[:, :2].T) < 1e-6, 2]
    assert sorted(on_axis)[0] == 0
    assert 0.02 < max(on_axis) < 0.1, "the floor, and nothing above it"
    assert body.vertices[:, 2].max() == pytest.approx(1)


def test_a_source_gives_one_shape_and_names_its_kind() -> None:
    first, again, other = (turned(number, 1).read() for number in (3, 3, 4))
    np.testing.assert_array_equal(triangles(first), triangles(again))
    assert (
        triangles(first).shape != triangles(other).shape
        or (triangles(first) != triangles(other)).any()
    )
    kinds = {turned(number, 1).name.split("-")[-1] for number in range(1, 60)}
    assert len(kinds) > 8
    assert turned_mesh("torus", np.random.default_rng(0))[0].faces.shape[1] == 3


def test_simple_shapes_take_turns_and_can_be_rendered() -> None:
    for number, kind in enumerate(SIMPLE_KINDS, start=1):
        source = simple(number, 1)
        assert source.category == kind
        corners = triangles(normalized(source.read())).reshape(-1, 3)
        assert np.ptp(corners, axis=0).max() == pytest.approx(0.95, abs=1e-5)
    box = triangles(simple(5, 1).read()).reshape(-1, 3)
    assert np.ptp(box[:, 0]) >= np.ptp(box[:, 1])
