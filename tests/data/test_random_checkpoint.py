"""Random weights in the published layout, whose names are those of the manifests."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from loci.data import random_checkpoint
from loci.data.random_checkpoint import published_codec_name, write_random_checkpoint
from loci.objects.lifter import Lifter
from loci.objects.parts import PARTS
from loci.world.published_files import renamed_codec

TESTS = Path(__file__).parents[1]


def shapes(model: str, size: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes by published name, of every file."""
    kind = "world" if model == "infinite-world" else "object"
    sizes = getattr(random_checkpoint, f"_{kind}_sizes")(size)
    files = getattr(random_checkpoint, f"_{kind}_files")(sizes)
    return {Path(file.path).stem: dict(file.shapes) for file in files}


def manifest(path: str) -> dict[str, dict[str, Any]]:
    return json.loads(gzip.decompress((TESTS / path).read_bytes()))


@pytest.mark.parametrize(
    ("stem", "section"), [("infinite_world_model", "dit"), ("Wan2.1_VAE", "vae")]
)
def test_a_full_world_has_the_published_names_and_shapes(stem: str, section: str) -> None:
    pytest.importorskip("transformers", reason="the extra `text` is not installed")
    published = manifest("world/infinite-world.manifest.json.gz")[section]
    ours = shapes("infinite-world", "full")[stem]
    assert ours == {name: tuple(shape) for name, shape in published.items()}
    assert shapes("infinite-world", "tiny")["Wan2.1_VAE"].keys() >= (
        published.keys() if section == "vae" else set()
    )


def test_a_full_lifter_has_the_published_names_and_shapes() -> None:
    published = manifest("objects/sam3d.manifest.json.gz")
    ours = shapes("sam-3d-objects", "full")
    for stem, tensors in published.items():
        assert ours[stem] == {name: tuple(shape) for name, (shape,) in tensors.items()}, stem


def test_names_of_the_autoencoder_go_both_ways() -> None:
    names = manifest("world/infinite-world.manifest.json.gz")["vae"]
    ours = renamed_codec({name: torch.empty(0) for name in names})
    assert [published_codec_name(name) for name in ours] == list(names)


def test_a_tiny_lifter_is_found_and_its_parts_load(tmp_path: Path) -> None:
    counts: list[int] = []
    write_random_checkpoint(
        "sam-3d-objects", tmp_path / "model", progress=lambda n, _: counts.append(n)
    )
    parts = Lifter.from_pretrained(tmp_path / "model").loader.parts
    weights = [tensor for name in PARTS for tensor in parts.load(name).state_dict().values()]
    assert all(tensor.dtype == torch.bfloat16 for tensor in weights)
    assert sum(counts) >= sum(tensor.nbytes for tensor in weights)
    assert not any(torch.isnan(tensor).any() for tensor in weights)
    spread = parts.load("slat_flow").state_dict()["blocks.0.mlp.mlp.0.weight"].float().std()
    assert 0.8 < spread * 16**0.5 < 1.2


def test_a_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("first", 0), ("second", 0), ("third", 1)):
        write_random_checkpoint("sam-3d-objects", tmp_path / name, seed=seed)
    first, second, third = (
        torch.load(tmp_path / name / "checkpoints" / "ss_decoder.ckpt")["input_layer.weight"]
        for name in ("first", "second", "third")
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
