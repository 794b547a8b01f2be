"""A camera in a 360-degree photograph: where it looks, and that it comes back exactly."""

import numpy as np
import pytest

from loci.envs.panorama import LEFT, RIGHT, Panorama
from loci.errors import LociError


def picture(height: int = 64) -> np.ndarray:
    """Red grows to the right, green downwards; blue marks the middle column's quarter."""
    width = 2 * height
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    pixels[:, width // 4 : width // 2, 2] = 255  # left of the middle
    return pixels


def test_the_middle_column_is_ahead() -> None:
    frame = Panorama(picture(), 32).frame().astype(int)
    assert frame.shape == (32, 32, 3)
    assert abs(frame[15:17, 15:17, 0].mean() - 127.5) < 2
    assert (np.diff(frame[16, :, 0]) >= 0).all(), "right in the photograph is right in the frame"
    assert (np.diff(frame[:, 16, 1]) > 0).all(), "down is down"


def test_the_edges_of_a_frame_are_half_its_field_of_view_away() -> None:
    frame = Panorama(picture(256), 64, fov=90.0).frame().astype(float)
    row = frame[32, :, 0] / 255 * 360 - 180  # degrees to the right
    expected = np.degrees(np.arctan((np.arange(64) + 0.5) / 64 * 2 - 1))
    np.testing.assert_allclose(row, expected, atol=1.5)


def test_turning_left_shows_what_was_on_the_left() -> None:
    panorama = Panorama(picture(), 32)
    ahead = panorama.frame()
    for _ in range(6):
        panorama.step(0, LEFT)
    assert panorama.pose() == (0.0, 0.0, 45.0)
    left = panorama.frame()
    assert left[16, 16, 0] < ahead[16, 16, 0] - 20
    assert left[16, 16, 2] == 255
    for _ in range(6):
        panorama.step(0, RIGHT)
    assert np.array_equal(panorama.frame(), ahead)


def test_there_is_no_seam() -> None:
    """A smooth photograph that closes stays smooth behind the camera."""
    angle = np.linspace(-np.pi, np.pi, 256, endpoint=False)
    pixels = np.zeros((128, 256, 3), np.uint8)
    pixels[:] = (127.5 + 100 * np.cos(angle)).astype(np.uint8)[None, :, None]
    frame = Panorama(pixels, 64, heading=180.0).frame().astype(int)
    assert np.abs(np.diff(frame[32, :, 0])).max() <= 6


def test_a_pitched_camera_looks_up() -> None:
    assert Panorama(picture(), 32, pitch=20).frame()[16, 16, 1] < 127 - 20


def test_moves_and_other_pictures_are_refused() -> None:
    with pytest.raises(LociError, match="one can only turn"):
        Panorama(picture(), 32).step(1, 0)
    with pytest.raises(LociError, match="100x64 pixels, expected a 360-degree"):
        Panorama(picture()[:, :100])
