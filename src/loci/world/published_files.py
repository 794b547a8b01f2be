"""The published files of Infinite-World: found, renamed, loaded strictly, converted.

The transformer keeps its published names, but for one
(`WorldTransformer.FORMER_TENSORS`). The autoencoder and the text encoder are built from
diffusers and transformers, whose names differ; the tables here are the whole difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from loci.codecs.wan import WanCodec, WanCodecConfig
from loci.errors import LociError
from loci.io.config_files import CONFIG_NAME, load_config, save_config
from loci.io.files import check_space
from loci.io.resumable import unfinished_folder
from loci.io.weights import (
    WEIGHTS_NAME,
    has_tensors,
    infos_of,
    load_strict,
    read_tensors,
)
from loci.nn.placement import WeightPlacement, place_weights
from loci.world.config import WorldConfig
from loci.world.text import TextEncoder, TextEncoderConfig, load_tokenizer
from loci.world.transformer import TransformerConfig, WorldTransformer

SUFFIXES = (".ckpt", ".safetensors")
STEM, CODEC_STEM = "infinite_world_model", "Wan2.1_VAE"
TEXT_STEM, TOKENIZER = "models_t5_umt5-xxl-enc-bf16", Path("google", "umt5-xxl")
SIZES_NAME = "loci-sizes.json"
NOT_WEIGHTS = ("pos_embed", "pos_embed_temporal")
# Folders of a saved world.
TRANSFORMER, CODEC, TEXT_ENCODER = "transformer", "codec", "text_encoder"

Renames = tuple[tuple[str, str], ...]

# Patterns in order; every one that matches is applied.
_CODEC_RENAMES: Renames = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (r"\.head\.0\.", ".norm_out."),
    (r"\.head\.2\.", ".conv_out."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"^encoder\.downsamples\.", "encoder.down_blocks."),
)
_TEXT_RENAMES: Renames = (
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.", r"encoder.block.\1."),
    (r"\.attn\.", ".layer.0.SelfAttention."),
    (r"\.pos_embedding\.embedding\.", ".layer.0.SelfAttention.relative_attention_bias."),
    (r"\.norm1\.", ".layer.0.layer_norm."),
    (r"\.norm2\.", ".layer.1.layer_norm."),
    (r"\.ffn\.gate\.0\.", ".layer.1.DenseReluDense.wi_0."),
    (r"\.ffn\.fc1\.", ".layer.1.DenseReluDense.wi_1."),
    (r"\.ffn\.fc2\.", ".layer.1.DenseReluDense.wo."),
)


@dataclass(frozen=True)
class InfiniteWorldSizes:
    """Sizes of the published networks by default. Published folders do not state them; a smaller
    copy of the published layout does, in the file `loci-sizes.json`."""

    FORMER_NAMES: ClassVar[tuple[str, ...]] = ("ReleasedSizes",)

    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    codec: WanCodecConfig = field(default_factory=WanCodecConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)


@dataclass(frozen=True)
class InfiniteWorldFiles:
    """Where the published files lie."""

    transformer: Path
    codec: Path
    text_encoder: Path
    tokenizer: Path

    @classmethod
    def find(cls, source: Path | str) -> InfiniteWorldFiles:
        """`source` is the checkpoint folder, the folder above it, or the transformer's file.
        Raises LociError naming what is not there, and where it is published."""
        source = Path(source)
        if source.is_file() and source.suffix not in SUFFIXES:
            raise LociError(
                f"{source}: expected a model folder, or a transformer in {' or '.join(SUFFIXES)}"
            )
        root = source.parent if source.is_file() else source
        if (root / "checkpoints").is_dir():
            root = root / "checkpoints"
        models = root / "models"
        stem = source.stem if source.is_file() else STEM
        files = cls(
            transformer=_either(root, stem, "ckpt"),
            codec=_either(models, CODEC_STEM, "pth"),
            text_encoder=_either(models, TEXT_STEM, "pth"),
            tokenizer=models / TOKENIZER,
        )
        absent = files.absent()
        if absent:
            others = "".join(f", {path.name}" for path in absent[1:])
            is_other = "" if len(absent) < 4 else _other_folder(root)
            raise LociError(
                f"{absent[0]}: missing{others and f' (also{others[1:]})'}, expected the published "
                f"checkpoints{is_other}; {_origin(absent)}. Nothing is downloaded by itself"
            )
        return files

    def absent(self) -> list[Path]:
        """What of it is not there."""
        weights = (self.transformer, self.codec, self.text_encoder)
        absent = [path for path in weights if not has_tensors(path)]
        return absent if self.tokenizer.exists() else [*absent, self.tokenizer]

    @property
    def sizes(self) -> InfiniteWorldSizes:
        """As published, unless a file beside the transformer states others."""
        path = self.transformer.parent / SIZES_NAME
        return load_config(path, InfiniteWorldSizes) if path.is_file() else InfiniteWorldSizes()


def infinite_world_sizes(source: Path) -> InfiniteWorldSizes | None:
    """Sizes of the networks of the published files, or of what `convert` made of them; None for
    another model. Reads no weights. Raises LociError as `InfiniteWorldFiles.find`."""
    if source.is_dir() and (source / CONFIG_NAME).is_file():
        if not load_config(source / CONFIG_NAME, WorldConfig).text:
            return None
        return InfiniteWorldSizes(
            load_config(source / TRANSFORMER / CONFIG_NAME, TransformerConfig),
            load_config(source / CODEC / CONFIG_NAME, WanCodecConfig),
        )
    return InfiniteWorldFiles.find(source).sizes


def load_transformer(path: Path | str, config: TransformerConfig | None = None) -> WorldTransformer:
    """The published transformer, pickle or safetensors, in the element type it was saved in.

    Raises LociError naming every missing, unexpected or misshapen tensor.
    """
    tensors = {
        name: tensor
        for name, tensor in read_tensors(path).items()
        if name.split(".")[0] not in NOT_WEIGHTS
    }
    with torch.device("meta"):
        model = WorldTransformer(config)
    load_strict(model, tensors, str(path))
    return model.eval().requires_grad_(False)


def load_codec(path: Path | str, config: WanCodecConfig | None = None) -> WanCodec:
    """The published video autoencoder. Errors as in `load_transformer`."""
    with torch.device("meta"):
        codec = WanCodec(config)
    load_strict(codec.network, renamed_codec(read_tensors(path)), str(path))
    return codec.eval().requires_grad_(False)


def load_text_encoder(
    path: Path | str, tokenizer: Path | str | None, config: TextEncoderConfig | None = None
) -> TextEncoder:
    """The published text encoder, with the tokenizer of a folder. Errors as in
    `load_transformer`."""
    words = None if tokenizer is None else load_tokenizer(tokenizer)
    with torch.device("meta"):
        encoder = TextEncoder(config, words)
    load_strict(encoder.network, renamed_text_encoder(read_tensors(path)), str(path))
    return encoder.streamed()


def renamed_codec(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names of the autoencoder to those of diffusers."""
    return {_decoder_levels(_renamed(name, _CODEC_RENAMES)): t for name, t in tensors.items()}


