"""`loci lift`: from a picture and masks to splats, meshes, poses, a preview and a turntable."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro
from jaxtyping import Bool, UInt8

from loci.app.walk import Dtype, chosen_device, chosen_dtype
from loci.errors import LociError, check_seed
from loci.io.files import replacing_folder

if TYPE_CHECKING:
    from loci.caching.presets import Preset as Preset
    from loci.objects.asset import Scene
    from loci.objects.lifter import Lifter
    from loci.objects.pipeline import Progress


Decoder = Literal["gaussian_decoder", "gaussian_decoder_4", "mesh_decoder"]
PREVIEW, TURNTABLE, MASK = "preview.png", "turntable.mp4", "mask.png"
# What this command writes, and may replace.
OURS = re.compile(
    r"splat\.ply|mesh\.glb|pose\.json|preview\.png|turntable\.mp4|mask\.png|scene\.(ply|glb)"
    r"|object-\d+"
)
SIDE, FPS = 256, 24


@dataclass(frozen=True)
class Lift:
    """What `loci lift` is asked for."""

    picture: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PICTURE]")] = None
    """The picture; the shipped example, with its mask, if none is given."""
    mask: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], tyro.conf.arg(metavar="FILE")] = ()
    """White (or opaque) on the object, as large as the picture; again for every further object."""
    box: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[int, int, int, int], ...]],
        tyro.conf.arg(metavar="LEFT TOP RIGHT BOTTOM"),
    ] = ()
    """In place of a mask: pixels around an object, which is then cut out; again for more."""
    point: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[int, int], ...]],
        tyro.conf.arg(metavar="COLUMN ROW"),
    ] = ()
    """In place of a mask: a pixel on an object, which is then cut out; less sure than a box."""
    pointmap: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Geometry in .npy: points [h, w, 3] in any unit, NaN unknown, or depths along z [h, w]."""
    pointmap_frame: Literal["pytorch3d", "opencv"] = "pytorch3d"
    """Axes of points; pytorch3d: x left, y up, z forward; opencv: x right, y down, z forward."""
    fov: Annotated[float | None, tyro.conf.arg(metavar="DEGREES")] = None
    """Horizontal field of view: needed for depths; 50 is assumed where there is no pointmap."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = "home"
    """A shipped model, a folder, the published checkpoints of SAM 3D Objects, or a hub id."""
    device: str = "auto"
    """Where to compute: cpu, cuda, mps; auto takes what is there, in the order cuda, mps, cpu."""
    dtype: Dtype = "float32"
    """What the networks compute in; the half ones where the device is made for them."""
    seed: int = 0
    """Of the noise that it begins with: another seed, another guess at what is hidden."""
    guesses: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Of so many shapes take the one that covers mask and depths best; else as the model says."""
    speed: Literal["exact", "fast", "faster"] = "exact"
    """What work may be spared: none, what is hardly seen, or more."""
    tolerance: Annotated[float | None, tyro.conf.arg(metavar="ERROR")] = None
    """In place of the speed's own: the error sparing may cause in a flow (0.02: 2% of its way)."""
    decoders: tuple[Decoder, ...] = ()
    """Make only these; gaussian_decoder_4, where the model has it, makes fewer splats."""
    faces: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Leave the mesh about so many faces at most, without what nobody sees and small holes."""
    texture: Annotated[int | None, tyro.conf.arg(metavar="PIXELS")] = None
    """Clean the mesh likewise, and paint it with a texture of so many pixels a side."""
    verify: bool = False
    """Run both flows a second time, exactly, and print the error that sparing caused."""
    out: Path = Path("lifted")
    """The folder to write; what this command wrote there before is replaced."""


def lift(options: Annotated[Lift, tyro.conf.arg(name="")]) -> None:
    """Lift objects out of a picture: a mask, a box or a point says which.

    Writes splat.ply, mesh.glb, pose.json, preview.png and turntable.mp4, and mask.png if it was
    cut out. Several objects get a folder each, numbered masks first, then boxes, then points, and
    stand together in scene.ply and scene.glb.
    """
    _check(options)
    picture, masked = _given(options)

    from loci.caching.presets import get_preset as speed
    from loci.caching.stats import Stats as Stats
    from loci.objects.costs import cost_table
    from loci.objects.inputs.observation import ObservedPicture as View
    from loci.objects.inputs.observation import touches_edge
    from loci.objects.lifter import Lifter
    from loci.objects.parts import MESH_DECODER

    with replacing_folder(options.out, lambda name: OURS.fullmatch(name) is not None) as draft:
        view = View.read(picture, options.pointmap, options.pointmap_frame, options.fov)
        masks = [view.mask(path) for path in masked] + _cut(options, view.pixels)
        names = [*map(str, masked)]
        names += [f"box {' '.join(map(str, box))}" for box in options.box]
        names += [f"point {' '.join(map(str, point))}" for point in options.point]
        for name, mask in zip(names, masks, strict=True):
            if touches_edge(mask):
                print(f"{name}: touches the picture's edge; what is cut off there is guessed")
        lifter = Lifter.from_pretrained(
            options.model, chosen_device(options.device), chosen_dtype(options.dtype)
        )
        decoders = tuple(dict.fromkeys(options.decoders)) or lifter.config.decoders
        if (options.faces or options.texture) and MESH_DECODER not in decoders:
            raise LociError(f"{options.model}: makes no mesh, expected no --faces and no --texture")
        ledger, chosen = Stats(), speed(options.speed, options.tolerance)
        with _bar(lifter, len(decoders), len(masks), chosen) as progress:
            scene = lifter.lift(
                *(view, masks, names, options.seed),
                decoders=decoders,
                guesses=options.guesses,
                speed=chosen,
                ledger=ledger,
                verify=options.verify,
                progress=progress,
            )
        scene = _finished(scene, options)
        _write(draft, scene, view.pixels, masks, cut_from=len(masked))
        written = sorted(str(path.relative_to(draft)) for path in draft.rglob("*.*"))
    print(cost_table(scene.objects[0].costs))
    print(ledger.table())
    print(f"{options.out}: {', '.join(written)}")


def _check(options: Lift) -> None:
    """Everything that can be known to be wrong before any work is done."""
    told = options.mask or options.box or options.point
    if options.picture is None and (told or options.pointmap):
        raise LociError("PICTURE: none, expected the one that masks or a pointmap belong to")
    if options.picture is not None and not told:
        raise LociError("--mask: none, expected a mask, a --box or a --point for each object")
    if options.pointmap is None and options.pointmap_frame != "pytorch3d":
        raise LociError("--pointmap-frame: given without --pointmap, expected both or neither")
    from loci.caching.presets import get_preset as speed
    from loci.geometry.mesh.bake import need_texturing
    from loci.geometry.mesh.simplify import need_decimation
    from loci.objects.asset import FILES

    if options.out.suffix.lower() in FILES:
        raise LociError(f"--out: {options.out}, expected the name of a folder for several files")
    check_seed(options.seed)
    counts = (
        ("guesses", options.guesses, 1),
        ("faces", options.faces, 4),
        ("texture", options.texture, 16),
    )
    for name, value, least in counts:
        if value is not None and value < least:
            raise LociError(f"--{name}: {value}, expected at least {least}")
    chosen = set(options.decoders)
    if chosen >= {"gaussian_decoder", "gaussian_decoder_4"}:
        raise LociError("--decoders: gaussian_decoder and gaussian_decoder_4, expected one of them")
    if (options.faces or options.texture) and chosen and "mesh_decoder" not in chosen:
        raise LociError("--decoders: no mesh_decoder, expected it with --faces and --texture")
    if options.faces is not None:
        need_decimation()
    if options.texture is not None:
        need_texturing()
    speed(options.speed, options.tolerance)
    out = options.out.resolve()
    for given in filter(None, (options.picture, options.pointmap, *options.mask)):
        if out in given.resolve().parents:
            raise LociError(
                f"{given}: would be replaced by what is written, expected another --out"
            )


def _given(options: Lift) -> tuple[Path, tuple[Path, ...]]:
    """The picture and the files of masks."""
    if options.picture is not None:
        return options.picture, options.mask
    from loci.objects.lifter import SHIPPED

    return SHIPPED / "home" / "example.png", (SHIPPED / "home" / "example_mask.png",)


def _cut(options: Lift, pixels: UInt8[np.ndarray, "h w 3"]) -> list[Bool[np.ndarray, "h w"]]:
    from loci.objects.inputs.segmentation import mask_from_box, mask_from_point

    boxes = [mask_from_box(pixels, box) for box in options.box]
    return boxes + [mask_from_point(pixels, point) for point in options.point]


def _finished(scene: Scene, options: Lift) -> Scene:
    """With meshes as they are asked for."""
    objects = scene.objects
    if options.faces is not None:
        objects = tuple(asset.simplified(options.faces) for asset in objects)
    if options.faces is not None or options.texture is not None:
        objects = tuple(asset.cleaned() for asset in objects)
    if options.texture is not None:
        objects = tuple(asset.textured(options.texture) for asset in objects)
    return replace(scene, objects=objects)


@contextmanager
def _bar(
    lifter: Lifter, decoders: int, objects: int, speed: Preset
) -> Iterator[Callable[[Progress], None]]:
    """A bar over all steps of all stages."""
    from tqdm import tqdm

    from loci.objects.sampling import SamplerRunner as Pace

    config, pace = lifter.config, Pace(speed)
    flows = pace.fewer(config.structure), pace.fewer(config.latents)
    parts = len(config.parts) - len(config.decoders) + decoders
    steps = sum(flow.steps for flow in flows) + parts - len(flows)
    with tqdm(total=objects * steps, unit=" steps") as bar:

        def show(progress: Progress) -> None:
            bar.set_description(progress.stage.replace("_", " "), refresh=False)
            bar.update()

        yield show


def _write(
    folder: Path,
    scene: Scene,
    pixels: UInt8[np.ndarray, "h w 3"],
    masks: list[Bool[np.ndarray, "h w"]],
    cut_from: int,
) -> None:
    """Everything, into a folder that is not yet there for others."""
    from PIL import Image

    from loci.app.lift_views import object_preview, object_turntable, scene_preview
    from loci.io.video import VideoWriter
    from loci.objects.asset import object_name

    alone = len(scene) == 1
    if alone:
        scene.objects[0].export(folder)
    else:
        scene.export(folder)
        scene_preview(scene, pixels, masks).save(folder / PREVIEW)
    for number, (asset, mask) in enumerate(zip(scene.objects, masks, strict=True), start=1):
        home = folder if alone else folder / object_name(number)
        if number > cut_from:
            Image.fromarray(mask).save(home / MASK)
        object_preview(asset, pixels, mask).save(home / PREVIEW)
        with VideoWriter(home / TURNTABLE, FPS) as video:
            video.write(object_turntable(asset, SIDE))
