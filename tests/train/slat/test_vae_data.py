"""Objects as batches of voxels."""

import itertools

import torch

from loci.train.slat.vae_data import (
    SDF_STEPS,
    Symmetry,
    augment,
    corrupt_voxels,
    free_neighbors,
    permute_colors,
    recolor_voxels,
    slat_vae_batch,
)
from tests.train.toy_objects import toy_object

TOY = toy_object(3, side=8, samples=1024)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_samples_know_their_voxel() -> None:
    batch = slat_vae_batch([TOY, toy_object(4, 8, 1024)], 500, rng())
    assert batch.samples.shape == (1000, 9)
    coords = batch.voxels.coords[batch.owner]
    assert coords[:500, 0].max() == 0
    assert coords[500:, 0].min() == 1
    halves = torch.stack([batch.cell // 4, batch.cell // 2 % 2, batch.cell % 2], dim=1)
    middles = (2 * coords[:, 1:] + halves + 0.5) / 16 - 0.5
    torch.testing.assert_close(middles + batch.place / 32, batch.samples[:, :3])
    assert batch.filled.float().mean() > 0.9


def test_turning_and_mirroring_changes_nothing_but_the_frame() -> None:
    whole = slat_vae_batch([TOY], 4096, rng())
    for flags in itertools.product([False, True], repeat=3):
        side = Symmetry(*flags)
        moved = slat_vae_batch([side.apply(TOY)], 4096, rng())
        assert len(moved.owner) == len(whole.owner)  # every sample still has a voxel
        # Distances at voxels' middle corners are the same ones, wherever they went.
        centered = (2 * whole.voxels.coords[:, 1:] - 7).float() @ side.matrix
        row = {tuple(c): i for i, c in enumerate(moved.voxels.coords[:, 1:].tolist())}
        order = [row[tuple(c)] for c in ((centered + 7) / 2).round().long().tolist()]
        assert torch.equal(moved.corners[order][:, 13], whole.corners[:, 13])


def test_normals_still_point_outward() -> None:
    moved = Symmetry(True, True, False).apply(TOY)
    outside = ((moved.surface[:, :3] + 0.08 * moved.surface[:, 3:6] + 0.5) * 16).round().long()
    inside = ((moved.surface[:, :3] - 0.04 * moved.surface[:, 3:6] + 0.5) * 16).round().long()
    at = [moved.sdf[p.clamp(0, 16).unbind(1)].float() for p in (outside, inside)]
    assert (at[0] - at[1]).mean() > SDF_STEPS / 2


def test_other_colors_are_the_same_object() -> None:
    other = permute_colors(TOY, rng(1))
    assert torch.equal(other.surface[:, :6], TOY.surface[:, :6])
    assert not torch.equal(other.surface, TOY.surface)
    assert other.surface[:, 6:].min() >= 0
    assert other.surface[:, 6:].max() <= 1
    assert len(augment(TOY, 0.5, rng(2)).coords) == len(TOY.coords)


def test_a_motley_object_has_a_color_in_every_voxel() -> None:
    many = recolor_voxels(TOY, rng(1))
    assert torch.equal(many.surface[:, :6], TOY.surface[:, :6])
    assert many.surface[:, 6:].min() >= 0
    assert many.surface[:, 6:].max() <= 1
    batch = slat_vae_batch([TOY], 4096, rng())
    added = slat_vae_batch([many], 4096, rng()).samples[:, 6:] - 0.3 * batch.samples[:, 6:]
    first = added.new_zeros(len(batch.voxels), 3).index_copy(0, batch.owner, added)
    torch.testing.assert_close(first[batch.owner], added, atol=1e-5, rtol=0)  # One in a voxel, ...
    assert first[batch.filled].std(dim=0).min() > 0.1  # ... another in the next


def test_disturbed_voxels_stay_near() -> None:
    empty = free_neighbors(TOY, 0.5, rng())
    assert len(empty) > 0
    both = torch.cat([TOY.coords, empty])
    assert len(both.unique(dim=0)) == len(both)
    gaps = (empty[:, None] - TOY.coords).abs().sum(-1).amin(1)
    assert (gaps == 1).all()
    sizes = {len(corrupt_voxels(TOY, 0.3, rng(seed)).coords) for seed in range(8)}
    assert len(TOY.coords) in sizes
    assert len(sizes) > 2


def test_an_empty_voxel_is_marked() -> None:
    grown = TOY._replace(coords=torch.cat([TOY.coords, free_neighbors(TOY, 0.5, rng())]))
    batch = slat_vae_batch([grown], 100, rng())
    assert batch.filled.sum() > 0.9 * len(TOY.coords)
    assert not batch.filled[len(TOY.coords) :].any()
    assert batch.features[~batch.filled, :80].abs().max() == 0
