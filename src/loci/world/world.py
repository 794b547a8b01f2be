"""A world that can be walked: start from a picture, step by actions, fork at will."""

import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from loci.actions import MOVES, VIEWS, to_ids
from loci.caching.calibration import CALIBRATION_NAME, ModelCalibration
from loci.caching.presets import UNCALIBRATED, Preset, as_preset
from loci.caching.stats import Stats
from loci.codecs.base import Codec, CodecState
from loci.codecs.frame import FrameCodec
from loci.codecs.wan import WanCodec
from loci.errors import LociError
from loci.io.config import CONFIG_NAME, load_config, save_config
from loci.io.files import replacing_folder
from loci.io.frames import choose_bucket, load_picture, tensor_to_frames
from loci.io.images import read_pixels
from loci.io.models import pretrained_folder
from loci.memory.hierarchical import HierarchicalMemory, MemoryState
from loci.memory.hpmc import published_memory
from loci.memory.poses import dead_reckon
from loci.memory.token_cache import MemoryTokens
from loci.world.conditioning import Actions, ChunkContext, ChunkPoses, Prompt
from loci.world.released import load_released
from loci.world.rollout import WorldConfig, chunk_context, chunk_noise, sample_at_speed
from loci.world.text import NEGATIVE_PROMPT, TextEncoder
from loci.world.transformer import WorldTransformer

SHIPPED = Path(__file__).parents[1] / "shipped"
SAVED = {"transformer", "codec", "text_encoder", CONFIG_NAME, CALIBRATION_NAME}
"""What a saved world consists of."""


@dataclass(frozen=True, eq=False)
class WalkState:
    """A walk between two steps. Never changed: keep one, and the walk can be forked from it.

    `frames` counts the frames so far, the picture included; `local` is the newest latent, `pose`
    where the walker has reckoned itself to be (heading, x, y).
    """

    seed: int
    frames: int
    chunks: int
    memory: MemoryState
    codec: CodecState
    local: Float[Tensor, "1 16 1 h w"]
    pose: Float[Tensor, "1 3"]
    prompt: Prompt | None = None


