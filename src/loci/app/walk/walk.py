"""`loci walk`: from a picture and actions to a video, a contact sheet and a saved walk.

Data flow: `walk_request.py` reads the picture and the actions, `World.walk` generates
chunks of frames from them, `walk_record.py` writes them.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from loci.actions import describe
from loci.app.device import choose_device, choose_dtype, choose_threads, wait_passively
from loci.app.interruption import Interruption
from loci.app.walk.walk_request import (
    WalkOptions,
    WalkRequest,
    check_groups,
    check_request,
    parse_size,
)
from loci.errors import LociError

PUBLISHED_SIZE = 448, 896
"""The most common of the published sizes."""

if TYPE_CHECKING:
    import torch
    from jaxtyping import Int, UInt8

    from loci.app.walk.walk_record import WalkRecord
    from loci.nn.placement import WeightPlacement
    from loci.world.world import WalkState, World


def walk(options: Annotated[WalkOptions, tyro.conf.arg(name="")]) -> None:
    """Walk into a picture: generate what is seen on the way.

    Ctrl-C ends the walk early: what has been generated is kept and can be resumed.
    """
    request = check_request(options)
    wait_passively()

    from loci.app.walk.two_processes import is_second, shared, silent_if_second
    from loci.app.walk.walk_record import WalkRecord

    with silent_if_second():
        world, state = load_world(request)
        computing = _describe_computing(request, world, state)
        with shared(world, state), Interruption():
            # a second Ctrl-C does not cost what the first one saves
            if is_second():
                for _ in generate(world, state, request.actions):
                    pass
                return
            frames = state.frames + len(request.actions)
            record = WalkRecord(request.outputs, world, state, frames)
            _generate_and_save(request, world, state, record, computing)


def load_world(request: WalkRequest) -> tuple[World, WalkState]:
    """The model, and the walk where it begins or is continued."""
    from loci.app.walk.walk_progress import starting
    from loci.caching.presets import get_preset
    from loci.world.walk_file import load_walk
    from loci.world.world import World

    options, device = request.options, choose_device(request.options.device)
    dtype = choose_dtype(options.dtype, device, request.model)
    weights = _weights(request, dtype)
    world = World.from_pretrained(request.model, device, dtype, weights)
    sampling = world.config.sampling
    world.config = replace(
        world.config,
        size=world.config.size if options.size is None else parse_size(options.size),
        sampling=replace(sampling, steps=options.steps or sampling.steps),
    )
    world = world.at_speed(get_preset(options.speed, options.tolerance), verify=options.verify)
    check_groups(len(request.actions), world.codec.temporal_factor, options.model)
    if request.saved is not None:
        return world, load_walk(request.saved.path, world)
    assert request.pixels is not None
    world.prompt_cache = options.prompt_cache
    with starting(world):
        state = world.start(request.pixels, options.seed, options.prompt)
    world.text_encoder = None  # not needed any more
    return world, state


def _weights(request: WalkRequest, dtype: torch.dtype) -> WeightPlacement:
    """Where the weights go; of a large model it is said what it will need, before it is read."""
    from loci.app.ram import choose_placement, parse_ram, walk_ram

    options = request.options
    need = walk_ram(request.model, dtype, *_frame_size(request))
    if need is None:
        return "int8" if options.dtype == "int8" else "resident"
    memory = None if options.max_ram is None else parse_ram(options.max_ram)
    int8 = options.dtype == "int8"
    advice = "expected more, or a smaller --size such as 256x256, or --dtype bfloat16"
    weights = choose_placement(need, memory, int8, advice)
    if need.is_large:
        print(f"{options.model} {need.described(weights)}")
    return weights


def _frame_size(request: WalkRequest) -> tuple[int, int]:
    """Height and width of the frames; a common size where only the saved walk knows."""
    from loci.io.frames import choose_bucket

    if request.options.size is not None:
        return parse_size(request.options.size)
    return PUBLISHED_SIZE if request.pixels is None else choose_bucket(*request.pixels.shape[:2])


def _describe_computing(request: WalkRequest, world: World, state: WalkState) -> str:
    """Chooses the number of threads; says where and in what the model computes."""
    from loci.caching.presets import Preset

    one_step = world.at_speed(Preset("one Euler step", walk_step_share=1e-6))
    weight = world.transformer.patch_embedding.weight
    first = int(request.actions.any(axis=1).argmax())  # standing still may cost nothing
    actions = request.actions[first : first + world.chunk]
    threads = choose_threads(lambda: one_step.step(state, actions), weight.device, request.model)
    words = [str(weight.device), str(weight.dtype).removeprefix("torch.")]
    if weight.device.type == "cpu":
        words.insert(1, f"{threads} thread{'s' * (threads > 1)}")
    return ", ".join(words)


def generate(
    world: World, state: WalkState, actions: Int[np.ndarray, "n 2"]
) -> Iterator[tuple[UInt8[np.ndarray, "k h w 3"], WalkState]]:
    """New frames and the walk after them, chunk by chunk, until the actions or Ctrl-C end it, here
    or in the other process of the walk."""
    from loci.app.walk.walk_progress import WalkBar
    from loci.world.prompt_group import PartnerLeft

    chunks = world.walk(state, actions)
    with Interruption() as ctrl_c, WalkBar(world, len(actions)) as bar:
        if world.group is not None:
            world.group.undisturbed = ctrl_c.deferred
        while not ctrl_c.requested:
            chunk = None
            with ctrl_c.interruptible(), suppress(PartnerLeft):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk
            bar.generated(len(chunk[0]))


def _generate_and_save(
    request: WalkRequest, world: World, state: WalkState, record: WalkRecord, computing: str
) -> None:
    """Generates the frames and writes the files: each of them even if another cannot be written,
    after which the first error is raised."""
    first, wanted, began = state.frames, len(request.actions), time.monotonic()
    state = _generate_video(request, world, state, record)
    done, seconds = state.frames - first, time.monotonic() - began
    if not done:
        raise record.errors[0]
    complete = done == wanted and not record.errors
    save = record.outputs.save if complete else record.outputs.stopped
    if save is not None:
        with record.attempt(save):
            record.save_walk(save, state)
    with record.attempt(record.outputs.sheet):
        record.save_sheet()
    if world.group is not None:
        computing += f", {world.group.size} processes"
    files = ", ".join(str(path) for path in record.outputs.in_order(save) if path in record.written)
    print(f"{done} frames in {seconds:.1f} s, {done / seconds:.1f} a second ({computing}): {files}")
    from loci.caching.stats import COLUMNS

    print(world.stats.table(), COLUMNS, sep="\n")
    if not complete or record.errors:
        ended = f"stopped after {done} of {wanted} frames"
        message = str(record.errors[0]) if record.errors else ended
        if save in record.written and done < wanted:
            message += f"; continue with: {_continuation(request, save, done)}"
        elif save in record.written:
            message += f"; the walk is saved: {save}"
        raise LociError(message)


def _generate_video(
    request: WalkRequest, world: World, state: WalkState, record: WalkRecord
) -> WalkState:
    """The walk as far as its frames could be written."""
    first, save = state, record.outputs.save
    with record.attempt(record.outputs.video), record.open_video() as video:
        if request.pixels is not None:
            video.write(record.start(request.pixels))
        else:
            record.resume(state.frames)
        for frames, reached in generate(world, state, request.actions):
            video.write(frames)
            record.add_tiles(state.frames, frames)
            state = reached
            if save is not None and (state.chunks - first.chunks) % request.options.autosave == 0:
                with record.attempt(save):
                    record.save_walk(save, state)
                if record.errors:
                    break
        if state is first:
            raise LociError("stopped before the first frame; nothing is written")
    return state


def _continuation(request: WalkRequest, save: Path, done: int) -> str:
    """The command that generates the rest; it appends to the video that was written."""
    options = request.options
    words = ["loci", "walk", "--resume", str(save), "--model", options.model]
    words += ["--device", options.device, "--dtype", options.dtype, "--speed", options.speed]
    if options.max_ram is not None:
        words += ["--max-ram", options.max_ram]
    if options.tolerance is not None:
        words += ["--tolerance", str(options.tolerance)]
    if options.save is not None:
        words += ["--save", str(options.save)]
    return shlex.join([*words, "--keys", describe(request.actions[done:])])
