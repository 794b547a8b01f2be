"""`loci walk`: from a picture and actions to a video, a contact sheet and a saved walk."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro
from jaxtyping import Int, UInt8

from loci.actions import KEYS_HELP, MOST_FRAMES, describe, parse_keys, read_actions
from loci.app.interruption import Interruption
from loci.errors import LociError
from loci.io.files import check_writable, replacing

if TYPE_CHECKING:
    import torch

    from loci.world.world import WalkState, World


# Look round, go out and come back, step aside and back, walk in circles; in the shipped world a
# turn of 48 frames is a full one, so that every part ends where it began.
SCRIPT = "j*48 w*24 l*24 w*24 l*24 a*16 d*16 s*16 w*16 l*48 wj*48 w*32 j*24 w*32 j*24 dl*48 j*48"
# Pixels of the shorter side at least: of the video, of a tile of the contact sheet.
WATCHABLE, TILE = 384, 128
TILES = 64
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Walk:
    """What `loci walk` is asked for."""

    picture: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PICTURE]")] = None
    """The picture to walk into; the shipped example if none is given."""
    actions: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A JSON list of {"move": name, "view": name}, one for each frame."""
    keys: Annotated[
        str | None, tyro.conf.arg(metavar="KEYS", help=f"Keys instead of a file. {KEYS_HELP}")
    ] = None
    frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many to generate: all the actions given, or 512 of a scripted walk."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = "doom"
    """A shipped model, a folder, the published files of Infinite-World, or a hub id."""
    prompt: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """What the world is like, for models that read text."""
    device: str = "auto"
    """Where to compute: cpu, cuda, mps; auto takes what is there, in the order cuda, mps, cpu."""
    dtype: Dtype = "float32"
    """What the transformer computes in; the half ones where the device is made for them."""
    seed: int = 0
    """Of the noise; a saved walk keeps its own."""
    out: Path = Path("walk.mp4")
    """The video; a contact sheet is written beside it."""
    save: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where to save the walk, so that it can be resumed."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A saved walk to go on with, in place of a picture."""
    speed: Literal["exact", "fast", "faster"] = "exact"
    """What may be spared: nothing, what is hardly seen, or more."""
    tolerance: Annotated[float | None, tyro.conf.arg(metavar="ERROR")] = None
    """In place of the speed's own: the error sparing may cause in a chunk (0.02: 2% of its way)."""
    verify: bool = False
    """Compute every chunk exactly as well and say how far off it is; the walk stays the same."""

    @property
    def sheet(self) -> Path:
        return self.out.with_suffix(".png")

    @property
    def stopped(self) -> Path:
        """Where a walk ended by Ctrl-C is saved unless told otherwise: a name that no file has,
        so that none is replaced."""
        ends = chain([""], (f"-{number}" for number in count(2)))
        names = (self.out.with_suffix(f".stopped{end}.loci") for end in ends)
        return self.save or next(name for name in names if not name.exists())


def walk(options: Annotated[Walk, tyro.conf.arg(name="")]) -> None:
    """Walk into a picture: generate what is seen on the way.

    Ctrl-C ends the walk early: what has been generated is kept and can be resumed.
    """
    _check(options)
    actions = choose_actions(options)

    from loci.caching.presets import preset as speed
    from loci.world.walk_file import load_walk
    from loci.world.world import SHIPPED, World

    world = World.from_pretrained(
        options.model, chosen_device(options.device), chosen_dtype(options.dtype)
    )
    world = world.at_speed(speed(options.speed, options.tolerance), verify=options.verify)
    if len(actions) % world.codec.temporal_factor:
        raise LociError(
            f"{len(actions)} frames: {options.model} makes them in groups, expected a multiple of "
            f"{world.codec.temporal_factor} (--frames)"
        )
    if options.resume is not None:
        state = load_walk(options.resume, world)
    else:
        picture = options.picture or SHIPPED / "doom" / "example.png"
        state = world.start(picture, options.seed, options.prompt)
    _record(options, world, state, actions)


