"""The condition of both stages: embedders of picture, mask and pointmap, and their fusion.

`EmbedderFuser` embeds every input, as crop and as full frame, and concatenates the tokens. The
embedders are `DinoEmbedder` for pictures and masks and `PointmapEmbedder` for pointmaps.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.io.weights import load_pretrained, save_pretrained
from loci.nn.attention import GatedFeedForward
from loci.nn.norms import layer_norm, normal_parameter
from loci.objects.models.dinov2 import DinoEmbedder, DinoEmbedderConfig, VitBlock


@dataclass(frozen=True)
class PointmapEmbedderConfig:
    """Sizes. The defaults are those of SAM 3D Objects as published."""

    input_size: int = 256
    patch: int = 8
    dim: int = 512
    heads: int = 16
    mlp_ratio: float = 2


class PointmapEmbedder(nn.Module):
    """A transformer block within windows of pixels; the class token of each window is its token.

    Points that are not finite have a learned embedding.
    """

    def __init__(self, config: PointmapEmbedderConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or PointmapEmbedderConfig()
        grid = c.input_size // c.patch
        self.point_proj = nn.Linear(3, c.dim)
        self.invalid_xyz_token = nn.Parameter(torch.zeros(c.dim))
        self.cls_token = normal_parameter(1, 1, c.dim)
        self.pos_embed_window = normal_parameter(1, 1 + c.patch**2, c.dim)
        self.pos_embed = normal_parameter(1, c.dim, grid, grid)
        self.blocks = nn.ModuleList([VitBlock(c.dim, c.heads, c.mlp_ratio, layer_scale=False)])

    @property
    def dim(self) -> int:
        return self.config.dim

    @property
    def token_count(self) -> int:
        """Tokens of one pointmap."""
        return (self.config.input_size // self.config.patch) ** 2

    def forward(self, pointmaps: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Tokens of normalised pointmaps, row by row; points that are not finite are unknown."""
        size = self.config.input_size
        pixels = self._embedded(F.interpolate(pointmaps, (size, size), mode="nearest"))
        windows = self._windows(pixels)
        first = self.cls_token.expand(len(windows), -1, -1)
        x = torch.cat([first, windows], dim=1) + self.pos_embed_window
        for block in self.blocks:
            x = block(x)
        tokens = x[:, 0].unflatten(0, (len(pointmaps), -1))
        return tokens + self._positions()

    def _embedded(self, pointmaps: Tensor) -> Tensor:
        points = pointmaps.movedim(1, -1)
        finite = points.isfinite()
        known = finite.all(dim=-1, keepdim=True)
        embedded = self.point_proj(torch.where(finite, points, 0.0))
        return torch.where(known, embedded, self.invalid_xyz_token)

    def _windows(self, pixels: Float[Tensor, "b h w d"]) -> Float[Tensor, "bn p d"]:
        p = self.config.patch
        tiles = pixels.unflatten(1, (-1, p)).unflatten(3, (-1, p))
        return tiles.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def _positions(self) -> Float[Tensor, "1 n d"]:
        grid = self.config.input_size // self.config.patch
        positions = self.pos_embed
        if positions.shape[-1] != grid:
            positions = F.interpolate(positions, (grid, grid), mode="bilinear")
        return positions.flatten(2).transpose(1, 2)


CROPPED, FULL = 0, 1
GROUPS = 3
"""Rows of the published table of group embeddings; the third is unused."""

POINTMAPS = ("pointmap", "rgb_pointmap")
GRAY = 0.5
"""The value of a masked background."""


