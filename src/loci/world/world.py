"""A world that can be walked: start from a picture, step by actions, fork at will."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from loci.acceleration.calibration import CALIBRATION_NAME, ModelCalibration
from loci.actions import check_known, to_ids
from loci.codecs import codec_class
from loci.codecs.base import Codec
from loci.errors import LociError, check_seed
from loci.flow import shortened
from loci.io.config_files import CONFIG_NAME, load_config, save_config
from loci.io.files import replacing_folder
from loci.io.frames import choose_bucket, load_picture, tensor_to_frames
from loci.io.images import read_pixels
from loci.io.models import pretrained_folder, shipped_folder
from loci.nn.device import available_device
from loci.nn.placement import WeightPlacement, place_weights
from loci.world.conditioning import Prompt, stack_contexts
from loci.world.config import WorldConfig
from loci.world.latent_world import LatentWorld, WalkState, next_action_ids
from loci.world.published_files import load_infinite_world
from loci.world.sampling import sample_walk_batch
from loci.world.text import NEGATIVE_PROMPT, TextEncoder
from loci.world.transformer import WorldTransformer

SAVED = {"transformer", "codec", "text_encoder", CONFIG_NAME, CALIBRATION_NAME}
"""The files and folders of a saved world."""
Frames = UInt8[np.ndarray, "n h w 3"]


class World(LatentWorld):
    """A transformer with its memory, a codec, and a text encoder if the model has text.

    Args:
        config: how the world is walked.
        transformer: the model.
        codec: the codec between frames and latents.
        text_encoder: the text encoder, for models with text.
        calibration: the calibration of the model, for presets with a tolerance.

    Raises:
        LociError: when the configuration does not fit these parts.
    """

    def __init__(
        self,
        config: WorldConfig,
        transformer: WorldTransformer,
        codec: Codec,
        text_encoder: TextEncoder | None = None,
        calibration: ModelCalibration | None = None,
    ) -> None:
        super().__init__(config, transformer, codec.temporal_factor, calibration)
        self.codec, self.text_encoder = codec, text_encoder
        self.prompt_cache: Path | None = None
        """A folder that keeps encoded prompts, since encoding takes minutes; None for none."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        weights: WeightPlacement = "resident",
    ) -> "World":
        """A shipped model by name ("doom"), a model folder, the published files, or a hub id.

        Args:
            source: the model.
            device: the device to compute on.
            dtype: type of the transformer's weights; float32 by default.
            weights: where the weights of the transformer's blocks are: "resident" in memory,
                "streamed" from disk with the same results, or "int8", with slightly other ones.

        Raises:
            LociError: when there is no such model or device, or a tensor is missing or misshapen.
        """
        device = available_device(device)
        folder = shipped_folder(source, CONFIG_NAME) or Path(source)
        if folder.is_file() or (folder.is_dir() and not (folder / CONFIG_NAME).is_file()):
            return cls(WorldConfig(), *load_infinite_world(folder, device, dtype, weights))
        folder = pretrained_folder(folder)
        config = load_config(folder / CONFIG_NAME, WorldConfig)
        codec = codec_class(config.codec).from_pretrained(folder / "codec")
        transformer = WorldTransformer.from_pretrained(folder / "transformer")
        transformer = place_weights(transformer, device, dtype or torch.float32, weights)
        transformer.requires_grad_(False)
        text_encoder = None
        if config.text:
            # 11 GB and needed once per walk: mapped, read block by block when a prompt is encoded.
            text_encoder = TextEncoder.from_pretrained(folder / "text_encoder")
        calibration = ModelCalibration.load_from(folder)
        codec = codec.to(device, torch.float32)
        return cls(config, transformer, codec, text_encoder, calibration)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder that `from_pretrained` reads, all or nothing.

        Args:
            folder: new, empty, or an older world, which is replaced.
            dtype: type of floating-point weights; as they are by default.

        Raises:
            LociError: when `folder` holds anything else, or cannot be written.
        """
        with replacing_folder(folder, SAVED.__contains__) as draft:
            self.transformer.save_pretrained(draft / "transformer", dtype)
            self.codec.save_pretrained(draft / "codec", dtype)
            if self.text_encoder is not None:
                self.text_encoder.save_pretrained(draft / "text_encoder")
            save_config(draft / CONFIG_NAME, self.config)
            self.calibration.write(draft)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the frames; None if they depend on the picture."""
        return self.config.size

    @property
    def fps(self) -> int:
        """Frames per second of a walk."""
        return self.config.fps

    @torch.no_grad()
    def start(
        self,
        picture: str | Path | Image.Image | UInt8[np.ndarray, "h w 3"],
        seed: int | None = None,
        prompt: str | None = None,
    ) -> WalkState:
        """A walk of one frame: the picture.

        Args:
            picture: a file, a Pillow image or pixels; resized and cropped to the model's size.
            seed: seed of the noise, 0 to 2**63 - 1; by default one of the picture's own, so that
                different pictures lead into different places (`picture_seed`).
            prompt: a text, for models that take one; empty by default.

        Raises:
            LociError: when the picture cannot be read, the seed is out of range, or a prompt is
                given to a model without text.
        """
        if not isinstance(picture, str | Path | Image.Image | np.ndarray):
            raise LociError(
                f"a picture of type {type(picture).__name__}: expected a file, a Pillow image, or "
                "pixels uint8 [height, width, 3]"
            )
        seed = None if seed is None else check_seed(seed)
        pixels = read_pixels(picture)
        size = self.config.size or choose_bucket(*pixels.shape[:2])
        seed = picture_seed(pixels) if seed is None else seed
        return self.start_from_frame(load_picture(pixels, size), seed, self._prompt(prompt))

    @torch.no_grad()
    def start_from_frame(
        self, frame: Float[Tensor, "1 3 1 h w"], seed: int = 0, prompt: Prompt | None = None
    ) -> WalkState:
        """`start` with a frame in [-1, 1] and an encoded prompt."""
        self.report("picture", 0, 1)
        latents, codec_state = self.codec.encode_stream(frame.to(self.device))
        return self.start_from_latents(latents, None, seed, prompt, codec_state)

    @torch.no_grad()
    def newest_frame(self, state: WalkState) -> UInt8[np.ndarray, "h w 3"]:
        """The newest latent of a walk decoded by itself: the start picture as the model sees it."""
        return tensor_to_frames(self.codec.decode(state.newest_latent)[:, :, :1])[0]

    def step(
        self, state: WalkState, actions: ArrayLike, next_action: ArrayLike | None = None
    ) -> tuple[Frames, WalkState]:
        """The frames that follow from 1 to `chunk_frames` actions, and the walk after them.

        The model generates whole chunks. With fewer actions than `chunk_frames` the rest of the
        chunk is generated as standing still and dropped, and the next chunk begins after these
        frames. So a walk that was stopped in the middle of a chunk does not go on exactly like one
        that was not: it has the same frames only if it was stopped after a multiple of
        `chunk_frames` actions.

        Args:
            state: the walk so far.
            actions: ids `[n, 2]` (move, view) or `Action`s, one for each new frame, or keys
                ("w*8").
            next_action: the action after these, for models whose chunks overlap; "no-op" if it is
                not known.

        Raises:
            LociError: for no actions, too many, a number that does not fill whole latents, or an
                action that the model was not trained on.
        """
        chunk = self.generate_chunk(state, actions, next_action)
        return chunk.frames(), chunk.state_after()

    def walk(self, state: WalkState, actions: ArrayLike) -> Iterator[tuple[Frames, WalkState]]:
        """The frames that follow from any number of actions, and the walk after them, by chunks.

        All actions are checked before the first chunk is generated.

        Args:
            state: the walk so far.
            actions: actions as for `step`, of any number.

        Raises:
            LociError: as `step`, at once.
        """
        ids = self._check_actions(state, actions)

        def chunks(state: WalkState) -> Iterator[tuple[Frames, WalkState]]:
            for at in range(0, len(ids), self.chunk_frames):
                next_action = (
                    ids[at + self.chunk_frames] if at + self.chunk_frames < len(ids) else None
                )
                frames, state = self.step(state, ids[at : at + self.chunk_frames], next_action)
                yield frames, state

        return chunks(state)

    @torch.no_grad()
    def generate_chunk(
        self, state: WalkState, actions: ArrayLike, next_action: ArrayLike | None = None
    ) -> "GeneratedChunk":
        """The latents of the next chunk, whose frames are decoded when they are asked for.

        With a codec that works frame by frame, the first frame can be shown while the others are
        not decoded yet, and those that nobody will see need not be. Arguments and errors as for
        `step`.
        """
        ids = self._check_actions(state, actions)
        if len(ids) > self.chunk_frames:
            raise LociError(f"{len(ids)} actions: expected 1 to {self.chunk_frames} for one step")
        next_ids = next_action_ids(next_action)
        latents, poses = self.sample_chunk(state, torch.from_numpy(ids)[None], next_ids)
        return GeneratedChunk(self, state, len(ids), latents, poses)

    @torch.no_grad()
    def generate_chunks(
        self, states: Sequence[WalkState], actions: Sequence[ArrayLike]
    ) -> list["GeneratedChunk"]:
        """The next chunk of several walks, as by `generate_chunk` up to rounding.

        Walks with equally many memory tokens pass through the transformer together; the others,
        and walks that are sampled with guidance or with a policy, one by one.

        Args:
            states: the walks so far.
            actions: the actions of each walk, as for `step`.
        """
        pairs = list(zip(states, actions, strict=True))
        if not self._samples_in_batches:
            return [self.generate_chunk(state, keys) for state, keys in pairs]
        ids = [self._check_actions(state, keys) for state, keys in pairs]
        if any(len(each) > self.chunk_frames for each in ids):
            raise LociError(f"actions: expected 1 to {self.chunk_frames} for one step of each walk")
        moving = [k for k, each in enumerate(ids) if each.any() or not self.config.static]
        if len(moving) < len(ids):  # the others repeat their newest latent
            chunks = iter(
                self.generate_chunks([states[k] for k in moving], [ids[k] for k in moving])
            )
            return [
                next(chunks) if k in moving else self.generate_chunk(states[k], ids[k])
                for k in range(len(ids))
            ]
        return self._sample_batch(states, ids)

    @property
    def _samples_in_batches(self) -> bool:
        """Whether walks can share a batch: with poses, without guidance, and without a policy."""
        config = self.config
        has_guidance = config.text or config.sampling.guidance_scale != 1
        exact = self.preset.walk is None and not self.verify
        return config.action_scale is not None and not has_guidance and exact

    def _sample_batch(
        self, states: Sequence[WalkState], ids: Sequence[Int[np.ndarray, "n 2"]]
    ) -> list["GeneratedChunk"]:
        """The next chunks of walks that move, batched by their number of memory tokens."""
        contexts, poses = [], []
        walks_by_tokens: dict[int, list[int]] = {}
        with self.stats.timed("context"):
            for walk, (state, actions) in enumerate(zip(states, ids, strict=True)):
                context, chunk_poses = self.chunk_context(
                    state, torch.from_numpy(actions)[None], next_action_ids(None)
                )
                contexts.append(context)
                poses.append(chunk_poses)
                token_count = context.blocks[0].conditioning_tokens.shape[1]
                walks_by_tokens.setdefault(token_count, []).append(walk)
        latents: dict[int, Tensor] = {}
        sampling = shortened(self.config.sampling, self.preset.walk_step_share)
        for walks in walks_by_tokens.values():
            noise = torch.cat([self.noise(states[walk]) for walk in walks])
            context = stack_contexts([contexts[walk] for walk in walks])
            with self.stats.timed("sampling"):
                sampled = sample_walk_batch(self.transformer, noise, context, sampling)
            latents |= dict(zip(walks, sampled.split(1), strict=True))
        return [
            GeneratedChunk(self, state, len(ids[walk]), latents[walk], poses[walk])
            for walk, state in enumerate(states)
        ]

    def _check_actions(self, state: WalkState, actions: ArrayLike) -> Int[np.ndarray, "n 2"]:
        if not isinstance(state, WalkState):
            raise LociError(f"a {type(state).__name__}: expected the WalkState of a walk")
        ids = to_ids(actions)
        if len(ids) % self.temporal_factor:
            raise LociError(
                f"{len(ids)} actions: this model generates frames in groups of "
                f"{self.temporal_factor}, expected a multiple of it"
            )
        check_known(ids, self.config.moves, self.config.views)
        return ids

    def _prompt(self, prompt: str | None) -> Prompt | None:
        if self.text_encoder is None:
            if prompt is not None:
                raise LociError("a prompt was given, but this model was trained without text")
            return None
        self.report("prompt", 0, 1)
        prompts = [prompt or "", NEGATIVE_PROMPT]
        states, mask = self.text_encoder.encode_cached(prompts, self.prompt_cache)
        return Prompt(states.to(self.device), mask.to(self.device))


