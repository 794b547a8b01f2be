"""The text encoder against the published implementation, where the mask is 1."""

import pytest

from loci.io.weights import load_strict
from loci.world.published_files import renamed_text_encoder
from loci.world.text import TextEncoder, TextEncoderConfig
from tests.parity.conftest import Fixture, relative_error

LIMIT = 5e-6


@pytest.mark.kind("umt5_encoder")
def test_text_states(fixture: Fixture) -> None:
    pytest.importorskip("transformers", reason="the extra `text` is not installed")
    sidecar = fixture.sidecar
    config = TextEncoderConfig(
        vocabulary=sidecar["vocab"],
        dim=sidecar["dim"],
        heads=sidecar["num_heads"],
        head_dim=sidecar["dim_attn"] // sidecar["num_heads"],
        ffn_dim=sidecar["dim_ffn"],
        layers=sidecar["num_layers"],
        buckets=sidecar["num_buckets"],
        max_distance=sidecar["max_distance"],
    )
    encoder = TextEncoder(config)
    load_strict(encoder.network, renamed_text_encoder(fixture.weights), fixture.name)
    mask = fixture.inputs["mask"]
    states = encoder.eval()(fixture.inputs["ids"], mask)
    words = mask.bool()
    assert relative_error(states[words], fixture.outputs["hidden"][words]) < LIMIT
