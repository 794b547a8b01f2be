"""`loci lift`: from a picture and masks to splats, meshes, poses, a preview and a turntable.

Data flow: `lift_request.py` reads the picture and the masks, `Lifter.lift` makes objects of
them, `_write_assets` exports them, and `_write_pictures` draws the previews of `lift_views.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from loci.app.device import (
    LARGE,
    choose_device,
    choose_dtype,
    wait_passively,
    weight_bytes,
)
from loci.app.lift.lift_request import CheckedLift, LiftOptions, check_request, is_written
from loci.errors import LociError
from loci.io.files import replacing_folder

if TYPE_CHECKING:
    import torch

    from loci.acceleration.presets import Preset
    from loci.acceleration.stats import Stats
    from loci.nn.placement import WeightPlacement
    from loci.objects.asset import Asset
    from loci.objects.lifter import Lifter
    from loci.objects.pipeline import Progress
    from loci.objects.scene import Scene

PREVIEW, TURNTABLE, MASK = "preview.png", "turntable.mp4", "mask.png"
SIDE, FPS = 256, 24
FACES_SLACK = 1.1
"""By so much a simplified mesh may exceed its faces without a word."""
TURNTABLE_SECONDS, MIN_FRAMES = 60.0, 8


def lift(options: Annotated[LiftOptions, tyro.conf.arg(name="")]) -> None:
    """Lift objects out of a picture: a mask, a box or a point selects each.

    Writes splat.ply, mesh.glb, pose.json, preview.png and turntable.mp4, mask.png if the object was
    segmented here, and scene.ply and scene.glb, the object where the camera saw it. Several objects
    get a folder each, numbered masks first, then boxes, then points, and share one scene.
    """
    if options.batch is not None:
        from loci.app.lift.lift_batch import lift_batch

        lift_batch(options)
    else:
        if options.workers != 1:
            raise LociError("--workers: given without --batch, expected both or neither")
        lift_one(check_request(options))


def lift_one(request: CheckedLift, lifter: Lifter | None = None) -> None:
    """Lifts and writes what was asked for, with a model that is loaded already if one is given."""
    options = request.options
    for note in request.notes:
        print(note)
    wait_passively()

    from loci.acceleration.presets import get_preset
    from loci.acceleration.stats import COLUMNS, Stats
    from loci.objects.costs import cost_table

    lifter = lifter or load_lifter(request)
    stats, preset = Stats(), get_preset(options.speed, options.tolerance)
    scene = _run_lift(request, lifter, preset, stats)
    compared = _compare_to_exact(request, lifter, scene) if options.verify else []
    scene = _postprocess_meshes(scene, options, request.names)
    with replacing_folder(options.out, is_written) as draft:
        _write_assets(draft, scene, request)
    for note in (note for asset in scene.objects for note in asset.notes):
        print(note)
    print(cost_table(scene.objects[0].costs))
    print(stats.table(), COLUMNS, sep="\n")
    for line in compared:
        print(line)
    try:
        _write_pictures(options.out, scene, request)
    finally:  # the objects are there, also where Ctrl-C ends the pictures
        written = sorted(str(path.relative_to(options.out)) for path in options.out.rglob("*.*"))
        print(f"{options.out}: {', '.join(written)}")


def load_lifter(request: CheckedLift, keep: bool = False) -> Lifter:
    """The model, with the decoders that are asked for; with `keep` its parts stay in memory,
    unless they are large."""
    from loci.geometry.mesh.bake import need_texturing
    from loci.geometry.mesh.simplify import need_decimation
    from loci.objects.lifter import Lifter

    options, device = request.options, choose_device(request.options.device)
    if options.faces is not None:
        need_decimation()
    if options.texture is not None:
        need_texturing()
    dtype = choose_dtype(options.dtype, device, request.model)
    keep = keep and weight_bytes(request.model) < LARGE
    weights = _choose_placement(options, request.model, dtype)
    return Lifter.from_pretrained(request.model, device, dtype, keep, weights)


def _choose_placement(options: LiftOptions, model: Path, dtype: torch.dtype) -> WeightPlacement:
    """Where the weights go; prints what a large model will need, before it is read."""
    from loci.app.ram import choose_placement, lift_ram, parse_ram

    need, int8 = lift_ram(model, dtype), options.dtype == "int8"
    if need is None:
        return "int8" if int8 else "resident"
    memory = None if options.max_ram is None else parse_ram(options.max_ram)
    weights = choose_placement(need, memory, int8, "expected more, or --dtype bfloat16")
    if need.is_large:
        print(f"{options.model} {need.described(weights)}")
    return weights


def _run_lift(request: CheckedLift, lifter: Lifter, preset: Preset, stats: Stats) -> Scene:
    """The objects, in the order of the masks, as they leave the model."""
    from loci.objects.inputs.observation import ObservedPicture

    options = request.options
    picture = ObservedPicture.read(
        *(request.pixels, options.pointmap, options.pointmap_frame, options.fov),
        intrinsics=request.intrinsics,
        depth_scale=options.depth_scale,
    )
    masks = [picture.mask(*given) for given in zip(request.masks, request.names, strict=True)]
    decoders = tuple(dict.fromkeys(options.decoders)) or lifter.config.decoders
    with _progress_bar(lifter, len(decoders), len(masks), preset) as progress:
        scene = lifter.lift(
            *(picture, masks, request.names, options.seed),
            decoders=decoders,
            guesses=options.guesses,
            speed=preset,
            stats=stats,
            photo=options.photo,
            open_mesh=options.open,
            progress=progress,
        )
    return scene.grounded() if options.ground else scene


def _compare_to_exact(request: CheckedLift, lifter: Lifter, scene: Scene) -> list[str]:
    """For every object a line on how it differs from that of an exact run."""
    from loci.acceleration.presets import get_preset
    from loci.acceleration.stats import Stats

    exact = _run_lift(request, lifter, get_preset("exact"), Stats())
    pairs = zip(request.names, scene.objects, exact.objects, strict=True)
    return [f"{name} {_describe_difference(found, reference)}" for name, found, reference in pairs]


def _describe_difference(found: Asset, exact: Asset) -> str:
    """One line: voxels (IoU), and the pose's shift, turn and size against those of an exact run."""
    from loci.geometry.rotations import degrees_apart, quaternion_to_matrix

    first, second = ({tuple(voxel) for voxel in a.voxels.tolist()} for a in (found, exact))
    shared = len(first & second) / len(first | second)
    shift = (found.pose.translation - exact.pose.translation).norm()
    size = float(exact.pose.scale[0, 0])
    ratio = float(found.pose.scale[0, 0]) / size
    rotations = [quaternion_to_matrix(asset.pose.rotation) for asset in (found, exact)]
    turn = float(degrees_apart(*rotations))
    return (
        f"against an exact run: {shared:.0%} of the voxels the same "
        f"(IoU), moved by {float(shift) / size:.1%} of the object's size, turned by {turn:.1f} "
        f"degrees, size {ratio - 1:+.1%}"
    )


