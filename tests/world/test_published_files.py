"""Published names to ours, without any published weights."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from loci.codecs.wan import WanCodec, WanCodecConfig
from loci.data.random_checkpoint import write_random_checkpoint
from loci.errors import LociError
from loci.world import published_files
from loci.world.published_files import (
    InfiniteWorldFiles,
    load_codec,
    load_transformer,
    renamed_codec,
    renamed_text_encoder,
)
from loci.world.text import TextEncoder
from loci.world.transformer import WorldTransformer
from loci.world.world import World
from tests.world.models import published_like
from tests.world.test_text import TINY as TINY_TEXT

MANIFEST = Path(__file__).parent / "infinite-world.manifest.json.gz"
TINY_CODEC = WanCodecConfig(base_dim=4)


def manifest() -> dict[str, Tensor]:
    """The published autoencoder's names and shapes, as tensors without content."""
    shapes = json.loads(gzip.decompress(MANIFEST.read_bytes()))["vae"]
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def published_codec(config: WanCodecConfig) -> dict[str, Tensor]:
    """Random weights under their published names."""
    published = {
        ours: name for name, ours in zip(manifest(), renamed_codec(manifest()), strict=True)
    }
    state = WanCodec(config).network.state_dict()
    return {published[name]: tensor for name, tensor in state.items()}


def test_the_autoencoder_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        ours = WanCodec().network.state_dict()
    published = renamed_codec(manifest())
    assert len(published) == 194
    assert {name: t.shape for name, t in ours.items()} == {
        name: t.shape for name, t in published.items()
    }


def published_text_encoder() -> dict[str, Tensor]:
    """Random weights under their published names."""
    leaves = {"attn.q", "attn.k", "attn.v", "attn.o", "pos_embedding.embedding", "norm1", "norm2"}
    leaves |= {"ffn.gate.0", "ffn.fc1", "ffn.fc2"}
    names = [f"blocks.{i}.{leaf}.weight" for i in range(TINY_TEXT.layers) for leaf in leaves]
    names += ["token_embedding.weight", "norm.weight"]
    ours = TextEncoder(TINY_TEXT).network.state_dict()
    renamed = renamed_text_encoder({name: torch.tensor(i) for i, name in enumerate(names)})
    assert renamed.keys() == ours.keys()
    return {names[int(place)]: ours[name] for name, place in renamed.items()}


@pytest.mark.parametrize("nested", [False, True])
def test_a_published_transformer_is_loaded_in_its_type(tmp_path: Path, nested: bool) -> None:
    model = WorldTransformer(published_like()).bfloat16()
    tensors = model.state_dict() | {
        "pos_embed": torch.zeros(1, 2),
        "pos_embed_temporal": torch.zeros(1),
    }
    torch.save({"state_dict": tensors} if nested else tensors, tmp_path / "model.ckpt")
    loaded = load_transformer(tmp_path / "model.ckpt", published_like())
    assert not any(p.is_meta or p.requires_grad for p in loaded.parameters())
    assert all(torch.equal(loaded.state_dict()[k], t) for k, t in model.state_dict().items())


def test_a_misfit_is_named(tmp_path: Path) -> None:
    tensors = WorldTransformer(published_like()).state_dict()
    del tensors["head.head.bias"]
    torch.save(tensors, tmp_path / "model.ckpt")
    with pytest.raises(LociError, match=r"model.ckpt: .* 1 missing: head.head.bias"):
        load_transformer(tmp_path / "model.ckpt", published_like())


def test_a_published_autoencoder_is_loaded(tmp_path: Path) -> None:
    torch.save(published_codec(TINY_CODEC), tmp_path / "vae.pth")
    codec = load_codec(tmp_path / "vae.pth", TINY_CODEC)
    assert codec.decode(torch.zeros(1, 16, 2, 1, 1)).shape == (1, 3, 5, 8, 8)


