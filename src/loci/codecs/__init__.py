"""Codecs between frames and latents, and their registry."""

from importlib import import_module
from typing import Any

from loci.errors import LociError

CODECS: dict[str, str | type] = {
    "frame": "loci.codecs.frame:FrameCodec",
    "wan": "loci.codecs.wan:WanCodec",
}
"""Codec classes by the name in a world's configuration: `WorldConfig.codec`. A class given as
"module:name" is imported when it is needed; add your own codec here."""
FRAMES_PER_LATENT = {"frame": 1, "wan": 4}
"""The temporal factors of these codecs, known without importing them. A codec that is not listed is
asked when it is loaded."""


def codec_class(name: str) -> Any:
    """The class of a codec, with the methods of `loci.codecs.base.Codec` and `from_pretrained`.

    Raises:
        LociError: for an unknown name.
    """
    if name not in CODECS:
        raise LociError(f"codec {name!r}: expected {' or '.join(CODECS)}")
    codec = CODECS[name]
    if isinstance(codec, str):
        module, _, attribute = codec.partition(":")
        codec = getattr(import_module(module), attribute)
    return codec