def _postprocess_meshes(scene: Scene, options: LiftOptions, names: list[str]) -> Scene:
    """With meshes as they are asked for; says where one has more faces than that."""
    objects = scene.objects
    if options.faces is not None:
        objects = tuple(asset.simplified(options.faces, not options.open) for asset in objects)
    if options.faces is not None or options.texture is not None:
        objects = tuple(asset.cleaned(not options.open) for asset in objects)
    for name, asset in zip(names, objects, strict=True):
        faces = 0 if asset.mesh is None else len(asset.mesh.faces)
        if options.faces is not None and faces > FACES_SLACK * options.faces:
            print(f"{name}: {faces} faces; fewer would break its disconnected pieces")
    if options.texture is not None:
        objects = tuple(asset.textured(options.texture) for asset in objects)
    return replace(scene, objects=objects)


@contextmanager
def _progress_bar(
    lifter: Lifter, decoders: int, objects: int, preset: Preset
) -> Iterator[Callable[[Progress], None]]:
    """A bar over all steps of all stages."""
    from tqdm import tqdm

    from loci.objects.sampling import PresetSampler

    config, sampler = lifter.config, PresetSampler(preset)
    flows = sampler.fewer_steps(config.structure), sampler.fewer_steps(config.slat)
    parts = len(config.parts) - len(config.decoders) + decoders
    steps = sum(flow.steps for flow in flows) + parts - len(flows)
    with tqdm(total=objects * steps, unit=" steps", delay=1e-3) as bar:

        def show(progress: Progress) -> None:
            bar.set_description(progress.stage.replace("_", " "), refresh=False)
            bar.update()

        yield show


def _write_assets(folder: Path, scene: Scene, request: CheckedLift) -> None:
    """Write splats, meshes, poses and masks into the draft of the output folder."""
    from PIL import Image

    if len(scene) == 1:
        scene.objects[0].export(folder)
        scene.export_placed(folder)
    else:
        scene.export(folder)
    if request.options.web is not None:
        for number, asset in enumerate(scene.objects, start=1):
            asset.export_web(_object_folder(folder, scene, number), request.options.web)
    for number, mask in enumerate(request.masks, start=1):
        if number > request.mask_files:
            Image.fromarray(mask).save(_object_folder(folder, scene, number) / MASK)


def _write_pictures(folder: Path, scene: Scene, request: CheckedLift) -> None:
    """Write previews and turntables, each whole or not at all.

    A turntable has as many frames as can be drawn in about TURNTABLE_SECONDS, by the time that the
    preview took.
    """
    from tqdm import tqdm

    from loci.app.lift.lift_views import (
        FRAMES,
        PREVIEW_VIEWS,
        object_preview,
        object_turntable,
        scene_preview,
    )
    from loci.io.files import replacing
    from loci.io.video import VideoWriter

    pixels, masks, alone = request.pixels, request.masks, len(scene) == 1
    total = 2 * len(scene) + int(not alone)
    with tqdm(total=total, unit=" pictures", delay=1e-3, desc="pictures") as bar:
        if not alone:
            with replacing(folder / PREVIEW) as draft:
                scene_preview(scene, pixels, masks).save(draft, format="png")
            bar.update()
        for number, (asset, mask) in enumerate(zip(scene.objects, masks, strict=True), start=1):
            object_folder, began = _object_folder(folder, scene, number), time.perf_counter()
            with replacing(object_folder / PREVIEW) as draft:
                object_preview(asset, pixels, mask).save(draft, format="png")
            bar.update()
            one = (time.perf_counter() - began) / PREVIEW_VIEWS
            frames = min(FRAMES, max(MIN_FRAMES, int(TURNTABLE_SECONDS / one)))
            fps = max(1, round(FPS * frames / FRAMES))
            with VideoWriter(object_folder / TURNTABLE, fps) as video:
                video.write(object_turntable(asset, SIDE, frames))
            bar.update()


def _object_folder(folder: Path, scene: Scene, number: int) -> Path:
    """Where the files of an object are written: in a folder of its own if it is one of several."""
    from loci.objects.scene import object_name

    return folder if len(scene) == 1 else folder / object_name(number)
