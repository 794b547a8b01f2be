import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loci.caching.aggregation import shrunk
from loci.caching.area_resize import area_resized
from loci.caching.published.decoding import PaperDecoding, ReleasedDecoding
from loci.caching.spectral import (
    DecodingConfig,
    Thresholds,
    fit_thresholds,
    token_scores,
)

ALL = (ReleasedDecoding(), PaperDecoding(), DecodingConfig())


def cutout(texture: torch.Tensor) -> torch.Tensor:
    """A disc of a texture."""
    y, x = torch.meshgrid(*(torch.arange(96.0) - 47.5,) * 2, indexing="ij")
    alpha = ((x.square() + y.square()).sqrt() < 40) * 255
    rgb = texture[..., None].expand(-1, -1, 3)
    return torch.cat([rgb, alpha[..., None]], dim=-1).to(torch.uint8)


def shell(side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    coords = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), *(torch.arange(side),) * 3)
    radius = (coords[:, 1:] - (side - 1) / 2).norm(dim=1)
    coords = coords[(radius > side / 3) & (radius < side / 2)]
    return coords, torch.ones(len(coords))


@pytest.mark.parametrize("decoding", ALL)
def test_noise_has_more_detail_than_a_slope(decoding: DecodingConfig) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (96, 96), generator=generator)
    slope = torch.arange(96).expand(96, 96) + 80
    fine, smooth = decoding.image_ratio(cutout(noise)), decoding.image_ratio(cutout(slope))
    assert 0 <= smooth < 0.5 * fine < 1


def test_a_picture_without_an_object_has_no_ratio() -> None:
    for decoding in ALL:
        assert decoding.image_ratio(torch.zeros(20, 20, 4, dtype=torch.uint8)) == 0


def test_token_scores_lie_in_the_unit_interval() -> None:
    coords, values = shell()
    scores = token_scores(coords, values, 16)
    assert scores.amin() == 0
    assert scores.amax() == 1
    ratios = [decoding.grid_ratio(coords, values, 16) for decoding in ALL]
    assert all(0 < r < 1 for r in ratios)
    # Without the zero frequency, which is low, the part of the high ones is larger.
    assert ratios[2] > ratios[1]


def test_thresholds_divide_objects_evenly() -> None:
    joint = torch.rand(99, generator=torch.Generator().manual_seed(0))
    config = DecodingConfig(image_weight=1.0).with_thresholds(fit_thresholds(joint))
    factors = [config.factor(r, 0.5, 5000) for r in joint.tolist()]
    counts = {f: factors.count(f) for f in (1.25, 1.5, 2.0)}
    assert counts == {1.25: 33, 1.5: 33, 2.0: 33}


def test_ours_merges_nothing_without_thresholds() -> None:
    assert DecodingConfig().factor(0.1, 0.1, 10**6) == 1
    assert ReleasedDecoding().factor(0.1, 0.1, 5000) == 2
    with pytest.raises(ValueError, match="low <= high"):
        Thresholds(0.1, 0.2)


def test_counts_of_voxels_go_with_the_grid_in_ours() -> None:
    """An object of 32^3 voxels has a quarter of the surface that it has in 64^3."""
    ours, published = DecodingConfig(0.7, 0.5), ReleasedDecoding()
    for count, factor in ((511, 1), (512, 1.5), (10_499, 1.5), (10_500, 2)):
        assert ours.factor(0.6, 0.6, count, 32) == factor
        assert ours.factor(0.6, 0.6, count * 4, 64) == factor
    assert published.factor(0.6, 0.6, 2047, 32) == 1


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 16]))
def test_a_flat_picture_stays_flat(height: int, width: int, size: int) -> None:
    flat = torch.full((height, width), 77, dtype=torch.uint8)
    assert torch.equal(area_resized(flat, size), torch.full((size, size), 77, dtype=torch.uint8))


def test_resizing_by_area() -> None:
    picture = torch.arange(16, dtype=torch.uint8).view(4, 4) * 10
    assert area_resized(picture, 2).tolist() == [[25, 45], [105, 125]]
    assert torch.equal(area_resized(picture, 4), picture)
    # A whole factor of enlargement repeats pixels.
    assert torch.equal(
        area_resized(picture, 8), picture.repeat_interleave(2, 0).repeat_interleave(2, 1)
    )


@pytest.mark.parametrize("factor", [1.25, 1.5, 2.0])
def test_ours_comes_out_at_its_true_size(factor: float) -> None:
    """Every voxel's centre, brought back, lies within half a coarse voxel of where it was."""
    coords, _ = shell()
    merged = DecodingConfig().aggregate(coords, factor, 16)
    frame = (merged.coords[:, 1:] + 0.5) / 16 - 0.5
    back = (frame * merged.asset_factor + merged.asset_shift)[merged.parent]
    away = (back - ((coords[:, 1:] + 0.5) / 16 - 0.5)).abs().amax()
    assert away <= 0.5 * factor / 16 + 1e-9
    assert merged.pose_factor == 1


def test_the_papers_comes_out_at_its_true_size_too() -> None:
    coords, _ = shell()
    merged = PaperDecoding().aggregate(coords, 2.0, 16)
    frame = (merged.coords[:, 1:] + 0.5) / 16 - 0.5
    back = frame * merged.asset_factor + merged.asset_shift
    assert back.amin() == pytest.approx(-0.5 + 1 / 16)
    assert back.amax() == pytest.approx(0.5 - 1 / 16)


@pytest.mark.parametrize("decoding", ALL)
def test_merging(decoding: DecodingConfig) -> None:
    coords, _ = shell()
    nothing = decoding.aggregate(coords, 1.0, 16)
    assert torch.equal(nothing.coords, coords)
    merged = decoding.aggregate(coords, 2.0, 16)
    assert len(merged.coords) < 0.4 * len(coords)
    assert torch.equal(torch.unique(merged.coords, dim=0), merged.coords)
    values = torch.arange(float(len(coords)))
    largest, mean = merged.pooled(values), merged.pooled(values, "mean")
    assert largest.amax() == len(coords) - 1
    assert bool((mean <= largest).all())
    assert len(merged.subset(5, torch.Generator().manual_seed(0))) == 5
    assert len(merged.subset(10**6)) == len(merged.coords)


def test_a_flat_object_keeps_its_plane() -> None:
    coords = torch.tensor([[0, x, 7, z] for x in range(8) for z in range(8)])
    assert (shrunk(coords, 2.0)[:, 2] == 7).all()
    for decoding in ALL:
        with pytest.raises(ValueError, match="at least 1"):
            decoding.aggregate(coords, 0.5)
