"""Where codes look, and which of them show what nothing else shows: by reckoned poses alone."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loci.memory.compressor import RATE
from loci.memory.hierarchy import Span
from loci.memory.poses import panorama_pose, view_pose

NEAR = 0.6
"""Two views are of the same place if it is no further than this, in cells ..."""
ALONG = math.radians(20.0)
"""... and of the same direction if it is no further than this from the arc that was seen."""
POINTS = 7
"""Directions by which the arc of a panorama is tested."""


class SeenViews:
    """Poses of spans: those that are known, and slots from the latents that come after them.

    Args:
        known: `[b, 4]` by span.
        poses: of the latents from `first` on, where spans of level one begin that are not known.
    """

    def __init__(
        self, known: dict[Span, Float[Tensor, "b 4"]], poses: Float[Tensor, "b n 3"], first: int
    ) -> None:
        self.known, self.poses, self.first = dict(known), poses, first

    def merge(self, parent: Span, parts: Sequence[Span]) -> None:
        lengths = torch.tensor([part.length for part in parts], dtype=torch.float64)
        stacked = torch.stack([self._pose(part) for part in parts], dim=1)
        self.known[parent] = panorama_pose(stacked, lengths)

    def unique(self, spans: Sequence[Span]) -> Bool[np.ndarray, "n-3 4"]:
        """See `hierarchy.Views`. In a batch of walks, what is unique in one of them is unique."""
        shown = self._shown(spans)
        rows = []
        for at in range(len(spans) - RATE + 1):
            outside = np.ones(len(spans), bool)
            outside[at : at + RATE] = False
            elsewhere = shown[:, at : at + RATE][..., outside].any(axis=-1).all(axis=-1)
            rows.append(~elsewhere.all(axis=0))
        return np.stack(rows) if rows else np.zeros((0, RATE), bool)

    def _shown(self, spans: Sequence[Span]) -> Bool[np.ndarray, "b n points n"]:
        """Whether a direction of a span's arc is in the arc of another one that is as fine."""
        poses = torch.stack([self._pose(span) for span in spans], dim=1).numpy()
        levels = np.array([span.level for span in spans])
        heading, place, spread = poses[..., 0], poses[..., 1:3], poses[..., 3]
        directions = heading[..., None] + spread[..., None] * np.linspace(-0.5, 0.5, POINTS)
        away = directions[..., None] - heading[:, None, None, :]
        away = np.abs((away + np.pi) % (2 * np.pi) - np.pi)
        along = away < ALONG + spread[:, None, None, :] / 2
        apart = np.linalg.norm(place[:, :, None] - place[:, None], axis=-1)
        close = (apart < NEAR) & (levels[None, :] <= levels[:, None])
        return along & close[:, :, None, :]

    def _pose(self, span: Span) -> Float[Tensor, "b 4"]:
        if span not in self.known:
            within = self.poses[:, span.start - self.first : span.end - self.first]
            if span.level != 1 or within.shape[1] != span.length:
                raise ValueError(f"{span} is neither known nor a slot after latent {self.first}")
            if span.length < RATE:
                return view_pose(within)
            self.known[span] = view_pose(within)
        return self.known[span]
