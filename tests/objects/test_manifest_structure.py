"""Stage 1 at released size holds exactly the released tensors."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from loci.objects.conditioning import latent_fuser, structure_fuser
from loci.objects.structure_decoder import StructureDecoder
from loci.objects.structure_flow import StructureFlow

MANIFEST = Path(__file__).parent / "sam3d.manifest.json.gz"
GENERATOR = "_base_models.generator.reverse_fn.backbone."
CONDITION = "_base_models.condition_embedder."


@pytest.mark.parametrize(
    ("build", "file", "prefix", "parameters"),
    [
        (StructureFlow, "ss_generator", GENERATOR, 959_962_133),
        (structure_fuser, "ss_generator", CONDITION, 634_485_760),
        (latent_fuser, "slat_generator", CONDITION, 626_054_144),
        (StructureDecoder, "ss_decoder", "", 73_671_201),
    ],
    ids=["structure_flow", "structure_fuser", "latent_fuser", "structure_decoder"],
)
def test_names_and_shapes_equal_the_released_manifest(
    build: Callable[[], nn.Module], file: str, prefix: str, parameters: int
) -> None:
    manifest = json.loads(gzip.decompress(MANIFEST.read_bytes()))[file]
    released = {
        name.removeprefix(prefix): shape
        for name, (shape,) in manifest.items()
        if name.startswith(prefix)
    }
    with torch.device("meta"):
        module = build()
    ours = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    assert ours == released
    assert sum(p.numel() for p in module.parameters()) == parameters
