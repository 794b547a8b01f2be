from typing import cast

import pytest
import torch
from torch import Tensor

from loci.objects.models.condition import (
    CROPPED,
    POINTMAPS,
    Embedder,
    EmbedderFuser,
    FuserConfig,
    PointmapEmbedder,
    PointmapEmbedderConfig,
    structure_fuser,
)
from loci.objects.models.dinov2 import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DinoConfig,
    DinoEmbedder,
    DinoEmbedderConfig,
)

BACKBONE = DinoConfig(patch=4, dim=16, depth=1, heads=2, registers=3, grid=3)
PICTURE = DinoEmbedderConfig(BACKBONE, input_size=12)
POINTS = PointmapEmbedderConfig(input_size=16, patch=8, dim=32, heads=4)


@pytest.fixture(autouse=True)
def _no_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def inputs() -> dict[str, Tensor]:
    channels = {"image": 3, "rgb_image": 3, "mask": 1, "rgb_image_mask": 1}
    channels |= dict.fromkeys(POINTMAPS, 3)
    return {name: torch.rand(1, n, 24, 24) for name, n in channels.items()}


def fuser() -> EmbedderFuser:
    fuser = structure_fuser(PICTURE, POINTS, dim=24)
    torch.nn.init.normal_(fuser.idx_emb)
    return fuser.eval()


def test_token_counts_of_the_published_model() -> None:
    with torch.device("meta"):
        first = structure_fuser()
        second = EmbedderFuser.from_config(FuserConfig(DinoEmbedderConfig(tokens="prenorm")))
    names = [source.name for row in first.sources for source in row]
    assert names == ["image", "rgb_image", "mask", "rgb_image_mask", *POINTMAPS]
    for fuser, tokens in ((first, 7528), (second, 5496)):
        counts = [cast(Embedder, module).token_count for module in fuser.module_list]
        rows = zip(counts, fuser.sources, strict=True)
        assert sum(count * len(sources) for count, sources in rows) == tokens


def test_trap_masks_are_normalized_with_the_statistics_of_pictures() -> None:
    embedder = DinoEmbedder(PICTURE)
    mask = torch.rand(1, 1, 12, 12)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    tokens = embedder.backbone.norm(embedder.backbone((mask.expand(1, 3, 12, 12) - mean) / std))
    expected = torch.cat([tokens[:, :1], tokens[:, 4:]], dim=1)
    assert torch.allclose(embedder(mask), expected, atol=1e-6)


def test_stage_two_keeps_the_registers() -> None:
    normal = DinoEmbedder(PICTURE)
    both = DinoEmbedder(DinoEmbedderConfig(BACKBONE, 12, "prenorm"))
    image = torch.rand(2, 3, 20, 30)
    assert normal(image).shape == (2, normal.token_count, 16) == (2, 10, 16)
    assert both(image).shape == (2, both.token_count, 16) == (2, 13, 16)
    assert torch.allclose(both(image).mean(dim=-1), torch.zeros(2, 13), atol=1e-5)


def test_other_grids_of_patches_get_interpolated_positions() -> None:
    embedder = DinoEmbedder(DinoEmbedderConfig(BACKBONE, input_size=20))
    assert embedder(torch.rand(1, 3, 20, 20)).shape == (1, 26, 16)


def test_invalid_points_have_one_embedding_whatever_they_hold() -> None:
    embedder = PointmapEmbedder(POINTS)
    torch.nn.init.normal_(embedder.invalid_xyz_token)
    pointmap = torch.randn(1, 3, 16, 16)
    first = pointmap.clone()
    first[:, 1, 2:9, 3] = torch.nan
    second = first.clone()
    second[:, 0, 2:9, 3] = 7
    second[:, 2, 2:9, 3] = torch.inf
    tokens = embedder(first)
    assert torch.equal(tokens, embedder(second))
    assert tokens.isfinite().all()
    assert not torch.allclose(tokens, embedder(pointmap))
    # The points are in the left two of four windows.
    assert torch.equal(tokens[:, [1, 3]], embedder(pointmap)[:, [1, 3]])


def test_dropped_inputs_are_zeros_and_need_not_be_given() -> None:
    model, given = fuser(), inputs()
    whole, dropped = model(given), model(given, dropped=POINTMAPS)
    assert whole.shape == dropped.shape == (1, 48, 24)
    assert torch.equal(dropped[:, :40], whole[:, :40])
    assert not dropped[:, 40:].any()
    without = {name: x for name, x in given.items() if name not in POINTMAPS}
    assert torch.equal(model(without, dropped=POINTMAPS), dropped)


def test_gain_tokens_shared_among_the_objects_of_a_scene_change_nothing() -> None:
    model, given = fuser(), inputs()
    known = {"rgb_image": model.embed("rgb_image", given["rgb_image"])}
    rest = {name: x for name, x in given.items() if name not in known}
    assert torch.equal(model(rest, known=known), model(given))


def test_crop_and_full_frame_are_told_apart() -> None:
    model, given = fuser(), inputs()
    same = model.embed("image", given["image"]) - model.embed("rgb_image", given["image"])
    expected = (model.idx_emb[0] - model.idx_emb[1]).expand_as(same)
    assert torch.allclose(same, expected, atol=1e-6)


def test_a_masked_background_is_not_seen() -> None:
    given = inputs()
    given["mask"] = (torch.rand(1, 1, 24, 24) > 0.5).float()
    changed = dict(given)
    changed["image"] = torch.where(given["mask"] > 0.5, given["image"], torch.rand(1, 3, 24, 24))
    for masked in (False, True):
        model = EmbedderFuser.from_config(
            FuserConfig(PICTURE, dim=24, full_frame=(), mask_background=masked)
        ).eval()
        assert torch.equal(model(given), model(changed)) == masked
    changed["image"] = given["image"].flip(1)
    assert not torch.equal(model(given), model(changed))


def test_normalized_tokens_have_unit_size_whatever_their_projection() -> None:
    for normalized in (False, True):
        model = EmbedderFuser.from_config(
            FuserConfig(PICTURE, dim=24, full_frame=(), normalize_tokens=normalized)
        ).eval()
        torch.nn.init.normal_(model.idx_emb)
        for net in model.projection_nets:
            net[1].w2.weight.mul_(0.3)  # pyright: ignore[reportIndexIssue]
        tokens = model(inputs()) - model.idx_emb[CROPPED]
        size = tokens.square().mean(dim=-1).sqrt()
        assert (size.min() > 0.95) == normalized
        assert (size.max() < 0.5) != normalized


def test_what_is_missing_is_named() -> None:
    model, given = fuser(), inputs()
    del given["mask"], given["pointmap"]
    with pytest.raises(ValueError, match="condition: missing mask, pointmap"):
        model(given)
    with pytest.raises(ValueError, match="no embedder reads sound"):
        model.embed("sound", given["image"])
    with pytest.raises(ValueError, match="all inputs are dropped"):
        model({}, dropped=inputs().keys())
