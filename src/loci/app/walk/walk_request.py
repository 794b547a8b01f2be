"""Options of `loci walk` and their validation, before a model is loaded.

Nothing here imports torch, so that a mistake is told at once.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from loci.actions import DEFAULT_WALK, KEYS_HELP, MAX_FRAMES, check_known, parse_keys, read_actions
from loci.app.device import Dtype, check_device
from loci.app.ram import parse_ram
from loci.app.walk.saved_walk import SavedWalk
from loci.codecs import FRAMES_PER_LATENT
from loci.errors import LociError, check_seed, check_tolerance
from loci.io.config_files import CONFIG_NAME, read_json
from loci.io.files import check_writable
from loci.io.images import WALK_ASPECT_RATIO, check_aspect, read_pixels
from loci.io.models import SHIPPED, find_model
from loci.io.video import Beginning

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Int, UInt8

VIDEO = Path("walk.mp4")


@dataclass(frozen=True)
class WalkOptions:
    """What `loci walk` is asked for."""

    picture: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PICTURE]")] = None
    """The picture to walk into; the shipped example if none is given."""
    actions: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A JSON list of {"move": name, "view": name}, one for each frame."""
    keys: Annotated[
        str | None, tyro.conf.arg(metavar="KEYS", help=f"Keys instead of a file. {KEYS_HELP}")
    ] = None
    frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many to generate: as many as there are actions, or 512 of a scripted walk."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = "doom"
    """A shipped model, a folder, the published files of Infinite-World, or a hub id."""
    prompt: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """What the world is like, for models that read text."""
    prompt_cache: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A folder that keeps encoded prompts: the next walk with the same one starts at once."""
    device: str = "auto"
    """Where to compute: cpu, cuda, mps; auto takes the first there is of cuda, mps, cpu."""
    dtype: Dtype = "auto"
    """Element type of the weights: auto is bfloat16 for large models on CUDA, float32 otherwise;
    int8 are weights of a byte with bfloat16 for the rest."""
    max_ram: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None
    """The most memory (RAM) that a large model may take, such as 8GB: its weights are streamed from
    disk if they do not fit. All that is free if not given."""
    seed: int | None = None
    """Seed of the noise; if not given, one of the picture's own. A saved walk keeps its own."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The video, walk.mp4 if not given; a contact sheet is written beside it. With --resume, the
    walk's own video, which grows."""
    save: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where to save the walk, so that it can be resumed."""
    autosave: Annotated[int, tyro.conf.arg(metavar="N")] = 32
    """Save to --save after every N chunks as well."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A saved walk to continue, in place of a picture."""
    size: Annotated[str | None, tyro.conf.arg(metavar="HxW")] = None
    """Height and width of the frames, multiples of 16, for models that take any: 256x256 costs at
    most a sixth of 448x896. By default the published size nearest to the picture's shape."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Sampling steps of a chunk, in place of the model's own."""
    speed: Literal["exact", "fast", "faster"] = "exact"
    """Preset: exact (no approximation), fast (no visible loss), faster."""
    tolerance: Annotated[float | None, tyro.conf.arg(metavar="ERROR")] = None
    """Largest relative error of a chunk, in place of the preset's steps (0.02 is 2 %)."""
    verify: bool = False
    """Sample every chunk exactly as well and report the error; the walk stays the same."""


@dataclass(frozen=True)
class WalkOutputs:
    """The files of a walk.

    Attributes:
        video: the whole walk, from its picture on.
        beginning: the frames that the video has already, or another video has.
        walk_id: kept in the video and in the saved walk, so that they find each other.
        save: the file the walk is saved to, if it was asked for.
    """

    video: Path
    beginning: Beginning | None
    walk_id: str
    save: Path | None

    @property
    def sheet(self) -> Path:
        return self.video.with_suffix(".png")

    def in_order(self, saved: Path | None) -> list[Path]:
        """The video, the sheet, and where the walk was saved, if it was."""
        return [self.video, self.sheet, *([] if saved is None else [saved])]

    @property
    def stopped(self) -> Path:
        """Where a walk that ends early is saved: a new file, unless one was asked for."""
        ends = chain([""], (f"-{number}" for number in count(2)))
        names = (self.video.with_suffix(f".stopped{end}.loci") for end in ends)
        return self.save or next(name for name in names if not name.exists())