class Embedder(Protocol):
    """An `nn.Module` from inputs to tokens."""

    @property
    def dim(self) -> int:
        """Width of its tokens."""
        ...

    @property
    def token_count(self) -> int:
        """Tokens of one input."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...


class Source(NamedTuple):
    """An input: its name, and its group, `CROPPED` or `FULL`."""

    name: str
    group: int


@dataclass(frozen=True)
class FuserConfig:
    """Embedders and inputs. The defaults are those of stage 2 of SAM 3D Objects as published.

    Attributes:
        picture: embedder of pictures.
        mask: embedder of masks; as that of pictures if None.
        pointmap: embedder of pointmaps; None for a fuser without pointmaps.
        dim: width of the tokens.
        full_frame: the inputs that are also embedded as full frame.
        mask_background: paint the background of the picture's crop grey, so that a small embedder
            need not find the object.
        normalize_tokens: LayerNorm before the group embedding is added, so that tokens that the
            flow ignores early in training cannot shrink to zero.
    """

    FORMER_FIELDS: ClassVar[dict[str, str]] = {
        "cutout": "mask_background",
        "even": "normalize_tokens",
        "normalise_tokens": "normalize_tokens",
    }

    picture: DinoEmbedderConfig = field(
        default_factory=lambda: DinoEmbedderConfig(tokens="prenorm")
    )
    mask: DinoEmbedderConfig | None = None
    pointmap: PointmapEmbedderConfig | None = None
    dim: int = 1024
    full_frame: tuple[str, ...] = ("rgb_image", "rgb_image_mask", "rgb_pointmap")
    mask_background: bool = False
    normalize_tokens: bool = False


class EmbedderFuser(nn.Module):
    """Embeds and projects every input, adds its group embedding, and concatenates the tokens.

    Args:
        embedders: modules with `dim` and `token_count`.
        sources: for each embedder its inputs, in the order of their tokens.
        dim: width of the resulting tokens.
        config: from which `EmbedderFuser.from_config` built it; needed to save it.
    """

    def __init__(
        self,
        embedders: Sequence[Embedder],
        sources: Sequence[Sequence[Source]],
        dim: int = 1024,
        config: FuserConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.sources = tuple(tuple(group) for group in sources)
        self.idx_emb = nn.Parameter(torch.zeros(GROUPS, dim))
        self.module_list = nn.ModuleList(cast(Sequence[nn.Module], embedders))
        hidden = gated_width(dim)
        self.projection_nets = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(e.dim), GatedFeedForward(e.dim, hidden, dim))
            for e in embedders
        )

    @classmethod
    def from_config(cls, config: FuserConfig) -> "EmbedderFuser":
        """A fuser of picture, mask and, if configured, pointmap."""
        embedders: list[Embedder] = [
            DinoEmbedder(config.picture),
            DinoEmbedder(config.mask or config.picture),
        ]
        sources = [_pair("image", "rgb_image"), _pair("mask", "rgb_image_mask")]
        if config.pointmap is not None:
            embedders.append(PointmapEmbedder(config.pointmap))
            sources.append(_pair(*POINTMAPS))
        selected = [
            [s for s in pair if s.group == CROPPED or s.name in config.full_frame]
            for pair in sources
        ]
        return cls(embedders, selected, config.dim, config)

    def embed(self, name: str, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """The tokens of one input.

        Those of a full-frame picture are the same for all its objects: embed it once and pass the
        tokens to `forward` as `known`.
        """
        index, source = self._find(name)
        tokens = self.projection_nets[index](self.module_list[index](x))
        if self.config is not None and self.config.normalize_tokens:
            tokens = layer_norm(tokens, 1e-5)
        return tokens + self.idx_emb[source.group]

    def forward(
        self,
        inputs: Mapping[str, Float[Tensor, "b c h w"]],
        dropped: Collection[str] = (),
        known: Mapping[str, Float[Tensor, "b n d"]] | None = None,
    ) -> Float[Tensor, "b m d"]:
        """The condition.

        Args:
            inputs: by name; pictures and masks in [0, 1], pointmaps normalised.
            dropped: inputs whose tokens are zeros; they may be missing.
            known: tokens from `embed`, used in place of the input.

        Raises:
            ValueError: for a missing input.
        """
        known = known or {}
        names = [source.name for group in self.sources for source in group]
        missing = [n for n in names if n not in inputs and n not in known and n not in dropped]
        if missing:
            raise ValueError(f"condition: missing {', '.join(missing)}")
        if self.config is not None and self.config.mask_background:
            inputs = {**inputs, "image": GRAY + inputs["mask"] * (inputs["image"] - GRAY)}
        tokens = {
            name: known[name] if name in known else self.embed(name, inputs[name])
            for name in names
            if name not in dropped
        }
        if not tokens:
            raise ValueError("condition: all inputs are dropped, expected at least one that is not")
        some = next(iter(tokens.values()))
        return torch.cat([tokens.get(n, self._zeros(n, some)) for n in names], dim=1)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`, as `dtype` if given.

        Raises:
            ValueError: for a fuser that was not built from a configuration.
        """
        if self.config is None:
            raise ValueError("a fuser without a configuration cannot be saved")
        save_pretrained(folder, self.config, self, dtype)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "EmbedderFuser":
        """Load a folder or hub id written by `save_pretrained`; strict, in the saved type."""
        return load_pretrained(cls.from_config, FuserConfig, source)

    def _zeros(self, name: str, like: Tensor) -> Tensor:
        embedder = cast(Embedder, self.module_list[self._find(name)[0]])
        return like.new_zeros(len(like), embedder.token_count, like.shape[-1])

    def _find(self, name: str) -> tuple[int, Source]:
        for index, group in enumerate(self.sources):
            for source in group:
                if source.name == name:
                    return index, source
        raise ValueError(f"no embedder reads {name}")


def structure_fuser(
    picture: DinoEmbedderConfig | None = None,
    pointmap: PointmapEmbedderConfig | None = None,
    dim: int = 1024,
) -> EmbedderFuser:
    """Stage 1: picture, mask and pointmap; 4 x 1370 + 2 x 1024 = 7528 tokens as published."""
    picture = picture or DinoEmbedderConfig()
    return EmbedderFuser.from_config(
        FuserConfig(picture, None, pointmap or PointmapEmbedderConfig(), dim)
    )


def gated_width(dim: int, multiple: int = 256) -> int:
    """Hidden width of the gated MLP: 8/3 of `dim`, rounded up to a multiple."""
    return -(-int(2 * (4 * dim) / 3) // multiple) * multiple


def _pair(crop: str, full: str) -> tuple[Source, Source]:
    return Source(crop, CROPPED), Source(full, FULL)
