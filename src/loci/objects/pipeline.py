"""Parts brought in when a stage needs them and let go of when it has ended."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar, cast

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from loci.errors import LociError
from loci.flow import State
from loci.geometry.camera import Camera
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.rotations import quaternion_to_matrix
from loci.objects.costs import StageCost, measured
from loci.objects.inputs.pixel_aligned import pixel_aligned
from loci.objects.inputs.pointmap import Normaliser
from loci.objects.inputs.preprocess import INPUT_SIZE
from loci.objects.models.condition import POINTMAPS, EmbedderFuser
from loci.objects.models.slat_decoders import GaussianDecoder, MeshDecoder
from loci.objects.models.slat_flow import SlatFlow
from loci.objects.models.structure_flow import StructureFlow
from loci.objects.models.structure_vae import StructureDecoder, occupied
from loci.objects.parts import (
    ALL_DECODERS,
    DECODERS,
    GAUSSIAN_DECODERS,
    LATENT_FLOW,
    LATENT_FUSER,
    MESH_DECODER,
    PARTS,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    STRUCTURE_FUSER,
    Parts,
)
from loci.objects.placement.pose import Convention, Pose, decode_pose
from loci.objects.placement.refinement import Observation, RefinementConfig, cut_off, refine_pose
from loci.objects.placement.voxels import VOXEL_LIMIT, VoxelChoice, choose_voxels, prune
from loci.objects.sampling import SamplerRunner, SlatSampling, StructureSampling, latent_noise

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass
class PartLoader:
    """Parts on their device, one at a time unless they are kept.

    Attributes:
        parts: where they come from.
        device: where to compute.
        dtype: type of the weights; float32 or bfloat16.
        keep: whether a part stays in memory after its stage, for the next run.
    """

    parts: Parts
    device: torch.device
    dtype: torch.dtype = torch.float32
    keep: bool = False
    _kept: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the parts in memory between runs."""
        return tuple(self._kept)

    @contextmanager
    def use(self, name: str, kind: type[ModuleT], costs: list[StageCost]) -> Iterator[ModuleT]:
        """The part for the time of the block, whose cost (loading included) is added to `costs`.

        Do not hold on to the part: its memory is given back when nothing refers to it any more.
        """
        with measured(name, self.device, costs):
            part = self._kept.get(name)
            if part is None:
                part = self.parts.load(name).to(self.device, self.dtype)
            if self.keep:
                self._kept[name] = part
            yield cast(ModuleT, part)
        del part
        if self.device.type == "cuda" and not self.keep:
            torch.cuda.empty_cache()

    def free(self) -> None:
        """Lets go of the parts that were kept."""
        self._kept.clear()


LIFTER_NAME = "lifter.json"
"""The file in a model's folder that holds its LifterConfig."""
GUESS_SEED = 0x9E3779B97F4A7C15
"""Between the seeds of two guesses: far from any that a user counts up to."""
PICTURE = "rgb_image"
"""The only input that all objects of a picture have in common: pointmaps are measured anew from
every object."""


