import pytest
import torch

from loci.nn.sparse.attention import VoxelAttention
from loci.nn.sparse.conv import SparseConv3
from loci.nn.sparse.partial_voxels import VoxelCache
from loci.nn.sparse.voxels import Voxels, downsample, upsample


def cloud(items: int = 2) -> Voxels:
    generator = torch.Generator().manual_seed(0)
    coords = torch.cat(
        [
            torch.cat(
                [torch.full((60, 1), i), torch.randint(0, 6, (60, 3), generator=generator)], dim=1
            )
            for i in range(items)
        ]
    )
    return Voxels(torch.unique(coords, dim=0))


def blocks(voxels: Voxels, count: int) -> torch.Tensor:
    """Rows of the first voxels, whole blocks of them, of every item."""
    parent, where = voxels.coarser.parent, voxels.coords[:, 0]
    chosen = torch.cat([parent[where == i].unique()[:count] for i in where.unique()])
    return torch.isin(parent, chosen).nonzero()[:, 0]


def network(conv: SparseConv3, attention: VoxelAttention, feats, voxels: Voxels):
    """A convolution, attention among the parents, and back."""
    feats = conv(feats, voxels)
    coarse = voxels.coarser.voxels
    parents = attention(downsample(feats, voxels), coarse.by_item)
    return conv(upsample(parents, voxels) + feats, voxels)


@pytest.fixture
def parts():
    torch.manual_seed(0)
    with torch.no_grad():
        yield cloud(), SparseConv3(8, 8), VoxelAttention(8, 2, norm=True)


def test_a_full_evaluation_equals_one_without_a_cache(parts) -> None:
    voxels, conv, attention = parts
    feats = torch.randn(len(voxels), 8)
    plain = network(conv, attention, feats, voxels)
    assert torch.equal(network(conv, attention, feats, VoxelCache(voxels).whole()), plain)


def test_a_part_is_exact_when_nothing_changed(parts) -> None:
    voxels, conv, attention = parts
    feats, kept = torch.randn(len(voxels), 8), VoxelCache(voxels)
    plain = network(conv, attention, feats, kept.whole())
    for count in (1, 4):
        indices = blocks(voxels, count)
        assert 0 < len(indices) < len(voxels)
        part = network(conv, attention, feats[indices], kept.part(indices))
        assert torch.allclose(part, plain[indices], atol=1e-6)


def test_parts_that_cover_all_voxels_update_the_cache(parts) -> None:
    """After every voxel was evaluated again, what is kept is as new, up to the order of turns."""
    voxels, conv, attention = parts
    old, new = torch.randn(2, len(voxels), 8)
    kept = VoxelCache(voxels)
    before = network(conv, attention, old, kept.whole())
    indices = blocks(voxels, 4)
    others = torch.isin(torch.arange(len(voxels)), indices).logical_not().nonzero()[:, 0]
    for _ in range(12):
        for part in (indices, others):
            network(conv, attention, new[part], kept.part(part))
    after = network(conv, attention, new[indices], kept.part(indices))
    expected = network(conv, attention, new, voxels)[indices]
    assert torch.allclose(after, expected, atol=1e-4)
    assert not torch.allclose(after, before[indices], atol=1e-2)


def test_a_part_does_not_change_its_input(parts) -> None:
    voxels, conv, attention = parts
    feats, kept = torch.randn(len(voxels), 8), VoxelCache(voxels)
    copy = feats.clone()
    network(conv, attention, feats, kept.whole())
    indices = blocks(voxels, 2)
    network(conv, attention, torch.zeros(len(indices), 8), kept.part(indices))
    assert torch.equal(feats, copy)


def test_rows_that_cannot_be_evaluated_are_refused(parts) -> None:
    voxels, conv, attention = parts
    kept, indices = VoxelCache(voxels), blocks(voxels, 2)
    with pytest.raises(ValueError, match="only after"):
        kept.part(indices)
    network(conv, attention, torch.randn(len(voxels), 8), kept.whole())
    with pytest.raises(ValueError, match="ascending"):
        kept.part(indices.flip(0))
    largest = voxels.coarser.children.argmax()
    torn = (voxels.coarser.parent == largest).nonzero()[:1, 0]
    with pytest.raises(ValueError, match="whole blocks"):
        network(conv, attention, torch.randn(1, 8), kept.part(torn))
    with pytest.raises(NotImplementedError):
        kept.part(indices).windows(4)
