"""Which pixels a voxel has, against cases that can be told by hand."""

import torch

from loci.geometry.camera import Camera
from loci.objects.inputs.pixel_aligned import ALIGNED_CHANNELS, pixel_aligned

FOV, SIZE, RESOLUTION = 40.0, 96, 8
FRONT = Camera.orbit(0, 0, 2.5, FOV)
"""Looks along y: x to the right, z up."""


def plate(y: int) -> torch.Tensor:
    """Middles of the voxels of one layer of the grid."""
    x, z = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    coords = torch.stack([x, torch.full_like(x, y), z], dim=-1).view(-1, 3)
    return (coords + 0.5) / RESOLUTION - 0.5


def picture(places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Red to the right, green upwards, inside what the voxels cover."""
    x, y, _ = FRONT.project(places, SIZE).unbind(1)
    columns, rows = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="xy")
    reach = 0.6 * float(x.max() - x.min()) / (len(x) ** 0.5 - 1)
    inside = (columns > x.min() - reach) & (columns < x.max() + reach)
    inside &= (rows > y.min() - reach) & (rows < y.max() + reach)
    rgb = torch.stack([columns / SIZE, 1 - rows / SIZE, torch.zeros(SIZE, SIZE)])
    return rgb, inside[None].float()


def parts_of(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    assert rows.shape[1] == ALIGNED_CHANNELS
    parts = rows.view(-1, 8, 5)
    return parts[..., 0], parts[..., 1:4], parts[..., 4]


def test_a_voxel_in_sight_has_the_color_of_its_own_pixels() -> None:
    places = plate(2)
    rgb, mask = picture(places)
    covered, color, behind = parts_of(pixel_aligned(places, 1 / RESOLUTION, FRONT, rgb, mask))
    assert covered.mean() > 0.95
    assert behind.max() < 0.2
    x, y, _ = FRONT.project(places, SIZE).unbind(1)
    within = covered.amin(dim=1) > 0.99
    assert within.float().mean() > 0.5
    expected = 2 * torch.stack([x / SIZE, 1 - y / SIZE, torch.zeros_like(x)], dim=1) - 1
    assert torch.allclose(color.mean(dim=1)[within], expected[within], atol=0.03)
    # Parts to the right are redder, those above greener.
    corners = torch.cartesian_prod(*(torch.tensor([0, 1]),) * 3)
    right, above = corners[:, 0] == 1, corners[:, 2] == 1
    assert (color[within][:, right, 0].mean(1) > color[within][:, ~right, 0].mean(1)).all()
    assert (color[within][:, above, 1].mean(1) > color[within][:, ~above, 1].mean(1)).all()


def test_what_stands_behind_is_known_to() -> None:
    front, back = plate(0), plate(7)
    rgb, mask = picture(front)
    rows = pixel_aligned(torch.cat([front, back]), 1 / RESOLUTION, FRONT, rgb, mask)
    _, _, behind = parts_of(rows)
    assert behind[:64].mean() < 0.2
    assert behind[64:].mean() > 0.9


def test_the_far_end_of_a_rod_that_points_at_the_camera_is_behind() -> None:
    """Its mask is small, and in the crop its voxels stand far apart."""
    rod = torch.cartesian_prod(torch.arange(3, 5), torch.arange(8), torch.arange(3, 5))
    places = (rod + 0.5) / RESOLUTION - 0.5
    rgb, mask = picture(places[rod[:, 1] == 0])
    _, _, behind = parts_of(pixel_aligned(places, 1 / RESOLUTION, FRONT, rgb, mask))
    assert behind[rod[:, 1] == 0].max() < 0.3
    assert behind[rod[:, 1] >= 5].min() > 0.9


def test_outside_the_mask_there_is_no_color() -> None:
    places = plate(2)
    rgb, mask = picture(places)
    half = mask.clone()
    half[..., : SIZE // 2] = 0
    covered, color, _ = parts_of(pixel_aligned(places, 1 / RESOLUTION, FRONT, rgb, half))
    x = FRONT.project(places, SIZE)[:, 0]
    away = x < SIZE / 2 - 6
    assert away.any()
    assert covered[away].max() < 0.01
    assert color[away].abs().max() < 0.01
    assert covered[x > SIZE / 2 + 6].mean() > 0.9


def test_nothing_is_seen_behind_the_camera() -> None:
    near = Camera.orbit(0, 0, 0.2, FOV)  # In the middle of the object
    places = torch.cat([plate(0), plate(7)])
    rgb = torch.ones(3, SIZE, SIZE)
    rows = pixel_aligned(places, 1 / RESOLUTION, near, rgb, torch.ones(1, SIZE, SIZE))
    covered, color, behind = parts_of(rows)
    assert covered[:64].max() == 0
    assert color[:64].abs().max() == 0
    assert (behind[:64] == 1).all()
    assert rows.isfinite().all()


def test_the_depth_buffer_is_that_of_the_training_of_home() -> None:
    """One cell for all in this large picture, so that a voxel at the corner is in front of all."""
    large = 4 * SIZE
    centers = torch.cat([plate(4), plate(0)[:1]])
    rgb, mask = torch.ones(3, large, large), torch.ones(1, large, large)
    _, _, behind = parts_of(pixel_aligned(centers, 1 / RESOLUTION, FRONT, rgb, mask))
    assert behind[:64].min() > 0.8
    assert behind[64].max() < 0.3
