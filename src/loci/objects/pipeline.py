"""One lift: the requests of a picture through both stages and the decoders.

    condition -> structure flow -> structure decoder -> voxels and pose    (stage 1)
    condition -> SLAT flow -> Gaussian and mesh decoders                   (stage 2)

Every part is loaded once for all objects, and freed before the next one is loaded.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.errors import LociError
from loci.flow import OnStep, State
from loci.geometry.camera import Camera
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.rotations import quaternion_to_matrix
from loci.objects.config import LifterConfig
from loci.objects.costs import StageCost
from loci.objects.inputs.observation import LiftRequest
from loci.objects.inputs.pixel_aligned import pixel_aligned
from loci.objects.models.condition import POINTMAPS, EmbedderFuser
from loci.objects.models.slat_decoders import GaussianDecoder, MeshDecoder
from loci.objects.models.slat_flow import SlatFlow
from loci.objects.models.structure_flow import StructureFlow
from loci.objects.models.structure_vae import StructureDecoder, occupied
from loci.objects.parts import (
    GAUSSIAN_DECODERS,
    MESH_DECODER,
    SLAT_FLOW,
    SLAT_FUSER,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    STRUCTURE_FUSER,
    PartLoader,
)
from loci.objects.placement.pose import Pose, decode_pose
from loci.objects.placement.refinement import is_cut_off, refine_pose
from loci.objects.placement.voxels import VoxelChoice, choose_voxels, prune_interior
from loci.objects.sampling import PresetSampler, slat_noise

GUESS_SEED = 0x9E3779B97F4A7C15
"""Between the seeds of two guesses: far from any that users count up to."""
FULL_PICTURE = "rgb_image"
"""The only input that all objects of a picture share; pointmaps are normalised per object."""


class Progress(NamedTuple):
    """Where a run is: step `step` of `steps` for object `number` of `objects`, counted from 0."""

    stage: str
    number: int
    objects: int
    step: int
    steps: int


class LiftResult(NamedTuple):
    """A lifted object.

    Attributes:
        pose: in the units of the request's normaliser.
        choice: its voxels.
        resolution: of their grid.
        score: of the pose refinement; minus infinity without one.
        gaussians: None if they were not decoded.
        mesh: None if it was not decoded.
    """

    pose: Pose
    choice: VoxelChoice
    resolution: int
    score: float = -math.inf
    gaussians: Gaussians | None = None
    mesh: Mesh | None = None


class _Guess(NamedTuple):
    """A shape with its pose and the pose's score."""

    coords: Int[Tensor, "n 4"]
    logits: Float[Tensor, "1 1 r r r"]
    pose: Pose
    score: float


