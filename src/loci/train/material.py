"""Where batches come from: recorded walks, and some that the model went on with by itself."""

from dataclasses import dataclass

import numpy as np

from loci.data.latent_walks import LatentWalks
from loci.data.revisits import Recipe
from loci.memory.compressor import LatentEncoder
from loci.train.own_history import OwnHistory, own_history
from loci.train.window_codes import WindowCodes, window_codes
from loci.world.transformer import WorldTransformer


@dataclass(frozen=True)
class Source:
    """Walks to draw from, within which places, and the codes of their windows if these are kept."""

    walks: LatentWalks
    within: range | None = None
    kept: WindowCodes | None = None


class Material:
    """The walks of a run, and what is made from them on the way.

    None of it is part of a checkpoint: it can all be made again.
    """

    def __init__(self, walks: LatentWalks, seed: int) -> None:
        self.walks, self.seed = walks, seed
        self.kept: WindowCodes | None = None
        self.own: tuple[OwnHistory, WindowCodes | None] | None = None

    def keep_windows(self, encoder: LatentEncoder, noise: float) -> None:
        """Encode all windows, once: from now on the encoder's windows must stay as they are."""
        self.kept = window_codes(encoder, self.walks, noise, self.seed)

    def walk_on(self, model: WorldTransformer, noise: float, rng: np.random.Generator) -> None:
        """Let the model go on with some walks, in place of those it went on with before."""
        own, kept = own_history(model, self.walks, rng), None
        if self.kept is not None:
            kept = window_codes(model.latent_encoder, own.walks, noise, self.seed)
        self.own = own, kept

    def source(self, recipe: Recipe, own: float, rng: np.random.Generator) -> Source:
        """The model's own walks with probability `own`, where the recipe fits them."""
        if self.own is not None and rng.random() < own:
            history, kept = self.own
            if history.has_room_for(recipe):
                return Source(history.walks, history.places, kept)
        return Source(self.walks, kept=self.kept)
