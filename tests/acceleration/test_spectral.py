import pytest
import torch

from loci.acceleration.aggregation import shrunk
from loci.acceleration.published.decoding import PaperDecoding, ReleasedDecoding
from loci.acceleration.spectral import (
    DecodingConfig,
    SpectralThresholds,
    fit_thresholds,
    gray,
    token_scores,
    windowed_gray,
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


def test_an_empty_mask_has_no_ratio() -> None:
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
        SpectralThresholds(0.1, 0.2)


def test_counts_of_voxels_go_with_the_grid_in_ours() -> None:
    """An object of 32^3 voxels has a quarter of the surface that it has in 64^3."""
    ours, published = DecodingConfig(0.7, 0.5), ReleasedDecoding()
    for count, factor in ((511, 1), (512, 1.5), (10_499, 1.5), (10_500, 2)):
        assert ours.factor(0.6, 0.6, count, 32) == factor
        assert ours.factor(0.6, 0.6, count * 4, 64) == factor
    assert published.factor(0.6, 0.6, 2047, 32) == 1


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


def wave(cycles: int, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """A full grid with 1 + cos, of so many cycles along x."""
    coords = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), *(torch.arange(side),) * 3)
    return coords, 1 + torch.cos(2 * torch.pi * cycles * coords[:, 1] / side)


@pytest.mark.parametrize(("cycles", "is_high"), [(1, False), (2, True), (3, True), (7, True)])
def test_frequencies_of_a_grid_from_an_eighth_of_its_side_are_high(cycles: int, is_high) -> None:
    """A wave has energy 2 (1/2)^2 at its frequency and 1 at zero; magnitudes are 2 (1/2) and 1."""
    ours, released, paper = (d.grid_ratio(*wave(cycles), 16) for d in (ALL[2], ALL[0], ALL[1]))
    assert ours == pytest.approx(1.0 if is_high else 0.0, abs=1e-5)
    assert released == pytest.approx(0.5 if is_high else 0.0, abs=1e-5)
    assert paper == pytest.approx(1 / 3 if is_high else 0.0, abs=1e-5)


def test_negative_logits_count_as_empty() -> None:
    coords, values = wave(3)
    half = torch.where(values < 1, -5.0, values)
    empty = torch.where(values < 1, 0.0, values)
    for decoding in ALL:
        assert decoding.grid_ratio(coords, half, 16) == decoding.grid_ratio(coords, empty, 16)


def test_scores_are_large_where_detail_is() -> None:
    """A checkerboard in one corner of a smooth block."""
    coords = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), *(torch.arange(16),) * 3)
    corner = (coords[:, 1:] < 6).all(dim=1)
    odd = coords[:, 1:].sum(dim=1) % 2 == 1
    scores = token_scores(coords, torch.where(corner & odd, 0.0, 1.0), 16)
    inside = (coords[:, 1:] > 8).all(dim=1) & (coords[:, 1:] < 14).all(dim=1)
    assert scores[corner].mean() > 3 * scores[inside].mean()


def stripes(cycles: int, offset: int = 0) -> torch.Tensor:
    """A square of 252 pixels, which its margin of 2 makes 256, with vertical stripes."""
    x = torch.arange(256 + offset)
    shade = (128 + 100 * torch.cos(2 * torch.pi * cycles * (x - offset) / 256)).round()
    image = torch.zeros(256 + offset, 256 + offset, 4, dtype=torch.uint8)
    image[..., :3] = shade[None, :, None].to(torch.uint8)
    image[offset + 2 : offset + 254, offset + 2 : offset + 254, 3] = 255
    return image


@pytest.mark.parametrize(("cycles", "is_high"), [(10, False), (34, False), (42, True), (80, True)])
def test_frequencies_of_an_image_beyond_its_radius_are_high(cycles: int, is_high: bool) -> None:
    ratio = DecodingConfig().image_ratio(stripes(cycles))
    # The Hann window and the mean hold the rest, at low frequencies.
    assert (ratio > 0.25) == is_high
    assert (ReleasedDecoding().image_ratio(stripes(cycles)) > 0.25) == is_high


def test_an_image_is_cropped_to_the_object() -> None:
    for decoding in ALL:
        assert decoding.image_ratio(stripes(42, 37)) == decoding.image_ratio(stripes(42))


def test_outside_the_mask_is_the_mean_of_the_inside() -> None:
    image = torch.full((256, 256, 4), 40, dtype=torch.uint8)
    image[..., 3] = 0
    image[2:254, 2:128] = torch.tensor([80, 80, 80, 255], dtype=torch.uint8)
    image[2:254, 128:254] = torch.tensor([120, 120, 120, 255], dtype=torch.uint8)
    gray_values = windowed_gray(image)
    window = torch.hann_window(256, periodic=False, dtype=torch.float64)
    assert gray_values[1, 100] == pytest.approx(100 * float(window[1] * window[100]), rel=1e-5)
    assert gray_values[60, 100] == pytest.approx(80 * float(window[60] * window[100]), rel=1e-5)
    assert gray_values[60, 130] == pytest.approx(120 * float(window[60] * window[130]), rel=1e-5)
    assert windowed_gray(torch.zeros(9, 9, 4, dtype=torch.uint8)).eq(0).all()