@dataclass(frozen=True)
class WalkRequest:
    """A walk that was checked. `pixels` are None where `saved` is a walk to continue."""

    options: WalkOptions
    model: Path
    actions: Int[np.ndarray, "n 2"]
    pixels: UInt8[np.ndarray, "h w 3"] | None
    saved: SavedWalk | None
    outputs: WalkOutputs


def check_request(options: WalkOptions) -> WalkRequest:
    """Reads and checks what is asked for.

    Raises:
        LociError: naming the first option, file or action that is wrong.
    """
    _check_options(options)
    saved = None if options.resume is None else SavedWalk.read(options.resume)
    outputs = choose_outputs(options, saved)
    _check_outputs(options, outputs)
    source, actions = choose_actions(options)
    pixels = None
    if saved is None:
        picture = options.picture or SHIPPED / "doom" / "example.png"
        pixels = read_pixels(picture)
        check_aspect(pixels, WALK_ASPECT_RATIO, str(picture))
    model = find_model(options.model, CONFIG_NAME)
    _check_model(options, model, source, actions)
    return WalkRequest(options, model, actions, pixels, saved, outputs)


def choose_actions(options: WalkOptions) -> tuple[str, Int[np.ndarray, "n 2"]]:
    """The source of the actions, for error messages, and their ids `[frames, 2]`.

    They come from a file, from keys, or from the default script, repeated.

    Raises:
        LociError: when fewer actions are given than frames.
    """
    if options.actions is None and options.keys is None:
        script = parse_keys(DEFAULT_WALK)
        return "the scripted walk", np.resize(script, (options.frames or len(script), 2))
    if options.actions is not None:
        source, actions = str(options.actions), read_actions(options.actions)
    else:
        source, actions = "--keys", parse_keys(options.keys or "")
    frames = len(actions) if options.frames is None else options.frames
    if frames > len(actions):
        raise LociError(
            f"{source}: {len(actions)} actions, expected one for each of {frames} frames"
        )
    return source, actions[:frames]


def choose_outputs(options: WalkOptions, saved: SavedWalk | None) -> WalkOutputs:
    """Where to write: a saved walk's own video grows if it ends where the walk does. If it was
    continued before, that video stays, and a new one begins with a copy of the part they share.

    Raises:
        LociError: when --out names the video of anything else.
    """
    new_id = uuid.uuid4().hex[:16]
    if saved is None:
        return WalkOutputs(options.out or VIDEO, None, new_id, options.save)
    candidates = [path for path in (options.out, saved.video) if path is not None]
    own = {path: info for path in candidates if (info := saved.has_own(path)) is not None}
    beginning = Beginning(next(iter(own)), saved.frames) if own else None
    video = options.out or saved.video or VIDEO
    if video in own and own[video].frames == saved.frames:
        return WalkOutputs(video, beginning, saved.walk_id, options.save)
    if options.out is None:
        video = video if saved.video and not video.exists() else _free_name(video)
    elif video.exists():
        wrong = f"continues after frame {saved.frames}" if video in own else "is another file"
        raise LociError(f"--out: {video} {wrong}; omit --out or choose a new name")
    return WalkOutputs(video, beginning, new_id, options.save)


