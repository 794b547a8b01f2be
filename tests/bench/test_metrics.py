"""Scores of pictures and of sets of them."""

import numpy as np
import pytest

from loci.bench.metrics import (
    MAX_PSNR,
    Features,
    contrast,
    cosine_distance,
    expansion,
    frechet_distance,
    gradient_energy,
    laplacian_variance,
    psnr,
    shift_right,
    ssim,
)

RNG = np.random.default_rng(0)


def test_frechet_distance_of_a_set_to_itself_is_zero_and_grows_with_a_shift() -> None:
    a = RNG.normal(size=(40, 100))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    apart = [frechet_distance(a, a + shift) for shift in (0.1, 0.2, 0.4)]
    assert apart == pytest.approx([100 * shift**2 for shift in (0.1, 0.2, 0.4)])


def test_frechet_distance_is_the_one_of_gaussians() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    a, b = RNG.normal(size=(60, 5)), RNG.normal(size=(80, 5)) @ RNG.normal(size=(5, 5)) + 1
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(cov_a @ cov_b).real
    means = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    expected = means + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_cosine_distance() -> None:
    a = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    b = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    assert cosine_distance(a, b) == pytest.approx([0, 1, 2])


def test_psnr_knows_its_unit() -> None:
    gray = np.full((2, 8, 8, 3), 100, np.uint8)
    other = gray.copy()
    other[1] += 10
    assert psnr(gray, other) == pytest.approx([MAX_PSNR, 20 * np.log10(25.5)])


def test_structural_similarity_falls_with_noise() -> None:
    pytest.importorskip("skimage")
    frames = RNG.integers(0, 200, (1, 32, 32, 3), dtype=np.uint8)
    noisy = frames + RNG.integers(0, 55, frames.shape, dtype=np.uint8)
    assert ssim(frames, frames) == pytest.approx([1.0])
    assert ssim(frames, noisy)[0] < 0.97


def test_features_tell_pictures_apart() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    smooth = np.linspace(0, 255, 64).astype(np.uint8)[None, :, None, None]
    smooth = np.broadcast_to(smooth, (1, 64, 64, 3))
    noise = RNG.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    found = Features()(np.concatenate([smooth, smooth + np.uint8(0), noise]))
    assert found.shape == (3, 1280)
    near, far = cosine_distance(found[[0, 0]], found[[1, 2]])
    assert near == pytest.approx(0, abs=1e-6)
    assert far > 0.1


def gray(rows: list[list[int]]) -> np.ndarray:
    return np.repeat(np.array([rows], np.uint8)[..., None], 3, axis=3)


def test_gradient_energy_is_the_mean_squared_step() -> None:
    ramp = gray([[0, 3, 6], [4, 7, 10], [8, 11, 14]])
    assert gradient_energy(ramp) == pytest.approx([3**2 + 4**2])
    both = np.concatenate([ramp, ramp // 2 * 0 + 9])
    assert gradient_energy(both) == pytest.approx([25, 0])


def test_the_laplacian_sees_detail_and_no_ramp() -> None:
    rows, columns = np.mgrid[:8, :8]
    ramp = gray((3 * rows + 5 * columns).tolist())
    board = gray((100 + 10 * ((rows + columns) % 2)).tolist())
    # Neighbours of a square all differ by 10, so the Laplacian is +-40.
    assert laplacian_variance(np.concatenate([ramp, board])) == pytest.approx([0, 40**2])


def test_contrast_is_the_deviation_of_the_luma() -> None:
    halves = gray([[50, 150], [50, 150]])
    assert contrast(np.concatenate([halves, halves * 0])) == pytest.approx([50, 0])
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[:, 0, :, 0] = 100
    assert contrast(red) == pytest.approx([0.299 * 50])


def smooth(seed: int) -> np.ndarray:
    """A picture without fine detail, 96 pixels a side."""
    blocks = np.random.default_rng(seed).integers(0, 256, (12, 12, 3))
    return np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)


def test_shifts_are_measured_in_pixels() -> None:
    picture = smooth(0)
    views = np.stack([picture[16:80, 16 - s : 80 - s] for s in (0, 3, -5, 16)])
    assert shift_right(views[[0, 0, 0, 0]], views).tolist() == [0, 3, -5, 16]


def test_expansion_and_contraction_have_opposite_signs() -> None:
    wide = smooth(1)
    near = np.kron(wide[24:72, 24:72], np.ones((2, 2, 1))).astype(np.uint8)
    small, large = wide[None], near[None]
    between = smooth(1)[4:92, 4:92]
    index = np.arange(96) * 88 // 96
    zoomed = between[index][:, index][None]
    assert expansion(small, zoomed)[0] > 0
    assert expansion(zoomed, small)[0] < 0
    assert expansion(small, small)[0] == 0
    assert expansion(small, large).shape == (1,)