class LiftPipeline:
    """One run over all requests of a picture.

    Args:
        config: how the parts are run.
        loader: of the parts.
        requests: one for each object.
        sampler: of both flows; exact by default.
        progress: called before every step of every stage.
    """

    def __init__(
        self,
        config: LifterConfig,
        loader: PartLoader,
        requests: Sequence[LiftRequest],
        sampler: PresetSampler | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.config, self.loader, self.requests = config, loader, requests
        self.sampler, self.progress = sampler or PresetSampler(), progress
        self.costs: list[StageCost] = []
        # As published, the noise of stage 2 is drawn after that of stage 1.
        self._generators = [
            torch.Generator(loader.device).manual_seed(request.seed) for request in requests
        ]

    @torch.no_grad()
    def run(self) -> list[LiftResult]:
        """All objects, in the order of the requests.

        Raises:
            LociError: when an object has no voxels, or the weights of a part do not fit.
        """
        structures = self._sample_structures(self._conditions(STRUCTURE_FUSER))
        results = self._decode_structures(structures)
        del structures
        latents = self._sample_slat(self._conditions(SLAT_FUSER), results)
        for name in GAUSSIAN_DECODERS:
            if name in self.config.decoders:
                results = self._decode_gaussians(name, results, latents)
        if MESH_DECODER in self.config.decoders:
            results = self._decode_meshes(results, latents)
        return results

    def _conditions(self, name: str) -> list[Float[Tensor, "1 m c"]]:
        """The condition tokens of every object; those of the full picture are embedded once."""
        with self.loader.use(name, EmbedderFuser, self.costs) as fuser:
            inputs = [self._to_device(request.tensors) for request in self.requests]
            names = {source.name for group in fuser.sources for source in group}
            with self.sampler.timed("pictures"):
                shared = {n: fuser.embed(n, inputs[0][n]) for n in names & {FULL_PICTURE}}
            conditions = []
            for number, tensors in enumerate(inputs):
                self._report(name, number)
                dropped = [n for n in POINTMAPS if n in names and n not in tensors]
                with self.sampler.timed("pictures"):
                    conditions.append(fuser(tensors, dropped, shared))
            return conditions

    # Stage 1

    def _sample_structures(self, conditions: list[Tensor]) -> list[State]:
        """Structure and layout latents of every object, a batch of its guesses."""
        settings = self.config.structure
        steps = self.sampler.fewer_steps(settings).steps
        with self.loader.use(STRUCTURE_FLOW, StructureFlow, self.costs) as flow:
            return [
                self.sampler.run_structure(
                    flow,
                    condition,
                    self._structure_noise(flow, number),
                    settings,
                    self._on_step(STRUCTURE_FLOW, number, steps),
                )
                for number, condition in enumerate(conditions)
            ]

    def _structure_noise(self, flow: StructureFlow, number: int) -> State:
        """A batch of the object's guesses; the first does not depend on how many there are."""
        request = self.requests[number]
        guesses = self.config.guesses if self._compares_guesses(request) else 1
        noises = [flow.noise(1, self._generators[number])]
        for guess in range(1, guesses):
            seed = (request.seed + guess * GUESS_SEED) % 2**63
            noises.append(flow.noise(1, torch.Generator(self.loader.device).manual_seed(seed)))
        return {name: torch.cat([noise[name] for noise in noises]) for name in noises[0]}

    def _compares_guesses(self, request: LiftRequest) -> bool:
        """Whether guesses are scored against the observation."""
        observation = request.observation
        if self.config.refinement is None or observation is None:
            return False
        return not is_cut_off(observation.mask)

    def _decode_structures(self, structures: list[State]) -> list[LiftResult]:
        """Voxels and pose of every object."""
        results = []
        with self.loader.use(STRUCTURE_DECODER, StructureDecoder, self.costs) as decoder:
            for number, (request, latents) in enumerate(
                zip(self.requests, structures, strict=True)
            ):
                self._report(STRUCTURE_DECODER, number)
                with self.sampler.timed("voxels"):
                    logits = decoder(latents["shape"].to(self.loader.dtype)).float()
                    results.append(self._decode_structure(request, latents, logits))
        return results

    def _decode_structure(
        self, request: LiftRequest, latents: State, logits: Float[Tensor, "c 1 r r r"]
    ) -> LiftResult:
        """The guess with the best score, with the voxels of stage 2."""
        guesses = [
            self._decode_guess(request, {name: x[n : n + 1] for name, x in latents.items()}, grid)
            for n, grid in enumerate(logits.split(1))
        ]
        guesses = [guess for guess in guesses if len(guess.coords)]
        if not guesses:
            raise LociError(
                f"{request.name}: no voxel above threshold, expected a mask around an object"
            )
        best = max(guesses, key=lambda guess: guess.score)
        config, generator = self.config, torch.Generator().manual_seed(request.seed)
        choice = choose_voxels(
            *(best.coords, best.logits, request.rgba, self.sampler.preset),
            *(config.prune_depth, config.voxel_limit, generator),
        )
        if choice.spectral_ratio is not None:
            stage = self.sampler.stats.stage("decoding")
            stage.spectral_ratio = choice.spectral_ratio
            stage.decoding_factor = choice.aggregation.factor if choice.aggregation else 1.0
        pose = best.pose._replace(scale=best.pose.scale * choice.downsample_factor)
        return LiftResult(pose, choice, logits.shape[-1], best.score)

    def _decode_guess(self, request: LiftRequest, latents: State, logits: Tensor) -> _Guess:
        """The voxels of one guess, and its pose, refined and scored if there is an observation."""
        coords, config = occupied(logits), self.config
        scale, shift = (part.to(self.loader.device)[None] for part in request.normalizer)
        pose = decode_pose(latents, scale, shift, convention=config.convention)
        if request.observation is None or config.refinement is None:
            return _Guess(coords, logits, pose, -math.inf)
        depth = config.prune_depth if self.sampler.preset.prunes_interior else 0
        surface = prune_interior(coords, depth) if depth else coords
        refined = refine_pose(
            pose, surface[:, 1:], logits.shape[-1], request.observation, config.refinement
        )
        return _Guess(coords, logits, *refined)

    # Stage 2

    def _sample_slat(self, conditions: list[Tensor], results: list[LiftResult]) -> list[Tensor]:
        """The latents of every object's voxels, for the decoders."""
        settings, latents = self.config.slat, []
        steps = self.sampler.fewer_steps(settings).steps
        with self.loader.use(SLAT_FLOW, SlatFlow, self.costs) as flow:
            for number, (request, condition, result) in enumerate(
                zip(self.requests, conditions, results, strict=True)
            ):
                noise = slat_noise(flow, result.choice.voxels, self._generators[number])
                on_step = self._on_step(SLAT_FLOW, number, steps)
                aligned = self._pixel_aligned(request, result) if flow.config.aligned else None
                latents.append(
                    self.sampler.run_slat(
                        flow, condition, result.choice, noise, settings, on_step, aligned
                    )
                )
        return latents

    def _pixel_aligned(
        self, request: LiftRequest, result: LiftResult
    ) -> Float[Tensor, "n a"] | None:
        """Pixel-aligned features of every voxel; None unless the pose was refined."""
        observation, choice = request.observation, result.choice
        if observation is None or observation.rgb is None or not math.isfinite(result.score):
            return None
        rotation, translation, scale = (part[0].float().cpu() for part in result.pose)
        matrix = quaternion_to_matrix(rotation)
        size = scale / choice.downsample_factor
        camera = Camera.from_pose(matrix, translation, size, observation.fov, observation.principal)
        mask = observation.mask[None].float()
        features = pixel_aligned(
            choice.centers.cpu(), choice.voxel_size, camera, observation.rgb, mask
        )
        return features.to(self.loader.device)

    def _decode_gaussians(
        self, name: str, results: list[LiftResult], latents: list[Tensor]
    ) -> list[LiftResult]:
        decoded = []
        with self.loader.use(name, GaussianDecoder, self.costs) as decoder:
            for number, (result, x) in enumerate(zip(results, latents, strict=True)):
                self._report(name, number)
                choice = result.choice
                with self.sampler.timed("decoding"):
                    gaussians = decoder.decode(x, choice.voxels)[0]
                decoded.append(result._replace(gaussians=choice.restore_gaussians(gaussians)))
        return decoded

    def _decode_meshes(self, results: list[LiftResult], latents: list[Tensor]) -> list[LiftResult]:
        decoded = []
        with self.loader.use(MESH_DECODER, MeshDecoder, self.costs) as decoder:
            for number, (result, x) in enumerate(zip(results, latents, strict=True)):
                self._report(MESH_DECODER, number)
                choice = result.choice
                with self.sampler.timed("decoding"):
                    mesh = decoder.decode(choice.mesh_latents(x), choice.mesh_voxels)[0]
                decoded.append(result._replace(mesh=choice.restore_mesh(mesh)))
        return decoded

    def _to_device(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        loader = self.loader
        return {name: x.to(loader.device, loader.dtype) for name, x in tensors.items()}

    def _report(self, stage: str, number: int, step: int = 0, steps: int = 1) -> None:
        if self.progress is not None:
            self.progress(Progress(stage, number, len(self.requests), step, steps))

    def _on_step(self, stage: str, number: int, steps: int) -> OnStep:
        return lambda step, state: self._report(stage, number, step, steps)