def test_the_published_folder(tmp_path: Path) -> None:
    models = tmp_path / "checkpoints" / "models"
    (models / "google" / "umt5-xxl").mkdir(parents=True)
    with pytest.raises(LociError, match="infinite_world_model.ckpt: missing"):
        InfiniteWorldFiles.find(tmp_path)
    transformer = tmp_path / "checkpoints" / "infinite_world_model.ckpt"
    for path in (transformer, models / "Wan2.1_VAE.pth"):
        path.write_bytes(b"")
    with pytest.raises(LociError, match="models_t5_umt5-xxl-enc-bf16.pth: missing"):
        InfiniteWorldFiles.find(tmp_path)
    (models / "models_t5_umt5-xxl-enc-bf16.safetensors").write_bytes(b"")
    files = InfiniteWorldFiles.find(tmp_path)
    assert (
        files == InfiniteWorldFiles.find(transformer) == InfiniteWorldFiles.find(transformer.parent)
    )
    assert files.text_encoder.suffix == ".safetensors"


def test_a_file_that_holds_no_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(LociError, match=r"notes.txt: expected a model folder, or .*\.safetensors"):
        World.from_pretrained(tmp_path / "notes.txt")


def test_converted_files_make_a_world(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra `text` is not installed")
    source = tmp_path / "published"
    write_random_checkpoint("infinite-world", source)
    written: list[int] = []
    published_files.convert(source, tmp_path / "out", lambda count, total: written.append(count))
    assert sum(written) > 1_000_000
    world, plain = (World.from_pretrained(folder) for folder in (tmp_path / "out", source))
    assert world.config == plain.config
    assert world.memory.encode_history is not None
    for ours, theirs in ((world.transformer, plain.transformer), (world.codec, plain.codec)):
        assert isinstance(ours, torch.nn.Module)
        assert isinstance(theirs, torch.nn.Module)
        expected = theirs.state_dict()
        assert all(torch.equal(t, expected[name]) for name, t in ours.state_dict().items())
    ours, theirs = (w.text_encoder.encode(["a room"]) for w in (world, plain) if w.text_encoder)
    words, expected = ours.states[ours.mask.bool()], theirs.states[theirs.mask.bool()]
    assert len(words) == len("a room") + 2
    torch.testing.assert_close(words, expected)


def test_a_conversion_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        InfiniteWorldFiles, "find", lambda source: InfiniteWorldFiles(*[tmp_path] * 4)
    )
    model = WorldTransformer(published_like())
    monkeypatch.setattr(published_files, "load_transformer", lambda path, config: model)
    with pytest.raises(LociError, match="no such weights file"):
        published_files.convert(tmp_path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(LociError, match="out: holds mine already"):
        published_files.convert(tmp_path, tmp_path / "out")


def test_numbers_that_are_not_finite_are_found_while_they_are_written(tmp_path: Path) -> None:
    write_random_checkpoint("infinite-world", tmp_path / "in")
    path = tmp_path / "in" / "checkpoints" / "infinite_world_model.ckpt"
    tensors = torch.load(path, weights_only=True)
    tensors["blocks.1.ffn.2.weight"][-1, -1] = float("nan")
    torch.save(tensors, path)
    with pytest.raises(LociError, match=r"not finite: blocks\.1\.ffn\.2\.weight"):
        published_files.convert(tmp_path / "in", tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_what_is_missing_comes_with_where_it_is_published(tmp_path: Path) -> None:
    with pytest.raises(LociError, match=r"MeiGen-AI/Infinite-World, .*Wan-AI/Wan2.1-T2V-1.3B"):
        InfiniteWorldFiles.find(tmp_path)
    (tmp_path / "ckpts").mkdir()
    (tmp_path / "pipeline.json").touch()
    with pytest.raises(LociError, match="found TRELLIS"):
        InfiniteWorldFiles.find(tmp_path)


def test_wan_itself_and_lora_files_are_named(tmp_path: Path) -> None:
    model = WorldTransformer(published_like()).state_dict()
    wan = {name: t for name, t in model.items() if "_encoder." not in name}
    torch.save(wan, tmp_path / "model.ckpt")
    with pytest.raises(LociError, match="this is Wan 2.1 itself, which has neither actions"):
        load_transformer(tmp_path / "model.ckpt", published_like())
    lora = {f"blocks.{i}.self_attn.q.lora_A.weight": torch.zeros(2, 2) for i in range(3)}
    torch.save(lora, tmp_path / "model.ckpt")
    with pytest.raises(LociError, match=r"a LoRA file \(3 tensors .* merge them"):
        load_transformer(tmp_path / "model.ckpt", published_like())