class GeneratedChunk:
    """A chunk of a walk, as latents until its frames are asked for (`World.generate_chunk`).

    Args:
        world: the world that generated it.
        state_before: the walk before it.
        frame_count: number of its new frames.
        latents: the latents of the whole chunk.
        poses: dead-reckoned poses of the chunk's frames, where the model uses them.
    """

    def __init__(
        self,
        world: World,
        state_before: WalkState,
        frame_count: int,
        latents: Float[Tensor, "1 c t h w"],
        poses: Float[Tensor, "1 n 3"] | None,
    ) -> None:
        self.world, self.state_before, self.frame_count = world, state_before, frame_count
        self.latents, self.poses = latents, poses
        self._video: Tensor | None = None

    @torch.no_grad()
    def video(self, start: int = 0, stop: int | None = None) -> Float[Tensor, "1 3 n h w"]:
        """The new frames `start` to `stop` (exclusive; all by default), in [-1, 1]."""
        stop = self.frame_count if stop is None else stop
        world = self.world
        if world.codec.frames_are_independent and (start, stop) != (0, self.frame_count):
            with world.stats.timed("frames"):
                return world.codec.decode(self.latents[:, :, start:stop])
        if self._video is None:
            first = int(world.config.overlap)
            latent_count = first + self.frame_count // world.temporal_factor
            world.report("frames", 0, 1)
            with world.stats.timed("frames"):
                self._video = world.codec.decode(self.latents[:, :, :latent_count])[:, :, first:]
        return self._video[:, :, start:stop]

    def frames(self, start: int = 0, stop: int | None = None) -> Frames:
        """The new frames `start` to `stop` (exclusive; all by default)."""
        return tensor_to_frames(self.video(start, stop))

    def state_after(self) -> WalkState:
        """The walk after this chunk: compresses its latents into the memory, at the first call.

        Models that re-encode decode the frames before (`WorldConfig.reencode`).
        """
        return self._state_after

    @cached_property
    @torch.no_grad()
    def _state_after(self) -> WalkState:
        world = self.world
        video = self.video() if world.config.reencode else None
        world.report("history", 0, 1)
        with world.stats.timed("history"):
            new, codec_state = world.drop_overlap(self.latents, self.frame_count), None
            if video is not None:
                new, codec_state = world.codec.encode_stream(video, self.state_before.codec_state)
            return world.append(self.state_before, self.frame_count, new, self.poses, codec_state)


def picture_seed(pixels: UInt8[np.ndarray, "h w 3"]) -> int:
    """The seed of a walk into a picture for which none is given: of six digits, from its pixels."""
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest()
    return int.from_bytes(digest[:8], "big") % 1_000_000