def renamed_text_encoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names of the text encoder to those of transformers, which lists the word
    embedding twice."""
    renamed = {_renamed(name, _TEXT_RENAMES): tensor for name, tensor in tensors.items()}
    if "shared.weight" in renamed:
        renamed["encoder.embed_tokens.weight"] = renamed["shared.weight"]
    return renamed


class InfiniteWorldParts(NamedTuple):
    """What a world is made of."""

    transformer: WorldTransformer
    codec: WanCodec
    text_encoder: TextEncoder


def load_infinite_world(
    source: Path | str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    weights: WeightPlacement = "resident",
) -> InfiniteWorldParts:
    """Infinite-World from its published files; the transformer computes in `dtype`, float32
    unless given, with blocks placed as `weights` says. Errors as in `load_transformer`."""
    files = InfiniteWorldFiles.find(source)
    sizes = files.sizes
    return InfiniteWorldParts(
        place_weights(
            load_transformer(files.transformer, sizes.transformer),
            *(device, dtype or torch.float32, weights),
        ),
        load_codec(files.codec, sizes.codec).to(device, torch.float32),
        # 11 GB, used once a walk: mapped, read block by block when a prompt is encoded.
        load_text_encoder(files.text_encoder, files.tokenizer, sizes.text_encoder),
    )


def convert(
    source: Path, out: Path, progress: Callable[[int, int], None] = lambda count, total: None
) -> None:
    """Checks every published tensor, and writes a model folder, all or nothing.

    Names, shapes and types are checked before anything is written; the numbers tensor by tensor
    while they are written, so that memory holds one tensor at a time. Run again after it was
    stopped or killed, it goes on with the files that were finished.

    Args:
        source: the folder of published checkpoints, or the transformer's file in it.
        out: the folder to write; it must not hold anything yet.
        progress: called with the bytes written since the last call, and those in all.

    Raises:
        LociError: naming every tensor that does not fit, or when `out` is there already.
    """
    files = InfiniteWorldFiles.find(source)
    sizes = files.sizes
    with unfinished_folder(out) as unfinished:
        draft = unfinished.folder
        transformer = load_transformer(files.transformer, sizes.transformer)
        codec = load_codec(files.codec, sizes.codec)
        text_encoder = load_text_encoder(files.text_encoder, files.tokenizer, sizes.text_encoder)
        words = text_encoder.tensors()
        parts = (
            (files.transformer, TRANSFORMER, transformer.state_dict()),
            (files.codec, CODEC, codec.state_dict()),
            (files.text_encoder, TEXT_ENCODER, words),
        )
        total = sum(info.bytes for *_, tensors in parts for info in infos_of(tensors).values())
        check_space(out, total)
        for path, folder, tensors in parts:
            unfinished.write(
                *(Path(folder, WEIGHTS_NAME), tensors, path), lambda count: progress(count, total)
            )
        save_config(draft / TRANSFORMER / CONFIG_NAME, sizes.transformer)
        save_config(draft / CODEC / CONFIG_NAME, sizes.codec)
        text_encoder.save_config(draft / TEXT_ENCODER)
        save_config(draft / CONFIG_NAME, WorldConfig())


def _renamed(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _decoder_levels(name: str) -> str:
    """The decoder's flat list, three residual blocks and an upsampling per level, by level."""
    match = re.match(r"decoder\.upsamples\.(\d+)\.(.*)", name)
    if match is None:
        return name
    level, place = divmod(int(match[1]), 4)
    inner = f"resnets.{place}" if place < 3 else "upsamplers.0"
    return f"decoder.up_blocks.{level}.{inner}.{match[2]}"


def _either(folder: Path, stem: str, pickle: str) -> Path:
    """The file as safetensors if there is one, else as the published pickle."""
    safe = folder / f"{stem}.safetensors"
    return safe if has_tensors(safe) else folder / f"{stem}.{pickle}"


def _origin(absent: list[Path]) -> str:
    """Where people get the files that are missing."""
    places = []
    if any(path.stem not in (CODEC_STEM, TEXT_STEM, TOKENIZER.name) for path in absent):
        places.append("the transformer is published at huggingface.co/MeiGen-AI/Infinite-World")
    if any(path.stem in (CODEC_STEM, TEXT_STEM, TOKENIZER.name) for path in absent):
        places.append(
            "autoencoder, text encoder and tokenizer at huggingface.co/Wan-AI/Wan2.1-T2V-1.3B"
        )
    return ", ".join(places) + " (see the licences there)"


def _other_folder(root: Path) -> str:
    """What a folder holds in place of Infinite-World, where that is known."""
    if (root / "pipeline.json").is_file() and (root / "ckpts").is_dir():
        return ", found TRELLIS"
    if (root / "diffusion_pytorch_model.safetensors").is_file():
        return ", found Wan 2.1 itself, which has neither actions nor memory"
    return ""
