import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loci.objects.placement.voxels import VOXEL_LIMIT, downsample_voxels, prune_interior

places = st.tuples(st.integers(0, 1), *[st.integers(0, 5)] * 3)
lists = st.lists(places, min_size=1, max_size=60, unique=True).map(
    lambda rows: torch.tensor(rows, dtype=torch.int32)
)


def box(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """All voxels of a box, of item 0."""
    return torch.cartesian_prod(torch.zeros(1, dtype=torch.int64), x, y, z).int()


def naive_prune(coords: Tensor, distance: int) -> list[list[int]]:
    rows = [tuple(row) for row in coords.tolist()]
    near = range(-distance, distance + 1)
    return [
        list(row)
        for row in rows
        if not all(
            (row[0], row[1] + i, row[2] + j, row[3] + k) in rows
            for i in near
            for j in near
            for k in near
        )
    ]


@given(lists, st.integers(1, 2))
def test_pruning_drops_exactly_the_interior_of_each_item(coords: Tensor, distance: int) -> None:
    assert prune_interior(coords, distance).tolist() == naive_prune(coords, distance)


def test_a_full_cube_keeps_its_shell() -> None:
    cube = box(*[torch.arange(3, 9)] * 3)
    assert len(prune_interior(cube)) == 6**3 - 4**3
    assert len(prune_interior(cube, 2)) == 6**3 - 2**3


@given(lists, st.integers(1, 60))
def test_coarsening_keeps_to_the_limit_and_to_the_bounds(coords: Tensor, limit: int) -> None:
    coarse, factor = downsample_voxels(coords, limit)
    assert 1 <= len(coarse) <= max(limit, len(coords) if factor == 1 else 0)
    assert factor == (1 if len(coords) <= limit else 2)
    assert coarse.dtype == coords.dtype
    assert len(coarse.unique(dim=0)) == len(coarse)
    inside = (coarse >= coords.amin(dim=0)) & (coarse <= coords.amax(dim=0))
    assert inside.all()


def test_a_coarse_object_has_half_the_size_around_the_same_middle() -> None:
    cube = box(*[torch.arange(2, 10)] * 3)
    coarse, factor = downsample_voxels(cube, 100)
    expected = box(*[torch.arange(4, 8)] * 3)
    assert factor == 2
    assert torch.equal(coarse, expected)


@pytest.mark.parametrize("height", [0, 5, 63])
def test_fix_a_flat_object_is_coarsened_in_its_plane(height: int) -> None:
    """The published code divides by the extent, which is zero on the flat axis."""
    plate = box(torch.arange(8), torch.tensor([height]), torch.arange(8))
    coarse, _ = downsample_voxels(plate, 20)
    assert len(coarse) == 16
    assert (coarse[:, 2] == height).all()


def test_what_is_still_too_much_is_a_reproducible_subset() -> None:
    cube = box(*[torch.arange(8)] * 3)
    first, _ = downsample_voxels(cube, 30, torch.Generator().manual_seed(3))
    again, _ = downsample_voxels(cube, 30, torch.Generator().manual_seed(3))
    whole, _ = downsample_voxels(cube, 64)
    assert len(first) == 30
    assert torch.equal(first, again)
    assert {tuple(r) for r in first.tolist()} <= {tuple(r) for r in whole.tolist()}


def test_the_limit_is_the_published_one() -> None:
    assert VOXEL_LIMIT == 42000