def test_gray_values() -> None:
    rgb = torch.tensor([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]]], dtype=torch.uint8)
    assert gray(rgb).tolist() == [[76, 150, 29, 18]]


def test_the_decoding_factor_at_its_limits() -> None:
    config = DecodingConfig(high=0.7, low=0.5, image_weight=0.75)
    assert config.joint_ratio(0.8, 0.4) == pytest.approx(0.7)
    equal = DecodingConfig(high=0.75, low=0.5)
    assert equal.factor(0.75, 0.75, 5000) == 1.25
    assert equal.factor(0.7499, 0.7499, 5000) == 1.5
    assert equal.factor(0.5, 0.5, 5000) == 2
    assert equal.factor(0.5001, 0.5001, 5000) == 1.5
    assert equal.factor(0.6, 0.6, 2047) == 1
    assert equal.factor(0.6, 0.6, 2048) == 1.5
    assert equal.factor(0.9, 0.9, 42000) == 2
    assert equal.factor(0.9, 0.9, 41999) == 1.25
    assert equal.factor(0.0, 0.9, 5000) == equal.factor(0.9, 0.0, 5000) == 1
    assert equal.factor(0.0, 0.9, 42000) == 2
    assert SpectralThresholds(0.5, 0.5).high == 0.5
    assert DecodingConfig(high=0.5).thresholds is None
    assert DecodingConfig(low=0.5).thresholds is None
    assert config.with_thresholds(SpectralThresholds(0.9, 0.1)) == config


def test_the_default_settings() -> None:
    defaults = {"image_weight": 0.9, "limit": 42000, "minimum": 2048}
    assert DecodingConfig() == DecodingConfig(high=None, low=None, **defaults)  # pyright: ignore
    assert (
        ReleasedDecoding().thresholds == PaperDecoding().thresholds == SpectralThresholds(0.7, 0.5)
    )
    assert ReleasedDecoding(high=0.9, low=0.1).thresholds == SpectralThresholds(0.9, 0.1)


def test_voxels_merge_around_the_middle_of_the_grid() -> None:
    coords = torch.tensor([[0, x, 8, 8] for x in range(16)])
    merged = DecodingConfig().aggregate(coords, 2.0, 16)
    assert merged.coords[:, 1].tolist() == list(range(4, 12))
    assert merged.parent.tolist() == [i // 2 for i in range(16)]
    assert (merged.factor, merged.asset_factor, merged.pose_factor) == (2, 2, 1)
    assert merged.asset_shift == 0
    paper = PaperDecoding().aggregate(coords, 2.0, 16)
    assert paper.coords[:, 1].tolist() == list(range(8))
    assert (paper.asset_factor, paper.asset_shift) == (2, 0.5)
    released = ReleasedDecoding().aggregate(coords, 2.0, 16)
    assert released.coords[:, 1].tolist() == list(range(4, 12))
    assert (released.factor, released.pose_factor, released.asset_factor) == (2, 2, 1)


def test_pooling_and_a_random_subset() -> None:
    coords = torch.tensor([[0, x, 0, 0] for x in range(4)])
    merged = PaperDecoding().aggregate(coords, 2.0, 4)
    values = torch.tensor([[-3.0, 1.0], [-1.0, 0.0], [2.0, 4.0], [6.0, -2.0]])
    assert merged.pooled(values).tolist() == [[-1, 1], [6, 4]]
    assert merged.pooled(values, "mean").tolist() == [[-2, 0.5], [4, 1]]
    rows = [merged.subset(1, torch.Generator().manual_seed(s)).tolist() for s in range(20)]
    assert {row[0] for row in rows} == {0, 1}
    assert merged.subset(2).tolist() == [0, 1]


def test_an_object_shrinks_about_the_middle_of_its_bounds() -> None:
    coords = torch.tensor([[0, x, 5, 7 + z] for x in range(10, 22) for z in range(3)])
    small = shrunk(coords, 1.5)
    # 12 voxels become 8, from 12 on; 3 shrink to the span of 2; the flat axis stays.
    assert sorted(set(small[:, 1].tolist())) == list(range(12, 20))
    assert set(small[:, 2].tolist()) == {5}
    assert set(small[:, 3].tolist()) == {8}, "7.5, 8 and 8.5, rounded half to even"
    assert small.dtype == coords.dtype
