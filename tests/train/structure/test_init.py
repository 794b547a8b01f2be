"""A fuser that begins so that what it is shown can be heard."""

import torch

from loci.objects.config import home
from loci.objects.models.condition import EmbedderFuser
from loci.train.structure.init import initialize_fuser, load_pretrained_backbone, plane_waves


def test_tokens_of_every_input_come_out_at_the_size_attention_is_made_for() -> None:
    torch.manual_seed(0)
    config = home().parts.structure_fuser
    fuser = EmbedderFuser.from_config(config)
    initialize_fuser(fuser)
    load_pretrained_backbone(fuser)
    side = config.picture.input_size
    place = torch.arange(side) / side - 0.5
    plane = torch.stack([place.expand(side, -1), place.expand(side, -1).T, torch.ones(side, side)])
    points = torch.stack([plane, 0.5 * plane + torch.tensor([0.3, 0.0, -0.6])[:, None, None]])
    inputs = {"image": torch.rand(2, 3, side, side), "pointmap": points}
    inputs |= {name: (torch.rand(2, 1, 4, 4) > 0.5).float() for name in ("mask", "rgb_image_mask")}
    for name in ("mask", "rgb_image_mask"):
        inputs[name] = torch.nn.functional.interpolate(inputs[name], (side, side))
    with torch.no_grad():
        tokens = fuser(inputs, dropped=("rgb_pointmap",))
    start = 0
    for row in fuser.sources:
        for source in row:
            count = fuser.embed(source.name, inputs[source.name]).shape[1]
            part = tokens[:, start : start + count]
            assert 0.7 < part.square().mean().sqrt() < 1.4, source.name
            # Neither lost in what all patches share, nor in what all pictures share.
            assert part.std(dim=1).mean() > 0.3, source.name
            assert part.std(dim=0).mean() > 0.1, source.name
            start += count
    assert start == tokens.shape[1]


def test_no_two_patches_have_the_same_waves() -> None:
    waves = plane_waves(8, 48).flatten(1).T
    apart = torch.cdist(waves, waves) + 100 * torch.eye(64)
    assert apart.min() > 1
    assert waves.square().mean().sqrt() - 0.5**0.5 < 1e-3
