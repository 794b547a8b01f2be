"""`loci data random-checkpoint`: random weights in the published layout, to try a model without it.

Files, folders and names of tensors are those of the published checkpoints, so that all that comes
before a picture can be tried: finding, checking, converting, loading, speed and memory. What such a
model generates means nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from loci.errors import LociError, install_hint
from loci.io.files import check_space, replacing_folder

Model = Literal["infinite-world", "sam-3d-objects"]
REPEATED = 1 << 20
"""Larger tensors repeat so many numbers: drawing billions of them would take minutes."""

# Names of diffusers and transformers to the published ones, in order; the inverse of the tables in
# `loci.world.published_files`.
CODEC_NAMES = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"\.norm1\.", ".residual.0."),
    (r"\.conv1\.(?=\w+$)", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"^encoder\.down_blocks\.", "encoder.downsamples."),
)
TEXT_NAMES = (
    (r"^shared\.", "token_embedding."),
    (r"^encoder\.final_layer_norm\.", "norm."),
    (r"^encoder\.block\.(\d+)\.", r"blocks.\1."),
    (r"\.layer\.0\.SelfAttention\.relative_attention_bias\.", ".pos_embedding.embedding."),
    (r"\.layer\.0\.SelfAttention\.", ".attn."),
    (r"\.layer\.0\.layer_norm\.", ".norm1."),
    (r"\.layer\.1\.layer_norm\.", ".norm2."),
    (r"\.layer\.1\.DenseReluDense\.wi_0\.", ".ffn.gate.0."),
    (r"\.layer\.1\.DenseReluDense\.wi_1\.", ".ffn.fc1."),
    (r"\.layer\.1\.DenseReluDense\.wo\.", ".ffn.fc2."),
)


class PublishedPickle(NamedTuple):
    """A file to write: shapes by published name, and the key they lie under, if any."""

    path: str
    shapes: Mapping[str, tuple[int, ...]]
    nested: str | None = None


def random_checkpoint(
    model: Model,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    size: Literal["tiny", "full"] = "tiny",
    seed: int = 0,
) -> None:
    """Write random bfloat16 weights in the published layout, to try a model without its weights.

    Full size takes 14.5 GB of disk for Infinite-World and 6.3 GB for SAM 3D Objects. What such a
    model generates means nothing.

    Args:
        model: whose layout.
        out: the folder to write.
        size: full as published, or tiny.
        seed: seed of the numbers.
    """
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, unit_divisor=1000, delay=1e-3) as bar:

        def show(count: int, total: int) -> None:
            bar.total = total
            bar.update(count)

        write_random_checkpoint(model, out, size, seed, show)
    print(f"{out}: {model}, {size}, random weights")


def write_random_checkpoint(
    model: Model,
    out: Path,
    size: Literal["tiny", "full"] = "tiny",
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda count, total: None,
) -> None:
    """Writes a folder like the published one, whole or not at all, tensor by tensor.

    Raises:
        LociError: when `out` holds anything, or does not fit on the disk.
    """
    import torch

    from loci.io.config_files import save_config
    from loci.io.tensor_files import TensorInfo, write_pickle

    world = model == "infinite-world"
    sizes = _world_sizes(size) if world else _object_sizes(size)
    files = list(_world_files(sizes) if world else _object_files(sizes))
    infos = [
        {name: TensorInfo(torch.bfloat16, shape) for name, shape in file.shapes.items()}
        for file in files
    ]
    total = sum(info.bytes for some in infos for info in some.values())
    check_space(out, total)
    generator = torch.Generator().manual_seed(seed)
    with replacing_folder(out) as draft:
        for file, some in zip(files, infos, strict=True):
            write_pickle(
                draft / "checkpoints" / file.path,
                some,
                lambda name, some=some: _random(name, some[name].shape, generator),
                file.nested,
                lambda count: progress(count, total),
            )
        if world:
            _write_tokenizer(draft / "checkpoints" / "models" / "google" / "umt5-xxl")
        else:
            (draft / "checkpoints" / "pipeline.yaml").write_text("dtype: float16\n")
        if size != "full":
            from loci.world.published_files import SIZES_NAME

            save_config(draft / "checkpoints" / SIZES_NAME, sizes)


def _random(name: str, shape: tuple[int, ...], generator: Any) -> Any:
    """Normal numbers that keep the size of activations: 1 in norms, small in biases."""
    import torch

    count = math.prod(shape)
    numbers = torch.randn(min(count, REPEATED), generator=generator).bfloat16()
    if count > REPEATED:
        numbers = numbers.repeat(-(-count // REPEATED))[:count]
    numbers = numbers.view(shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
        return 1 + 0.02 * numbers
    if leaf == "weight" and len(shape) > 1:
        return numbers / math.sqrt(count / shape[0])
    return 0.02 * numbers


def _world_sizes(size: str) -> Any:
    from loci.codecs.wan import WanCodecConfig
    from loci.memory.hpmc import HPMCConfig
    from loci.world.conditioning import ActionEncoderConfig
    from loci.world.published_files import InfiniteWorldSizes
    from loci.world.text import TextEncoderConfig
    from loci.world.transformer import TransformerConfig

    if size == "full":
        return InfiniteWorldSizes()
    return InfiniteWorldSizes(
        TransformerConfig(
            dim=48,
            ffn_dim=64,
            blocks=2,
            heads=2,
            frequencies=32,
            text_width=32,
            actions=ActionEncoderConfig(embedding=8, hidden=16),
            memory_encoder=HPMCConfig(hidden=32, heads=2),
        ),
        WanCodecConfig(base_dim=4),
        TextEncoderConfig(
            vocabulary=len(_words()),
            dim=32,
            heads=2,
            head_dim=16,
            ffn_dim=48,
            layers=2,
            length=16,
        ),
    )


def _world_files(sizes: Any) -> Iterator[PublishedPickle]:
    import torch

    from loci.codecs.wan import WanCodec
    from loci.world.published_files import CODEC_STEM, STEM, TEXT_STEM
    from loci.world.text import TextEncoder
    from loci.world.transformer import WorldTransformer

    with torch.device("meta"):
        transformer = WorldTransformer(sizes.transformer).state_dict()
        codec = WanCodec(sizes.codec).network.state_dict()
        text = TextEncoder(sizes.text_encoder).tensors()
    published = {new: old for old, new in WorldTransformer.FORMER_TENSORS.items()}
    yield PublishedPickle(
        f"{STEM}.ckpt",
        {_beginning(name, published): tuple(t.shape) for name, t in transformer.items()},
    )
    yield PublishedPickle(
        f"models/{CODEC_STEM}.pth",
        {published_codec_name(name): tuple(t.shape) for name, t in codec.items()},
    )
    yield PublishedPickle(
        f"models/{TEXT_STEM}.pth",
        {_renamed(name, TEXT_NAMES): tuple(t.shape) for name, t in text.items()},
    )


def _beginning(name: str, renames: Mapping[str, str]) -> str:
    for old, new in renames.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _renamed(name: str, renames: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def published_codec_name(name: str) -> str:
    """The published name of a tensor of the autoencoder, from that of diffusers."""
    match = re.match(r"decoder\.up_blocks\.(\d+)\.(resnets\.(\d+)|upsamplers\.0)\.(.*)", name)
    if match is not None:
        place = 4 * int(match[1]) + int(match[3] or 3)
        name = f"decoder.upsamples.{place}.{match[4]}"
    return _renamed(name, CODEC_NAMES)


def _object_sizes(size: str) -> Any:
    from loci.objects.models.condition import FuserConfig, PointmapEmbedderConfig
    from loci.objects.models.dinov2 import DinoConfig, DinoEmbedderConfig
    from loci.objects.models.slat_decoders import (
        GaussianDecoderConfig,
        MeshDecoderConfig,
        TorsoConfig,
    )
    from loci.objects.models.slat_flow import SlatFlowConfig
    from loci.objects.models.structure_flow import StructureFlowConfig
    from loci.objects.models.structure_vae import StructureDecoderConfig
    from loci.objects.parts import PartConfigs

    if size == "full":
        return PartConfigs()
    backbone = DinoConfig(patch=7, dim=16, depth=1, heads=2, registers=1, grid=4)
    torso = TorsoConfig(dim=24, blocks=2, heads=2, window=4, resolution=16)
    return PartConfigs(
        structure_fuser=FuserConfig(
            DinoEmbedderConfig(backbone, 28),
            pointmap=PointmapEmbedderConfig(input_size=16, dim=16, heads=2),
            dim=16,
        ),
        structure_flow=StructureFlowConfig(16, 16, 1, 2, resolution=4, frequencies=16),
        structure_decoder=StructureDecoderConfig(8, (16, 8, 8), 1, 1),
        slat_fuser=FuserConfig(DinoEmbedderConfig(backbone, 28, "prenorm"), dim=16),
        slat_flow=SlatFlowConfig(8, 16, 16, 1, 2, io_channels=(8,), frequencies=16),
        gaussian_decoder=GaussianDecoderConfig(torso, gaussians=2),
        mesh_decoder=MeshDecoderConfig(torso, narrowing=(2,), norm_groups=4),
        gaussian_decoder_4=GaussianDecoderConfig(torso, gaussians=1),
    )


def _object_files(sizes: Any) -> Iterator[PublishedPickle]:
    import torch

    from loci.objects.published_files import PUBLISHED_FILES

    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    with torch.device("meta"):
        for part, origin in PUBLISHED_FILES.items():
            tensors = sizes.build(part).state_dict()
            some = {f"{origin.prefix}{name}": tuple(t.shape) for name, t in tensors.items()}
            shapes.setdefault(origin.stem, {}).update(some)
    for stem, some in shapes.items():
        yield PublishedPickle(f"{stem}.ckpt", some, "state_dict" if "generator" in stem else None)


def _words() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,.-!?'"
    return ["<pad>", "</s>", "<unk>", "▁", *letters]


def _write_tokenizer(folder: Path) -> None:
    """A tokenizer of single letters, in the place and the format of the published one."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise LociError(
            f"a random text encoder needs transformers: {install_hint('text')}"
        ) from error

    letters = Tokenizer(models.Unigram([(word, -1.0) for word in _words()], unk_id=2))
    letters.pre_tokenizer = pre_tokenizers.Metaspace()
    letters.decoder = decoders.Metaspace()
    letters.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=letters, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
