"""The stage-2 velocity for a sampler: whole, or of some voxels."""

from jaxtyping import Float
from torch import Tensor

from loci.flow.policy import Rows
from loci.layers.sparse import Voxels
from loci.layers.sparse_part import KeptVoxels
from loci.objects.latent_flow import Context, LatentFlow


class LatentBranch:
    """One branch of the guidance of one run: the latent flow under one condition.

    With `keeping` it remembers every evaluation, and when some voxels are evaluated the others
    stay keys, values and convolution context. Without, they are absent.
    """

    def __init__(
        self, flow: LatentFlow, voxels: Voxels, context: Context | None, keeping: bool
    ) -> None:
        self.flow, self.voxels, self.context = flow, voxels, context
        self.kept = KeptVoxels(voxels) if keeping else None

    def whole(
        self, latents: Float[Tensor, "n c"], time: Float[Tensor, "b"]
    ) -> Float[Tensor, "n c"]:
        """The velocity of every voxel."""
        places = self.voxels if self.kept is None else self.kept.whole()
        return self.flow.velocity(latents, time, places, self.context)

    def part(
        self, latents: Float[Tensor, "n c"], time: Float[Tensor, "b"], rows: Rows
    ) -> Float[Tensor, "k c"]:
        """The velocity of some voxels; `latents` are those of all."""
        if self.kept is None:
            places = Voxels(self.voxels.coords[rows])
        elif self.kept.empty:
            # A branch that guidance just switched on has nothing to look back at.
            return self.whole(latents, time)[rows]
        else:
            places = self.kept.part(rows)
        context = None if self.context is None else self.context.part(rows)
        return self.flow.velocity(latents[rows], time, places, context)
