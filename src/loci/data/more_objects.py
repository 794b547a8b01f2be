"""Objects that are made of others or of nothing: more shapes to train on than a library has.

What is nearly the same as a training object counts as one, so neither kind is ever tested on or
found by retrieval: they have a folder of their own.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import partial

import numpy as np

from loci.data.mesh_cleaning import normalized
from loci.data.mesh_files import Part
from loci.data.object_source import Source
from loci.data.solid_meshes import composed_parts

FACTOR = 1.8  # by which one side of an object may grow against another


def stretched(source: Source, number: int, seed: int) -> Source:
    """A source in other proportions: every side longer or shorter by up to sqrt(`FACTOR`)."""
    name = f"{source.name}--{number}"
    return replace(source, name=name, read=partial(_read_stretched, source, name, seed))


def composed(number: int, seed: int) -> Source:
    """A source of random solids (`primitives`)."""
    name = f"composed-{number:04d}"
    return Source(
        name=name,
        title=name,
        category="composed",
        origin="loci: random solids",
        licence="none",
        author="loci",
        size=None,
        opening=False,
        read=partial(_read_composed, name, seed),
    )


def _read_composed(name: str, seed: int) -> list[Part]:
    return composed_parts(_rng(name, seed))


def _read_stretched(source: Source, name: str, seed: int) -> list[Part]:
    sides = np.exp(_rng(name, seed).uniform(-0.5, 0.5, 3) * np.log(FACTOR))
    factors = sides.astype(np.float32)
    return [_scaled(part, factors) for part in normalized(source.read())]


def _scaled(part: Part, factors: np.ndarray) -> Part:
    normals = part.normals / factors
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return replace(
        part,
        vertices=part.vertices * factors,
        normals=np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0),
    )


def _rng(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), 0x3F])
