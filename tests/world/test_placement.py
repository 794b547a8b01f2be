"""The published world with its weights in memory, streamed from disk, and in int8."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loci.data.random_checkpoint import write_random_checkpoint
from loci.nn.int8 import Int8Linear
from loci.nn.placement import WeightPlacement, fingerprint
from loci.nn.streamed import StreamedBlocks
from loci.world.published_files import InfiniteWorldFiles, load_text_encoder
from loci.world.walk_file import load_walk, save_walk
from loci.world.world import World

pytest.importorskip("transformers", reason="the extra `text` is not installed")
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("placement") / "published"
    write_random_checkpoint("infinite-world", folder)
    return folder


def world(folder: Path, weights: WeightPlacement) -> World:
    made = World.from_pretrained(folder, dtype=torch.bfloat16, weights=weights)
    sampling = replace(made.config.sampling, steps=2)
    made.config = replace(made.config, size=(64, 64), sampling=sampling, chunk=4)
    return made


def test_weights_may_be_anywhere(published: Path, tmp_path: Path) -> None:
    """Streamed they give the same, in int8 nearly; the walk of one goes on in another."""
    resident = world(published, "resident")
    seen: list[tuple[str, int, int]] = []
    resident.progress = lambda *step: seen.append(step)
    state = resident.start(PICTURE)
    chunk = resident.generate_chunk(state, "w*4")
    chunk.video()
    latents, after = chunk.latents, chunk.state_after()
    stages = ["prompt", "picture", "context", "sampling", "sampling", "frames", "history"]
    assert [stage for stage, *_ in seen] == stages
    assert seen[3:5] == [("sampling", 0, 2), ("sampling", 1, 2)]

    streamed = world(published, "streamed")
    assert isinstance(streamed.transformer.blocks, StreamedBlocks)
    assert torch.equal(streamed.generate_chunk(state, "w*4").latents, latents)

    small = world(published, "int8")
    assert any(isinstance(module, Int8Linear) for module in small.transformer.blocks.modules())
    found = small.generate_chunk(state, "w*4").latents
    error = float((found - latents).norm() / latents.norm())
    assert 0 < error < 0.05

    assert fingerprint(small.transformer) == fingerprint(resident.transformer)
    save_walk(tmp_path / "walk.loci", after, resident)
    assert load_walk(tmp_path / "walk.loci", small).frame_count == 5


def test_a_prompt_is_encoded_without_its_padding(published: Path) -> None:
    """Words are the same as with it, and come block by block."""
    files = InfiniteWorldFiles.find(published)
    sizes = files.sizes.text_encoder
    encoder = load_text_encoder(files.text_encoder, files.tokenizer, sizes)
    assert isinstance(encoder.network.encoder.block, StreamedBlocks)
    prompt = encoder.encode(["a room", "a"])
    assert prompt.states.shape == (2, sizes.length, sizes.dim)
    assert not prompt.states[:, int(prompt.mask.sum(1).max()) :].any()
    tokens = encoder.tokenizer(["a room"], padding="max_length", max_length=sizes.length)
    ids, mask = torch.tensor(tokens.input_ids), torch.tensor(tokens.attention_mask)
    words = int(mask.sum())
    assert words < sizes.length
    expected = encoder(ids, mask)[:, :words]
    found = prompt.states[:1, :words]
    assert (found - expected).norm() < 0.01 * expected.norm()