def chosen_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        LociError: when there is no such device on this machine.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((device for device in there if there[device]), "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise LociError(f"--device: {name}, expected auto, cpu, cuda or mps") from error
    if not there.get(device.type, device.type == "cpu"):
        raise LociError(f"--device: there is no {name} on this machine")
    return device


def chosen_dtype(name: Dtype) -> torch.dtype:
    """The element type of that name."""
    import torch

    return getattr(torch, name)


def _check(options: Walk) -> None:
    """Everything that can be known to be wrong before any work is done."""
    if options.actions is not None and options.keys is not None:
        raise LociError("--actions and --keys: both given, expected one of them")
    if options.resume is not None and options.picture is not None:
        raise LociError("PICTURE and --resume: both given, expected one of them")
    if options.resume is not None and options.prompt is not None:
        raise LociError("--prompt and --resume: both given, but a saved walk has its own prompt")
    if options.frames is not None and not 1 <= options.frames <= MOST_FRAMES:
        raise LociError(f"--frames: {options.frames}, expected 1 to {MOST_FRAMES}")
    outputs = [options.out, options.sheet, *filter(None, [options.save])]
    if len({path.absolute() for path in outputs}) < len(outputs):
        raise LociError(f"--save: {options.save} is also the video or its contact sheet")
    for given in filter(None, (options.picture, options.actions)):
        if given.resolve() in {path.resolve() for path in outputs}:
            raise LociError(
                f"{given}: would be replaced by what is written, expected another --out"
            )
    if options.out.suffix.lower() != ".mp4":
        raise LociError(f"--out: {options.out}, expected the name of a video to end in .mp4")
    for path in (*outputs, options.stopped):
        check_writable(path)


def choose_actions(options: Walk) -> Int[np.ndarray, "n 2"]:
    """The ids `[frames, 2]` asked for, by file, by keys, or the script again and again.

    Raises:
        LociError: when fewer actions are given than frames.
    """
    if options.actions is None and options.keys is None:
        return np.resize(script := parse_keys(SCRIPT), (options.frames or len(script), 2))
    if options.actions is not None:
        source, actions = str(options.actions), read_actions(options.actions)
    else:
        source, actions = "--keys", parse_keys(options.keys or "")
    frames = len(actions) if options.frames is None else options.frames
    if frames > len(actions):
        raise LociError(
            f"{source}: {len(actions)} actions, expected one for each of {frames} frames"
        )
    return actions[:frames]


def _record(options: Walk, world: World, state: WalkState, actions: Int[np.ndarray, "n 2"]) -> None:
    with Interruption():  # a second Ctrl-C does not cost what the first one saves
        _generate_and_save(options, world, state, actions)


def _generate_and_save(
    options: Walk, world: World, state: WalkState, actions: Int[np.ndarray, "n 2"]
) -> None:
    from loci.io.video import VideoWriter, contact_sheet
    from loci.world.walk_file import save_walk

    side = min(state.local.shape[-2:]) * world.codec.spatial_factor
    began = time.monotonic()
    with VideoWriter(options.out, world.fps, scale=math.ceil(WATCHABLE / side)) as video:
        state, tiles, done = generate(world, state, actions, video.write)
        if done == 0:
            raise LociError("stopped before the first frame; nothing is written")
    seconds = time.monotonic() - began
    save = options.save if done == len(actions) else options.stopped
    if save is not None:
        save_walk(save, state, world)
    with replacing(options.sheet) as part:
        labels = [str(number) for number in tiles]
        scale = math.ceil(TILE / side)
        contact_sheet(np.stack(list(tiles.values())), labels, scale=scale).save(part, format="PNG")
    written = ", ".join(str(path) for path in (options.out, options.sheet, save) if path)
    print(f"{done} frames in {seconds:.1f} s, {done / seconds:.1f} a second: {written}")
    print(world.ledger.table())
    if done < len(actions):
        raise LociError(
            f"stopped after {done} of {len(actions)} frames; go on with: loci walk "
            f"--resume {shlex.quote(str(save))} --model {shlex.quote(options.model)} "
            f"--device {options.device} --dtype {options.dtype} --speed {options.speed} "
            f"--keys {shlex.quote(describe(actions[done:]))} "
            f"--out {shlex.quote(str(options.out.with_suffix('.rest.mp4')))}"
        )


def generate(
    world: World,
    state: WalkState,
    actions: Int[np.ndarray, "n 2"],
    write: Callable[[UInt8[np.ndarray, "n h w 3"]], None],
) -> tuple[WalkState, dict[int, UInt8[np.ndarray, "h w 3"]], int]:
    """Walks chunk by chunk, writing frames as they come, until the actions or Ctrl-C end it.

    Returns:
        The state reached, about 64 frames for the contact sheet by their number in the walk (the
        picture is number 0), and how many frames were generated.
    """
    from tqdm import tqdm

    every = math.ceil(len(actions) / TILES)
    tiles: dict[int, UInt8[np.ndarray, "h w 3"]] = {}
    done = 0
    with Interruption() as ctrl_c, tqdm(total=len(actions), unit=" frames") as progress:
        while done < len(actions) and not ctrl_c.asked:
            end = min(done + world.chunk, len(actions))
            ahead = actions[end] if end < len(actions) else None
            step = None
            with ctrl_c.at_once():
                step = world.step(state, actions[done:end], ahead)
            if step is None:
                break
            frames, reached = step
            write(frames)
            for number, frame in enumerate(frames, start=state.frames):
                if number % every == 0 or not tiles:
                    tiles[number] = frame
            state, done = reached, end
            progress.update(len(frames))
    return state, tiles, done
