"""Prompts to text states, with the UMT5 encoder of the published model."""

from __future__ import annotations

import hashlib
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loci.errors import LociError, install_hint
from loci.io.config_files import CONFIG_NAME
from loci.io.weights import WEIGHTS_NAME, load_strict, read_tensors, save_tensors
from loci.nn.streamed import stream_blocks
from loci.world.conditioning import Prompt

# What the published model is guided away from; data that results depend on, kept word for word.
NEGATIVE_PROMPT = (
    "many cars, crowds, Vivid hues, overexposed, static, blurry details, subtitles, style, work, "
    "artwork, image, still, overall grayish, worst quality, low quality, JPEG compression "
    "artifacts, ugly, incomplete, extra fingers, poorly drawn hands, poorly drawn face, deformed, "
    "disfigured, deformed limbs, fused fingers, motionless image, cluttered background, three "
    "legs, crowded background, walking backwards."
)


@dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes of UMT5-XXL by default. `length` is what prompts are padded and cut to."""

    vocabulary: int = 256_384
    dim: int = 4096
    heads: int = 64
    head_dim: int = 64
    ffn_dim: int = 10_240
    layers: int = 24
    buckets: int = 32
    max_distance: int = 128
    length: int = 512


class TextEncoder(nn.Module):
    """The encoder half of UMT5, and (for `encode`) its tokenizer.

    Encoding a prompt is slow: encode once and keep the result as long as the prompt stays.
    """

    network: Any

    def __init__(self, config: TextEncoderConfig | None = None, tokenizer: Any = None):
        super().__init__()
        self.config = config or TextEncoderConfig()
        self.network = _network(self.config)
        self.tokenizer = tokenizer

    @torch.no_grad()
    def forward(self, ids: Int[Tensor, "b n"], mask: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Text states in float32; those where the mask is 0 mean nothing."""
        return self.network(input_ids=ids, attention_mask=mask).last_hidden_state.float()

    def encode(self, prompts: list[str]) -> Prompt:
        """Cleans, tokenises, pads to the configured length and encodes, one row per prompt.
        Raises LociError without a tokenizer."""
        if self.tokenizer is None:
            raise LociError("this text encoder was loaded without its tokenizer folder")
        tokens = self.tokenizer(
            [cleaned(prompt) for prompt in prompts],
            padding="max_length",
            truncation=True,
            max_length=self.config.length,
            add_special_tokens=True,
            return_tensors="pt",
        )
        device = self.network.get_input_embeddings().weight.device
        ids, mask = tokens.input_ids.to(device), tokens.attention_mask.to(device)
        words = max(1, int(mask.sum(dim=1).max()))  # padding changes nothing, and costs the same
        states = self(ids[:, :words], mask[:, :words])
        return Prompt(F.pad(states, (0, 0, 0, ids.shape[1] - words)), mask)

    def streamed(self) -> TextEncoder:
        """For inference, with blocks that are read from disk when they are needed."""
        stack = self.network.encoder
        stream_blocks(stack, "block", stack.final_layer_norm.weight.device)
        return self.eval().requires_grad_(False)

    def encode_cached(self, prompts: list[str], folder: Path | str | None) -> Prompt:
        """`encode`, or what it gave before for these prompts and these weights, from a file.

        Args:
            prompts: one for each row.
            folder: a folder of such files, made if need be; None to encode.
        """
        if folder is None:
            return self.encode(prompts)
        path = Path(folder) / f"{self._fingerprint(prompts)}.safetensors"
        if path.is_file():
            tensors = read_tensors(path)
            return Prompt(tensors["states"], tensors["mask"])
        prompt = self.encode(prompts)
        save_tensors(path, prompt._asdict())
        return prompt

    def _fingerprint(self, prompts: list[str]) -> str:
        """A hash of the prompts and of the weights: their shapes and the first numbers of each."""
        content = hashlib.sha256(repr((self.config, [cleaned(p) for p in prompts])).encode())
        for name, tensor in self.tensors().items():
            first = tensor.reshape(-1)[:64].float().cpu()
            content.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            content.update(first.numpy().tobytes())
        return content.hexdigest()[:32]

    def tensors(self) -> dict[str, Tensor]:
        """The weights, by the names of transformers; the word embedding once."""
        tensors = self.network.state_dict()
        tensors.pop("encoder.embed_tokens.weight", None)
        return tensors

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes the layout of transformers, with the tokenizer's files in the same folder."""
        save_tensors(Path(folder) / WEIGHTS_NAME, self.tensors())
        self.save_config(folder)

    def save_config(self, folder: Path | str) -> None:
        """Writes all but the weights: `config.json`, and the tokenizer's files."""
        config = self.network.config
        config.architectures = [type(self.network).__name__]
        config.dtype = self.network.get_input_embeddings().weight.dtype
        config.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, tokenizer_folder: Path | str | None = None
    ) -> TextEncoder:
        """From a folder in the layout of transformers. The tokenizer may lie in the same folder
        or in another. Raises LociError on missing, unexpected or misshapen tensors."""
        transformers = _transformers()
        if not (Path(folder) / CONFIG_NAME).is_file():
            raise LociError(
                f"{folder}: expected a UMT5 encoder in the layout of transformers, no {CONFIG_NAME}"
            )
        published = _told(
            lambda: transformers.UMT5Config.from_pretrained(folder, local_files_only=True),
            f"{folder}: expected a UMT5 encoder in the layout of transformers",
        )
        path = Path(folder) / WEIGHTS_NAME
        tensors = read_tensors(path)
        if "shared.weight" in tensors:
            tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
        with torch.device("meta"):
            encoder = cls(_config_of(published), load_tokenizer(tokenizer_folder or folder))
        load_strict(encoder.network, tensors, str(path))
        return encoder.streamed()


def cleaned(prompt: str) -> str:
    """Broken Unicode mended, HTML entities resolved (twice), white space collapsed."""
    try:
        import ftfy
    except ImportError as error:
        raise LociError(f"prompts need ftfy: {install_hint('text')}") from error
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


def load_tokenizer(folder: Path | str) -> Any:
    """The SentencePiece tokenizer in a local folder. Raises LociError if it cannot be read."""
    transformers = _transformers()
    return _told(
        lambda: transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True),
        f"{folder}: expected the tokenizer of umt5-xxl",
    )


def _network(config: TextEncoderConfig) -> nn.Module:
    transformers = _transformers()
    return transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=config.vocabulary,
            d_model=config.dim,
            d_kv=config.head_dim,
            d_ff=config.ffn_dim,
            num_layers=config.layers,
            num_heads=config.heads,
            relative_attention_num_buckets=config.buckets,
            relative_attention_max_distance=config.max_distance,
            feed_forward_proj="gated-gelu",
            layer_norm_epsilon=1e-6,
            dropout_rate=0.0,
            is_encoder_decoder=False,
        )
    )


def _config_of(published: Any) -> TextEncoderConfig:
    return TextEncoderConfig(
        vocabulary=published.vocab_size,
        dim=published.d_model,
        heads=published.num_heads,
        head_dim=published.d_kv,
        ffn_dim=published.d_ff,
        layers=published.num_layers,
        buckets=published.relative_attention_num_buckets,
        max_distance=published.relative_attention_max_distance,
    )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise LociError(f"prompts need transformers: {install_hint('text')}") from error
    return transformers


def _told(load: Any, expected: str) -> Any:
    """Runs a loader of transformers; whatever it raises becomes one line."""
    try:
        return load()
    except Exception as error:
        raise LociError(f"{expected} ({type(error).__name__})") from error
