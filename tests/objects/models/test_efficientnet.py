"""The borrowed network computes what its publishers' does, and training leaves it alone."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loci.bench.metrics import Features
from loci.errors import LociError
from loci.objects.config import home
from loci.objects.models.condition import EmbedderFuser
from loci.objects.models.dinov2 import DinoConfig, DinoEmbedder, DinoEmbedderConfig, LiteEmbedding
from loci.objects.models.efficientnet import STRIDE, WIDTH, LiteFeatures
from loci.train.backbone import load_lite_weights
from loci.train.optim import MuonWithAdam
from loci.train.structure.init import load_pretrained_backbone

SMALL = DinoEmbedderConfig(DinoConfig(STRIDE, 24, 1, 2, registers=1, grid=4, stem="lite"), 64)


@torch.no_grad()
def test_features_are_those_of_the_published_network() -> None:
    features = LiteFeatures()
    load_lite_weights(features)
    network = Features().network
    images = 2 * torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0)) - 1
    expected = network._swish(network._bn0(network._conv_stem(images)))  # pyright: ignore
    for block in list(network._blocks)[: len(features.blocks)]:  # pyright: ignore
        expected = block(expected)
    found = features(images)
    assert found.shape == (2, WIDTH, 6, 8)
    assert torch.allclose(found, expected, atol=1e-3)


def test_an_embedder_sees_with_it_and_trains_only_what_listens() -> None:
    torch.manual_seed(0)
    embedder = DinoEmbedder(SMALL)
    stem = embedder.backbone.patch_embed
    assert isinstance(stem, LiteEmbedding)
    load_lite_weights(stem.features)
    before = {name: x.clone() for name, x in stem.features.state_dict().items()}
    optimizer = MuonWithAdam(embedder, ("blocks.",), 1e-2)
    tokens = embedder(torch.rand(2, 3, 50, 50))
    assert tokens.shape == (2, 17, 24)
    tokens.square().mean().backward()
    listening = stem.proj.weight.clone()
    optimizer.step()
    assert not stem.proj.weight.equal(listening)
    assert all(x.equal(before[name]) for name, x in stem.features.state_dict().items())


def test_patches_and_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 16"):
        DinoEmbedder(DinoEmbedderConfig(DinoConfig(14, 24, 1, 2, grid=4, stem="lite"), 56))
    with pytest.raises(ValueError, match="multiple of 16"):
        DinoEmbedder(DinoEmbedderConfig(SMALL.backbone, 72))


def test_home_begins_with_the_published_weights() -> None:
    parts = home().parts
    fuser = EmbedderFuser.from_config(parts.structure_fuser)
    load_pretrained_backbone(fuser)
    embedder = fuser.module_list[0]
    assert isinstance(embedder, DinoEmbedder)
    stem = embedder.backbone.patch_embed
    assert isinstance(stem, LiteEmbedding)
    published = LiteFeatures()
    load_lite_weights(published)
    for name, x in stem.features.state_dict().items():
        assert x.equal(published.state_dict()[name])
        assert not stem.features.get_parameter(name).requires_grad


def test_another_file_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(LociError, match="not the weights of EfficientNet-lite0"):
        load_lite_weights(LiteFeatures(), tmp_path / "a.safetensors")
