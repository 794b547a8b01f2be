"""Stage 2 at released size holds exactly the released tensors."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from loci.objects.gaussian_decoder import GaussianDecoder, GaussianDecoderConfig
from loci.objects.latent_flow import LatentFlow
from loci.objects.mesh_decoder import MeshDecoder

MANIFEST = Path(__file__).parent / "sam3d.manifest.json.gz"
GENERATOR = "_base_models.generator.reverse_fn.backbone."


@pytest.mark.parametrize(
    ("build", "file", "prefix", "parameters"),
    [
        (LatentFlow, "slat_generator", GENERATOR, 600_432_520),
        (GaussianDecoder, "slat_decoder_gs", "", 85_369_024),
        (
            lambda: GaussianDecoder(GaussianDecoderConfig(gaussians=4)),
            "slat_decoder_gs_4",
            "",
            85_067_576,
        ),
        (MeshDecoder, "slat_decoder_mesh", "", 90_926_693),
    ],
    ids=["latent_flow", "gaussians", "gaussians_4", "mesh"],
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