def parse_size(size: str) -> tuple[int, int]:
    """Height and width of frames.

    Raises:
        LociError: unless they are multiples of 16, of 64 to 2048 pixels.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", size)
    pixels = (int(match[1]), int(match[2])) if match else (0, 0)
    if any(side % 16 or not 64 <= side <= 2048 for side in pixels):
        raise LociError(
            f"--size: {size}, expected HEIGHTxWIDTH in multiples of 16 from 64 to 2048, such as "
            "256x256"
        )
    return pixels


def check_groups(frames: int, group: int, model: str) -> None:
    """Raises LociError where a model that makes frames in groups is asked for a part of one."""
    if frames % group:
        raise LociError(
            f"{frames} frames: {model} makes them in groups, expected a multiple of {group} "
            "(--frames)"
        )


def _check_options(options: WalkOptions) -> None:
    if options.actions is not None and options.keys is not None:
        raise LociError("--actions and --keys: both given, expected one of them")
    if options.resume is not None:
        for name, value in (("PICTURE", options.picture), ("--seed", options.seed)):
            if value is not None:
                raise LociError(f"{name} and --resume: both given, expected one of them")
        if options.prompt is not None:
            raise LociError(
                "--prompt and --resume: both given, but a saved walk has its own prompt"
            )
    if options.frames is not None and not 1 <= options.frames <= MAX_FRAMES:
        raise LociError(f"--frames: {options.frames}, expected 1 to {MAX_FRAMES}")
    if options.size is not None:
        parse_size(options.size)
        if options.resume is not None:
            raise LociError("--size and --resume: both given, but a saved walk has its own size")
    if options.steps is not None and not 1 <= options.steps <= 1000:
        raise LociError(f"--steps: {options.steps}, expected 1 to 1000")
    if options.autosave < 1:
        raise LociError(f"--autosave: {options.autosave}, expected at least 1")
    if options.out is not None and options.out.suffix.lower() != ".mp4":
        raise LociError(f"--out: {options.out}, expected the name of a video to end in .mp4")
    check_seed(options.seed or 0, "--seed")
    check_tolerance(options.tolerance)
    check_device(options.device)
    if options.max_ram is not None:
        parse_ram(options.max_ram)


def _check_outputs(options: WalkOptions, outputs: WalkOutputs) -> None:
    files = [outputs.video, outputs.sheet, *filter(None, [outputs.save])]
    if len({path.absolute() for path in files}) < len(files):
        raise LociError(f"--save {options.save} must differ from the video and its contact sheet")
    _check_kept((options.picture, options.actions), files)
    _check_kept((options.resume,), files[:2])  # a saved walk may be replaced by its continuation
    for path in (*files, outputs.stopped):
        check_writable(path)


def _check_kept(inputs: Iterable[Path | None], outputs: list[Path]) -> None:
    for given in filter(None, inputs):
        if given.resolve() in {path.resolve() for path in outputs}:
            raise LociError(
                f"{given}: would be replaced by what is written, expected another --out"
            )


def _check_model(
    options: WalkOptions, model: Path, source: str, actions: Int[np.ndarray, "n 2"]
) -> None:
    """Whether the model's configuration, if it has one, goes with what is asked for."""
    path = model / CONFIG_NAME
    config: Any = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        return  # refused when it is loaded
    check_known(actions, config.get("moves", ()), config.get("views", ()), source)
    group = FRAMES_PER_LATENT.get(config.get("codec", "wan"), 1)
    check_groups(len(actions), group, options.model)
    if options.size is not None and config.get("size") is not None:
        height, width = config["size"]
        raise LociError(f"--size: given, but {options.model} makes frames of {height}x{width} only")
    if options.prompt is not None and config.get("text") is False:
        raise LociError("--prompt: given, but this model was trained without text")


def _free_name(video: Path) -> Path:
    """A name whose video and sheet are not there yet."""
    ends = chain([""], (f"-{number}" for number in count(2)))
    names = (video.with_stem(f"{video.stem}{end}") for end in ends)
    return next(
        name for name in names if not name.exists() and not name.with_suffix(".png").exists()
    )
