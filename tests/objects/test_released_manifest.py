"""Every network at released size holds exactly the released tensors."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from loci.objects.parts import PartConfigs
from loci.objects.released import ORIGINS, Origin

MANIFEST = Path(__file__).parent / "sam3d.manifest.json.gz"
PARAMETERS = {
    "structure_fuser": 634_485_760,
    "structure_flow": 959_962_133,
    "structure_decoder": 73_671_201,
    "latent_fuser": 626_054_144,
    "latent_flow": 600_432_520,
    "gaussian_decoder": 85_369_024,
    "mesh_decoder": 90_926_693,
    "gaussian_decoder_4": 85_067_576,
}


def check(module: nn.Module, origin: Origin, parameters: int) -> None:
    manifest = json.loads(gzip.decompress(MANIFEST.read_bytes()))[origin.stem]
    released = {
        name.removeprefix(origin.prefix): shape
        for name, (shape,) in manifest.items()
        if name.startswith(origin.prefix)
    }
    ours = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    assert ours == released
    assert sum(p.numel() for p in module.parameters()) == parameters


@pytest.mark.parametrize("name", PARAMETERS)
def test_names_and_shapes_equal_the_released_manifest(name: str) -> None:
    with torch.device("meta"):
        module = PartConfigs().build(name)
    check(module, ORIGINS[name], PARAMETERS[name])