@dataclass(frozen=True)
class LifterConfig:
    """How the parts are run. The defaults are the released pipeline (SAM 3D Objects, 14).

    `input_size` is the side that pictures, masks and pointmaps are brought to; `prune` how deep
    inside an object voxels are dropped, 0 for none; `decoders` names the parts that end a run;
    `refinement` is how the pose is refined between the stages, None for not at all. Of so many
    `guesses` at an object's shape, each from noise of its own, the one that covers mask and depths
    best is gone on with; where that cannot be told, as without refinement, one is all that is made.
    """

    input_size: int = INPUT_SIZE
    structure: StructureSampling = field(default_factory=StructureSampling)
    latents: SlatSampling = field(default_factory=SlatSampling)
    prune: int = 1
    voxel_limit: int = VOXEL_LIMIT
    convention: Convention = "ScaleShiftInvariant"
    decoders: tuple[str, ...] = DECODERS
    refinement: RefinementConfig | None = None
    guesses: int = 1

    def __post_init__(self) -> None:
        if self.guesses < 1:
            raise ValueError(f"guesses: {self.guesses}, expected at least 1")
        if set(GAUSSIAN_DECODERS) <= set(self.decoders):
            names = " and ".join(GAUSSIAN_DECODERS)
            raise ValueError(f"decoders: {names}, expected one of the two")

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all parts that a run needs, in its order."""
        shared = tuple(name for name in PARTS if name not in DECODERS)
        return (*shared, *(name for name in ALL_DECODERS if name in self.decoders))


class Progress(NamedTuple):
    """Where a run is: step `step` of `steps` for object `number` of `objects`, from 0."""

    stage: str
    number: int
    objects: int
    step: int
    steps: int


class LiftRequest(NamedTuple):
    """An object to lift.

    Attributes:
        name: what an error calls it.
        tensors: the inputs of both stages, as `structure_inputs` makes them.
        normaliser: what its pose is measured by.
        seed: of its noise, whatever other objects there are.
        cutout: the part of the picture around it, the alpha channel its mask.
        seen: what its pose can be refined by, and what its voxels' pixels are read from; None
            leaves the pose as it is, and no pixels are known.
    """

    name: str
    tensors: Mapping[str, Tensor]
    normaliser: Normaliser
    seed: int
    cutout: UInt8[Tensor, "h w 4"]
    seen: Observation | None = None


class LiftResult(NamedTuple):
    """An object that has been found; `mark` says how well it covers what is seen, if refined."""

    pose: Pose
    choice: VoxelChoice
    resolution: int
    mark: float = -math.inf
    gaussians: Gaussians | None = None
    mesh: Mesh | None = None


class _Guess(NamedTuple):
    """A shape with its pose, and how well it explains what is seen."""

    coords: Int[Tensor, "n 4"]
    logits: Float[Tensor, "1 1 r r r"]
    pose: Pose
    mark: float


class LiftPipeline:
    """One run over all objects of a picture.

    Every part is loaded once however many objects there are, and gone before the next is there.
    """

    def __init__(
        self,
        config: LifterConfig,
        stages: PartLoader,
        subjects: Sequence[LiftRequest],
        pace: SamplerRunner | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.config, self.stages, self.subjects = config, stages, subjects
        self.pace, self.progress = pace or SamplerRunner(), progress
        self.costs: list[StageCost] = []
        # The noise of stage 2 is drawn after that of stage 1, as released.
        self._noise = [
            torch.Generator(stages.device).manual_seed(subject.seed) for subject in subjects
        ]

    @torch.no_grad()
    def run(self) -> list[LiftResult]:
        """All objects, in the order of the subjects.

        Raises:
            LociError: when no voxel is occupied, or a part does not fit.
        """
        seen = [subject.tensors for subject in self.subjects]
        layouts = self._layouts(self._conditions(STRUCTURE_FUSER, seen))
        found = self._structures(layouts)
        del layouts
        latents = self._latents(self._conditions(LATENT_FUSER, seen), found)
        for name in GAUSSIAN_DECODERS:
            if name in self.config.decoders:
                found = self._with_gaussians(name, found, latents)
        if MESH_DECODER in self.config.decoders:
            found = self._with_meshes(found, latents)
        return found

    def _conditions(
        self, name: str, seen: Sequence[Mapping[str, Tensor]]
    ) -> list[Float[Tensor, "1 m c"]]:
        """The tokens of every object; those of the whole picture are made once for all."""
        with self.stages.use(name, EmbedderFuser, self.costs) as fuser:
            given = [self._placed(tensors) for tensors in seen]
            read = {source.name for row in fuser.sources for source in row}
            with self.pace.timed("pictures"):
                shared = {n: fuser.embed(n, given[0][n]) for n in read & {PICTURE}}
            conditions = []
            for number, tensors in enumerate(given):
                self._tell(name, number)
                dropped = [n for n in POINTMAPS if n in read and n not in tensors]
                with self.pace.timed("pictures"):
                    conditions.append(fuser(tensors, dropped, shared))
            return conditions

    def _layouts(self, conditions: list[Tensor]) -> list[State]:
        """Stage 1: shape and layout latents, a row for each guess."""
        settings = self.config.structure
        with self.stages.use(STRUCTURE_FLOW, StructureFlow, self.costs) as flow:
            return [
                self.pace.structure(
                    flow,
                    condition,
                    self._structure_noise(flow, number),
                    settings,
                    self._teller(STRUCTURE_FLOW, number, self.pace.steps(settings)),
                )
                for number, condition in enumerate(conditions)
            ]

    def _structure_noise(self, flow: StructureFlow, number: int) -> State:
        """The first guess has the same whatever others there are."""
        subject = self.subjects[number]
        noises = [flow.noise(1, self._noise[number])]
        for guess in range(1, self.config.guesses if self._told_apart(subject) else 1):
            seed = (subject.seed + guess * GUESS_SEED) % 2**63
            noises.append(flow.noise(1, torch.Generator(self.stages.device).manual_seed(seed)))
        return {name: torch.cat([noise[name] for noise in noises]) for name in noises[0]}

    def _structures(self, layouts: list[State]) -> list[LiftResult]:
        """Voxels and poses."""
        found = []
        with self.stages.use(STRUCTURE_DECODER, StructureDecoder, self.costs) as decoder:
            for number, (subject, latents) in enumerate(zip(self.subjects, layouts, strict=True)):
                self._tell(STRUCTURE_DECODER, number)
                with self.pace.timed("voxels"):
                    logits = decoder(latents["shape"].to(self.stages.dtype)).float()
                    found.append(self._structure(subject, latents, logits))
        return found

    def _told_apart(self, subject: LiftRequest) -> bool:
        """Whether guesses at it can be compared with what is seen."""
        seen = subject.seen
        return self.config.refinement is not None and seen is not None and not cut_off(seen.mask)

    def _guess(self, subject: LiftRequest, latents: State, logits: Tensor) -> _Guess:
        coords, config = occupied(logits), self.config
        scale, shift = (part.to(self.stages.device)[None] for part in subject.normaliser)
        pose = decode_pose(latents, scale, shift, convention=config.convention)
        if subject.seen is None or config.refinement is None:
            return _Guess(coords, logits, pose, -math.inf)
        inside = config.prune if self.pace.speed.prune else 0
        surface = prune(coords, inside) if inside else coords
        fitted = refine_pose(
            pose, surface[:, 1:], logits.shape[-1], subject.seen, config.refinement
        )
        return _Guess(coords, logits, *fitted)

    def _structure(self, subject: LiftRequest, latents: State, logits: Tensor) -> LiftResult:
        guesses = [
            self._guess(subject, {name: x[row] for name, x in latents.items()}, logits[row])
            for row in (slice(n, n + 1) for n in range(len(logits)))
        ]
        some = [guess for guess in guesses if len(guess.coords)]
        if not some:
            raise LociError(
                f"{subject.name}: no voxel above threshold, expected a mask around an object"
            )
        coords, logits, pose, mark = max(some, key=lambda guess: guess.mark)
        chance, config = torch.Generator().manual_seed(subject.seed), self.config
        choice = choose_voxels(
            *(coords, logits, subject.cutout, self.pace.speed),
            *(config.prune, config.voxel_limit, chance),
        )
        if choice.detail is not None:
            entry = self.pace.ledger.stage("decoding")
            entry.spectral_ratio = choice.detail
            entry.decoding_factor = choice.merged.factor if choice.merged else 1.0
        pose = pose._replace(scale=pose.scale * choice.shrunk)
        return LiftResult(pose, choice, logits.shape[-1], mark)

    def _latents(self, conditions: list[Tensor], found: list[LiftResult]) -> list[Tensor]:
        """Stage 2: what the decoders take."""
        settings, latents = self.config.latents, []
        with self.stages.use(LATENT_FLOW, SlatFlow, self.costs) as flow:
            for number, (condition, one) in enumerate(zip(conditions, found, strict=True)):
                noise = latent_noise(flow, one.choice.voxels, self._noise[number])
                tell = self._teller(LATENT_FLOW, number, self.pace.steps(settings))
                aligned = self._pixels(self.subjects[number], one) if flow.config.aligned else None
                latents.append(
                    self.pace.latents(flow, condition, one.choice, noise, settings, tell, aligned)
                )
        return latents

    def _pixels(self, subject: LiftRequest, one: LiftResult) -> Float[Tensor, "n a"] | None:
        """Of every voxel; None where no fitted pose says which they are."""
        seen = subject.seen
        if seen is None or seen.rgb is None or not math.isfinite(one.mark):
            return None
        rotation, translation, scale = (part[0].float().cpu() for part in one.pose)
        choice = one.choice
        scale = scale / choice.shrunk
        camera = Camera.from_pose(quaternion_to_matrix(rotation), translation, scale, seen.fov)
        places, mask = choice.places.cpu(), seen.mask[None].float()
        aligned = pixel_aligned(places, choice.width, camera, seen.rgb, mask)
        return aligned.to(self.stages.device)

    def _with_gaussians(
        self, name: str, found: list[LiftResult], latents: list[Tensor]
    ) -> list[LiftResult]:
        with self.stages.use(name, GaussianDecoder, self.costs) as decoder:
            done = []
            for number, (one, x) in enumerate(zip(found, latents, strict=True)):
                self._tell(name, number)
                with self.pace.timed("decoding"):
                    splats = decoder.decode(x, one.choice.voxels)[0]
                done.append(one._replace(gaussians=one.choice.true_gaussians(splats)))
            return done

    def _with_meshes(self, found: list[LiftResult], latents: list[Tensor]) -> list[LiftResult]:
        with self.stages.use(MESH_DECODER, MeshDecoder, self.costs) as decoder:
            done = []
            for number, (one, x) in enumerate(zip(found, latents, strict=True)):
                self._tell(MESH_DECODER, number)
                with self.pace.timed("decoding"):
                    mesh = decoder.decode(one.choice.mesh_latents(x), one.choice.mesh_voxels)[0]
                done.append(one._replace(mesh=one.choice.true_mesh(mesh)))
            return done

    def _placed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.to(self.stages.device, self.stages.dtype) for name, x in tensors.items()}

    def _tell(self, stage: str, number: int, step: int = 0, steps: int = 1) -> None:
        if self.progress is not None:
            self.progress(Progress(stage, number, len(self.subjects), step, steps))

    def _teller(self, stage: str, number: int, steps: int) -> Callable[[int, State], None]:
        return lambda step, state: self._tell(stage, number, step, steps)