class World:
    """A codec, a transformer with its memory compressor, and perhaps a text encoder.

    Raises:
        LociError: when the configuration asks for what these parts cannot do together.
    """

    def __init__(
        self,
        config: WorldConfig,
        transformer: WorldTransformer,
        codec: Codec,
        text_encoder: TextEncoder | None = None,
        laws: ModelCalibration | None = None,
    ) -> None:
        self.config, self.transformer, self.codec = config, transformer, codec
        self.text_encoder, self.laws = text_encoder, laws or ModelCalibration()
        self.speed, self.ledger, self.verify = as_preset(None), Stats(), False
        self._check()
        encoder = transformer.latent_encoder
        published = partial(published_memory, encoder) if config.horizon.exact else None
        self.memory = HierarchicalMemory(config.horizon, encoder, published)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> "World":
        """A shipped model by name ("doom"), a folder of ours, the published files, or a hub id.

        The transformer's weights are kept in float32 unless `dtype` says otherwise.

        Raises:
            LociError: when there is no such model, or a tensor is missing or misshapen.
        """
        folder = Path(source)
        if folder.name == str(source) and (SHIPPED / folder / CONFIG_NAME).is_file():
            folder = SHIPPED / folder
        elif folder.is_file() or (folder.is_dir() and not (folder / CONFIG_NAME).is_file()):
            parts = load_released(folder, device, dtype)
            return cls(WorldConfig(), *parts)
        else:
            folder = pretrained_folder(source)
        config = load_config(folder / CONFIG_NAME, WorldConfig)
        codec_class = FrameCodec if config.codec == "frame" else WanCodec
        codec = codec_class.from_pretrained(folder / "codec").to(device, torch.float32)
        transformer = WorldTransformer.from_pretrained(folder / "transformer")
        transformer = transformer.to(device, dtype or torch.float32).requires_grad_(False)
        text = None
        if config.text:
            # 11 GB, used once a walk: not on the device.
            text = TextEncoder.from_pretrained(folder / "text_encoder")
        return cls(config, transformer, codec, text, ModelCalibration.beside(folder))

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder that `from_pretrained` reads, all or nothing; floating weights as `dtype`
        if given. Raises LociError when `folder` holds anything but an older world."""
        with replacing_folder(folder, SAVED.__contains__) as draft:
            self.transformer.save_pretrained(draft / "transformer", dtype)
            self.codec.save_pretrained(draft / "codec", dtype)
            if self.text_encoder is not None:
                self.text_encoder.save_pretrained(draft / "text_encoder")
            save_config(draft / CONFIG_NAME, self.config)
            self.laws.write(draft)

    def at_speed(
        self, speed: str | Preset, ledger: Stats | None = None, verify: bool = False
    ) -> "World":
        """The same world, walked at another speed; parts and walks are shared.

        Args:
            speed: its name ("exact", "fast", "faster"), or one of your own
                (docs/acceleration.md). Every chunk gets a policy of its own.
            ledger: written with what is done and spared; a new one by default. It is the world's
                `ledger` afterwards.
            verify: sample every chunk once more, exactly, and write the error into the ledger.

        Raises:
            LociError: when there is no speed of that name.
        """
        other = copy.copy(self)
        other.verify = verify
        other.speed = as_preset(speed).calibrated(self.laws)
        other.ledger = ledger if ledger is not None else Stats()
        if "walk" in other.speed.uncalibrated:
            other.ledger.note(UNCALIBRATED)
        return other

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the frames, None where they follow the picture."""
        return self.config.size

    @property
    def fps(self) -> int:
        """Frames per second at which a walk is shown."""
        return self.config.fps

    @property
    def chunk(self) -> int:
        """New frames per step at most."""
        return self.config.chunk

    @torch.no_grad()
    def start(
        self,
        image: str | Path | Image.Image | UInt8[np.ndarray, "h w 3"],
        seed: int = 0,
        prompt: str | None = None,
    ) -> WalkState:
        """A walk of one frame: the picture.

        Raises:
            LociError: when the picture cannot be read, or a prompt is given to a model without
                text. (A model with text that is given none reads an empty one.)
        """
        size = self.config.size or choose_bucket(*read_pixels(image).shape[:2])
        return self.begin(load_picture(image, size), seed, self._prompt(prompt))

    @torch.no_grad()
    def begin(
        self, frame: Float[Tensor, "1 3 1 h w"], seed: int = 0, prompt: Prompt | None = None
    ) -> WalkState:
        """`start` with a frame in [-1, 1] and a prompt already encoded."""
        latents, codec = self.codec.encode_stream(frame.to(self._device))
        pose = torch.zeros(1, 3, dtype=torch.float64)
        memory = self.memory.empty()
        if not self.config.lag:
            where = None if self.config.stride is None else pose[:, None]
            memory = self.memory.append(memory, latents, where)
        return WalkState(seed, 1, 0, memory, codec, latents, pose, prompt)

    def step(
        self, state: WalkState, actions: ArrayLike, ahead: ArrayLike | None = None
    ) -> tuple[UInt8[np.ndarray, "n h w 3"], WalkState]:
        """The frames that follow from 1 to `chunk` actions, and the walk after them.

        Args:
            actions: ids `[n, 2]` (move, view) or `Action`s, one per new frame, or keys ("w*8").
            ahead: for models whose chunks overlap, the action that follows these; "no-op" if it
                is not known.

        A model makes whole chunks: with fewer actions than `chunk` the rest of the chunk is
        generated as standing still and thrown away.

        Raises:
            LociError: on an empty list, too many actions, or a count that does not fill whole
                latents.
        """
        _, video, state = self.generate(state, actions, ahead)
        return tensor_to_frames(video), state

    @torch.no_grad()
    def generate(
        self, state: WalkState, actions: ArrayLike, ahead: ArrayLike | None = None
    ) -> tuple[Float[Tensor, "1 16 t h w"], Float[Tensor, "1 3 n h w"], WalkState]:
        """`step` with the sampled latents of the whole chunk and the new frames in [-1, 1]."""
        ids = self._ids(actions)
        latents, target_poses = self._sample(state, ids, ahead)
        first = int(self.config.overlap)
        keep = len(ids) // self.codec.temporal_factor + first
        with self.ledger.timed("frames"):
            video = self.codec.decode(latents[:, :, :keep])[:, :, first:]
        with self.ledger.timed("history"):
            state = self._advance(state, ids, video, latents, target_poses)
        return latents, video, state

    def _check(self) -> None:
        config, factor = self.config, self.codec.temporal_factor
        if (config.stride is None) != (self.transformer.config.reckoned is None):
            raise LociError("world: a stride and reckoned addressing go together, got only one")
        if config.stride is not None and (config.overlap or factor > 1):
            raise LociError("world: reckoned poses need a latent for each new frame, no overlap")
        if config.stride is None and config.horizon.hierarchy.posed:
            raise LociError(
                "world: a memory that follows views or has keepsakes needs a stride to reckon "
                "poses by"
            )
        if factor > 1 and (config.chunk % factor or not config.overlap):
            raise LociError(
                f"world: a codec of {factor} frames a latent needs chunks that overlap, of a "
                f"multiple of {factor} frames"
            )

    @torch.no_grad()
    def context(
        self, state: WalkState, actions: ArrayLike, ahead: ArrayLike | None = None
    ) -> ChunkContext:
        """What the next chunk is conditioned on; arguments and errors as for `step`."""
        return self._context(state, self._ids(actions), ahead)[0]

    def _sample(
        self, state: WalkState, ids: Int[np.ndarray, "n 2"], ahead: ArrayLike | None
    ) -> tuple[Tensor, Tensor | None]:
        """The chunk's latents, and the reckoned poses of its frames."""
        with self.ledger.timed("context"):
            context, poses = self._context(state, ids, ahead)
        frames = self.config.chunk // self.codec.temporal_factor + int(self.config.overlap)
        shape = (*state.local.shape[:2], frames, *state.local.shape[3:])
        noise = chunk_noise(state.seed, state.chunks, shape, self._device)
        run = self.speed, self.ledger, self.verify
        latents = sample_at_speed(self.transformer, noise, context, self.config.sampling, *run)
        return latents, poses

    def _context(
        self, state: WalkState, ids: Int[np.ndarray, "n 2"], ahead: ArrayLike | None
    ) -> tuple[ChunkContext, Tensor | None]:
        config = self.config
        padded = np.zeros((config.chunk + int(config.overlap), 2), np.int64)
        padded[: len(ids)] = ids
        if ahead is not None and config.overlap:
            padded[len(ids)] = to_ids(np.asarray([ahead]))[0]
        pressed = torch.from_numpy(padded)[None]
        move, view = pressed.unbind(-1)
        codes = self.memory.codes(state.memory) if state.memory.length else None
        address = poses = None
        if config.stride is not None:
            poses = dead_reckon(state.pose, move, view, config.stride)
            address = self._address(state, codes, poses)
        context = chunk_context(
            self.transformer,
            None if codes is None else codes.tokens,
            state.local,
            Actions(move.to(self._device), view.to(self._device)),
            state.prompt,
            address,
        )
        return context, poses

    def _address(self, state: WalkState, codes: MemoryTokens | None, poses: Tensor) -> ChunkPoses:
        if codes is None or codes.poses is None:
            return ChunkPoses(poses[:, :0], poses[:, :0, 0], state.pose, poses)
        ends = torch.tensor([span.end for span in codes.spans], dtype=torch.float64)
        return ChunkPoses(codes.poses, (state.memory.length - ends)[None], state.pose, poses)

    def _advance(
        self,
        state: WalkState,
        ids: Int[np.ndarray, "n 2"],
        video: Tensor,
        latents: Tensor,
        poses: Tensor | None,
    ) -> WalkState:
        codec = state.codec
        made = latents[:, :, int(self.config.overlap) :][
            :, :, : len(ids) // self.codec.temporal_factor
        ]
        if self.config.reencode:
            made, codec = self.codec.encode_stream(video, state.codec)
        known, known_poses = made, None
        pose = state.pose
        if poses is not None:
            poses = poses[:, : len(ids)]
            known_poses, pose = poses, poses[:, -1]
        if self.config.lag:
            known = torch.cat([state.local, made[:, :, :-1]], dim=2)
            if known_poses is not None:
                known_poses = torch.cat([state.pose[:, None], known_poses[:, :-1]], dim=1)
        return replace(
            state,
            frames=state.frames + len(ids),
            chunks=state.chunks + 1,
            memory=self.memory.append(state.memory, known, known_poses),
            codec=codec,
            local=made[:, :, -1:].clone(),
            pose=pose,
        )

    def _ids(self, actions: ArrayLike) -> Int[np.ndarray, "n 2"]:
        ids = to_ids(actions)
        if not 1 <= len(ids) <= self.config.chunk:
            raise LociError(f"{len(ids)} actions: expected 1 to {self.config.chunk} for one step")
        factor = self.codec.temporal_factor
        if len(ids) % factor:
            raise LociError(
                f"{len(ids)} actions: this model makes frames in groups of {factor}, expected a "
                f"multiple of {factor}"
            )
        self._known(ids[:, 0], self.config.moves, MOVES)
        self._known(ids[:, 1], self.config.views, VIEWS)
        return ids

    @staticmethod
    def _known(ids: Int[np.ndarray, "n"], known: tuple[int, ...], names: tuple[str, ...]) -> None:
        strange = sorted(set(ids.tolist()) - set(known or range(len(names))))
        if strange:
            expected = ", ".join(names[i] for i in known)
            raise LociError(f'"{names[strange[0]]}": this model knows only {expected}')

    def _prompt(self, prompt: str | None) -> Prompt | None:
        if self.text_encoder is None:
            if prompt is not None:
                raise LociError("a prompt was given, but this model was trained without text")
            return None
        states, mask = self.text_encoder.encode([prompt or "", NEGATIVE_PROMPT])
        return Prompt(states.to(self._device), mask.to(self._device))

    @property
    def _device(self) -> torch.device:
        return self.transformer.patch_embedding.weight.device
