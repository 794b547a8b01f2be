import pytest
import torch
from torch import Tensor

from loci.errors import LociError
from loci.objects.inputs.pointmap import from_opencv, normalizer, user_pointmap
from loci.objects.inputs.preprocess import Box, crop_box, slat_inputs, structure_inputs

SIZE = 28


def scene(rows: slice, columns: slice) -> tuple[Tensor, Tensor, Tensor]:
    """A 20 x 30 picture, a mask of the given rows and columns, a pointmap far from zero."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(1, 20, 30)
    mask[:, rows, columns] = 1
    return (
        torch.rand(3, 20, 30, generator=generator),
        mask,
        5 + torch.rand(3, 20, 30, generator=generator),
    )


def test_the_box_is_a_fifth_larger_than_the_longer_side() -> None:
    _, mask, _ = scene(slice(4, 15), slice(8, 14))
    assert crop_box(mask) == Box(4, 3, 16, 15)


def test_shapes_and_names() -> None:
    rgb, mask, points = scene(slice(4, 15), slice(8, 14))
    ours = structure_inputs(rgb, mask, points, SIZE)
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.tensors.items()}
    three, one = (1, 3, SIZE, SIZE), (1, 1, SIZE, SIZE)
    pictures = {"image": three, "rgb_image": three, "mask": one, "rgb_image_mask": one}
    assert shapes == pictures | {"pointmap": three, "rgb_pointmap": three}
    lone = structure_inputs(rgb, mask, None, SIZE)
    assert lone.tensors.keys() == pictures.keys() == slat_inputs(rgb, mask, SIZE).keys()
    assert lone.normalizer.scale.tolist() == [1, 1, 1]


def test_trap_outside_the_picture_a_pointmap_is_zero_and_valid() -> None:
    """Zero is a point at the object's centre; the weights were trained with it."""
    rgb, mask, points = scene(slice(0, 11), slice(0, 11))
    ours = structure_inputs(rgb, mask, points, SIZE).tensors
    assert (ours["pointmap"][0, :, 0, 0] == 0).all()
    assert (ours["image"][0, :, 0, 0] == 0).all()
    assert (ours["rgb_pointmap"][0, :, 0] == 0).all()
    assert ours["pointmap"].isfinite().all()
    assert ours["rgb_pointmap"].isfinite().all()


def test_a_crop_that_is_not_square_is_padded_with_invalid_points() -> None:
    """At the upper edge rounding towards zero takes a row from the box."""
    rgb, mask, points = scene(slice(0, 6), slice(8, 20))
    box = crop_box(mask)
    assert (box.x2 - box.x1, box.y2 - box.y1) == (12, 11)
    ours = structure_inputs(rgb, mask, points, 12).tensors
    assert ours["pointmap"][0, :, -1].isnan().all()
    assert ours["pointmap"][0, :, :-1].isfinite().all()
    assert ours["image"].isfinite().all()


def test_the_background_stays() -> None:
    rgb, mask, _ = scene(slice(4, 15), slice(8, 14))
    assert (slat_inputs(rgb, mask, SIZE)["image"] > 0).all()


def test_a_pointmap_of_another_size_keeps_its_holes() -> None:
    rgb, mask, points = scene(slice(4, 15), slice(8, 14))
    small = points[:, ::2, ::2].clone()
    small[:, 0, 0] = torch.nan
    ours = structure_inputs(rgb, mask, small, 30).tensors["rgb_pointmap"][0]
    assert ours[:, 5:7, 0:2].isnan().all()
    assert ours.isnan().sum() == 3 * 4


def test_the_normalizer_centers_on_the_object_and_measures_the_scene() -> None:
    _, mask, points = scene(slice(4, 15), slice(8, 14))
    points[:, 0, 0] = torch.nan
    units = normalizer(points, mask)
    inside = points[:, mask[0] > 0]
    assert torch.equal(units.shift, inside.sort(dim=1).values[:, (inside.shape[1] - 1) // 2])
    largest = (points - units.shift[:, None, None]).abs().amax(dim=0)
    assert torch.equal(units.scale, largest.nanmedian().expand(3))
    assert units.apply(points)[:, mask[0] > 0].nanmedian(dim=1).values.abs().max() == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_without_a_finite_point_on_the_object_nothing_is_changed(value: float) -> None:
    _, mask, points = scene(slice(4, 15), slice(8, 14))
    points[:, mask[0] > 0] = value
    assert [part.tolist() for part in normalizer(points, mask)] == [[1] * 3, [0] * 3]


def test_a_mask_of_a_pixel_or_two_is_too_small() -> None:
    for rows, columns in ((slice(3, 5), slice(3, 4)), (slice(3, 4), slice(3, 4))):
        with pytest.raises(LociError, match="at least three pixels"):
            crop_box(scene(rows, columns)[1])
    with pytest.raises(LociError, match="no pixel is inside"):
        crop_box(torch.zeros(1, 4, 4))


def test_depth_networks_look_the_other_way() -> None:
    points = torch.tensor([1.0, 2.0, 3.0])[:, None, None].repeat(1, 1, 3)
    points[:, 0, 1] = torch.inf
    points[2, 0, 2] = torch.inf
    turned = from_opencv(points)
    assert turned[:, 0, 0].tolist() == [-1, -2, 3]
    assert turned[:, 0, 1:].isnan().all()


def test_a_users_pointmap_is_taken_as_it_is() -> None:
    points = torch.arange(12.0).view(2, 2, 3)
    ours = user_pointmap(points, 4, 4)
    assert torch.equal(ours[:, ::2, ::2], points.movedim(-1, 0))
    for wrong in (torch.zeros(3, 4, 4), torch.zeros(4, 4), torch.zeros(0, 4, 3)):
        with pytest.raises(LociError, match="pointmap: expected shape"):
            user_pointmap(wrong, 4, 4)
    with pytest.raises(LociError, match="at least one finite point"):
        user_pointmap(torch.full((2, 2, 3), torch.nan), 4, 4)
