import torch

from loci.train.structure.draw import draw_voxels
from loci.train.structure.vae_data import ShapeAugmentation, Shapes, max_pool_voxels


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hollow_box(side: int = 32) -> torch.Tensor:
    grid = torch.zeros((side,) * 3, dtype=torch.bool)
    grid[4:-4, 8:-8, 2:-10] = True
    grid[5:-5, 9:-9, 3:-11] = False
    return grid


def pieces(shape: torch.Tensor) -> int:
    """Empty regions that do not touch, the outside among them."""
    empty = ~torch.nn.functional.pad(shape, (1,) * 6)
    labels = torch.where(empty, torch.arange(empty.numel()).view(empty.shape) + 1, 0).float()
    while True:
        spread = labels[None, None]
        for axis in range(3):
            size = [1, 1, 1]
            size[axis] = 3
            spread = spread.maximum(
                torch.nn.functional.max_pool3d(labels[None, None], size, 1, [s // 2 for s in size])
            )
        spread = torch.where(empty, spread[0, 0], 0.0)
        if torch.equal(spread, labels):
            return len(labels.unique()) - 1
        labels = spread


def test_primitives_are_no_objects_and_differ() -> None:
    shapes = Shapes([hollow_box()])
    drawn = shapes.batch(4, ShapeAugmentation(primitives=1.0), rng())[:, 0] > 0
    assert drawn.flatten(1).any(dim=1).all()
    assert len({*map(bytes, drawn.flatten(1).numpy())}) == 4
    own = {*map(bytes, (s.contiguous().numpy() for s in symmetries(shapes.plain(0))))}
    assert not own & {*map(bytes, drawn.numpy())}


def test_an_unchanged_object_is_its_own_voxels() -> None:
    fine = hollow_box()
    shapes = Shapes([fine])
    assert torch.equal(shapes.plain(0), max_pool_voxels(fine, 2))
    still = ShapeAugmentation(primitives=0.0, changed=0.0)
    for drawn in shapes.batch(8, still, rng()):
        same = [torch.equal(drawn[0] > 0, candidate) for candidate in symmetries(shapes.plain(0))]
        assert any(same)


def symmetries(shape: torch.Tensor) -> list[torch.Tensor]:
    flips = [shape.flip(axes) for axes in ((), (0,), (1,), (0, 1))]
    return flips + [flipped.transpose(0, 1) for flipped in flips]


def test_a_changed_object_keeps_its_surface_closed() -> None:
    shapes = Shapes([hollow_box()])
    assert pieces(shapes.plain(0)) == 2
    changed = shapes.batch(8, ShapeAugmentation(primitives=0.0, changed=1.0), rng())
    assert [pieces(drawn[0] > 0) for drawn in changed] == [2] * 8


def test_the_same_numbers_make_the_same_batch() -> None:
    shapes = Shapes([hollow_box()])
    one, two = (shapes.batch(4, ShapeAugmentation(), rng(3)) for _ in range(2))
    assert torch.equal(one, two)


def test_a_picture_shows_the_side_that_is_looked_at() -> None:
    slab = torch.zeros(2, 8, 8, 8, dtype=torch.bool)
    slab[0, :, :, 6:] = True
    slab[1, :, :, :2] = True
    upper, lower = draw_voxels(slab, size=32)[:, 0] < 1
    rows = torch.arange(32.0)[:, None]
    assert (rows * upper).sum() / upper.sum() < 16 < (rows * lower).sum() / lower.sum()
    empty = draw_voxels(torch.zeros(1, 8, 8, 8, dtype=torch.bool), size=16)
    assert (empty == 1).all()
