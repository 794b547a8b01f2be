"""Options of `loci lift` and their validation, before a model is loaded.

Nothing here imports torch, so that a mistake is told at once.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from loci.app.device import Dtype, check_device
from loci.app.ram import parse_ram
from loci.errors import LociError, check_seed, check_tolerance
from loci.io.config_files import LIFTER_NAME, read_json
from loci.io.files import check_folder_writable
from loci.io.images import LIFT_ASPECT_RATIO, check_aspect, read_pixels
from loci.io.intrinsics import Intrinsics, read_intrinsics
from loci.io.models import SHIPPED, find_model
from loci.objects.inputs.cleaning import check_mask, overlaps, touches_edge
from loci.objects.inputs.geometry_files import DEPTH_SCALE, read_geometry
from loci.objects.inputs.masks import check_not_picture, read_alpha, read_mask

if TYPE_CHECKING:
    from jaxtyping import Bool, UInt8

DecoderName = Literal["gaussian_decoder", "gaussian_decoder_4", "mesh_decoder"]
ONE_FILE = (".ply", ".splat", ".glb", ".obj")
BOUNDS = {"guesses": (1, 64), "faces": (12, 1_000_000), "texture": (16, 8192)}
"""Least and most of what is counted."""
# What this command writes, and may replace.
WRITTEN = re.compile(
    r"splat\.ply|web\.(ply|splat)|mesh\.glb|pose\.json|preview\.png|turntable\.mp4|mask\.png|scene\.(ply|glb)"
    r"|object-\d+"
)


@dataclass(frozen=True)
class LiftOptions:
    """What `loci lift` is asked for."""

    picture: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PICTURE]")] = None
    """The picture; the shipped example, with its mask, if none is given."""
    mask: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], tyro.conf.arg(metavar="FILE")] = ()
    """White (or opaque) on the object, as large as the picture, or a COCO mask in .json; again for
    every further object. A picture with transparency needs none."""
    label: Annotated[tyro.conf.UseAppendAction[tuple[int, ...]], tyro.conf.arg(metavar="N")] = ()
    """The object that has this number in the mask, which holds labels (or annotations); again for
    more."""
    box: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[int, int, int, int], ...]],
        tyro.conf.arg(metavar="LEFT TOP RIGHT BOTTOM"),
    ] = ()
    """A box in pixels around an object, which is then segmented, in place of a mask; again for
    more."""
    point: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[int, int], ...]],
        tyro.conf.arg(metavar="COLUMN ROW"),
    ] = ()
    """A pixel on an object, which is then segmented, in place of a mask; a box is more
    reliable."""
    segmentation: Literal["auto", "sam", "u2net", "grabcut"] = "auto"
    """How objects in boxes and at points are segmented: by Segment Anything, which needs --sam; by
    U2-Net, boxes only; or by colour. auto takes the first of them whose weights there are."""
    sam: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """A checkpoint of Segment Anything in the layout of transformers, as facebook/sam-vit-base."""
    u2net: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of U2-Net, u2netp.onnx; those of the package rembg are found without."""
    pointmap: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Geometry in .npy or .npz: points [h, w, 3] in any unit, NaN unknown, or depths along z
    [h, w]; or depths in a PNG of 16 bits, 0 unknown; or an EXR of either."""
    depth_scale: Annotated[float, tyro.conf.arg(metavar="N")] = DEPTH_SCALE
    """What a PNG stores for a depth of 1 (1000: millimetres for metres)."""
    pointmap_frame: Literal["pytorch3d", "opencv"] = "pytorch3d"
    """Axes of points; pytorch3d: x left, y up, z forward; opencv: x right, y down, z forward."""
    fov: Annotated[float | None, tyro.conf.arg(metavar="DEGREES")] = None
    """Horizontal field of view: needed for depths; 50 is assumed where there is no pointmap."""
    intrinsics: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FX FY CX CY|FILE")] = ()
    """Instead of --fov, and for cropped pictures: focal lengths and principal point in pixels, or a
    file with them or a 3x3 camera matrix (.txt, .npy, .json)."""
    ground: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Lay out several objects without a pointmap as if all stood on one plane, in units of the
    first one's distance."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = "home"
    """A shipped model, a folder, the published checkpoints of SAM 3D Objects, or a hub id."""
    device: str = "auto"
    """Where to compute: cpu, cuda, mps; auto takes the first there is of cuda, mps, cpu."""
    dtype: Dtype = "auto"
    """Element type of the weights: auto is bfloat16 for large models on CUDA, float32 otherwise;
    int8 are weights of a byte with bfloat16 for the rest."""
    max_ram: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None
    """The most memory (RAM) that a large model may take, such as 8GB: its weights are streamed from
    disk if they do not fit. All that is free if not given."""
    seed: int = 0
    """Seed of the noise: another seed, another guess at the hidden parts."""
    guesses: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Generate N shapes and keep the one that fits mask and depths best; as the model if unset."""
    speed: Literal["exact", "fast", "faster"] = "exact"
    """Preset: exact (no approximation), fast (no visible loss), faster."""
    tolerance: Annotated[float | None, tyro.conf.arg(metavar="ERROR")] = None
    """Largest relative error of a flow, in place of the preset's steps, from 0 to 1. home, which
    has few steps to skip, saves a sixth of its evaluations at 0.05 and a third at 0.4; --speed
    saves more."""
    decoders: tuple[DecoderName, ...] = ()
    """Run only these; gaussian_decoder_4, where the model has it, makes fewer splats."""
    faces: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Simplify the mesh to about N faces, without hidden parts and small holes."""
    texture: Annotated[int | None, tyro.conf.arg(metavar="PIXELS")] = None
    """Clean the mesh likewise, and bake a texture of this many pixels a side."""
    photo: bool = True
    """Take the picture's own colours where its camera saw the object, as lit there; without, all
    colours are generated, as if evenly lit."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Keep the raw surface of the mesh, which may have a border; otherwise it is closed."""
    web: Literal["y-up", "y-down"] | None = None
    """Write the splats for web viewers as well, web.ply and web.splat: with the axes of mesh.glb,
    or with y down."""
    verify: bool = False
    """Lift a second time, exactly, and report what differs: voxels, place, turn and size."""
    batch: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER|LIST")] = None
    """A folder in place of a picture: pictures NAME.png or .jpg with masks NAME_mask.png (and
    NAME_mask_2.png and so on), or a list: lines PICTURE,MASK,... in a .csv, or options in a .jsonl.
    Each is written to OUT/NAME, and left out where it is there."""
    workers: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """With --batch: processes, each with its own copy of the model; GPUs take turns."""
    out: Path = Path("lifted")
    """The folder to write; what this command wrote there before is replaced."""


@dataclass(frozen=True)
class CheckedLift:
    """A lift that was checked.

    Attributes:
        pixels: of the picture.
        masks: of the objects: those of files first, then of boxes, then of points.
        names: what the masks are called in messages.
        intrinsics: of the camera, if they are given.
        notes: what was changed in the masks, and what is doubtful about them.
    """

    options: LiftOptions
    model: Path
    pixels: UInt8[np.ndarray, "h w 3"]
    masks: list[Bool[np.ndarray, "h w"]]
    names: list[str]
    intrinsics: Intrinsics | None
    notes: list[str]

    @property
    def mask_files(self) -> int:
        """How many of the masks come from files; the others were segmented here."""
        return len(self.masks) - len(self.options.box) - len(self.options.point)


def check_request(options: LiftOptions) -> CheckedLift:
    """Reads and checks what is asked for, and segments the objects in boxes and at points.

    Raises:
        LociError: naming the first option or file that is wrong.
    """
    _check_options(options)
    _check_output(options)
    picture, mask_files = options.picture, options.mask
    if picture is None:
        picture = SHIPPED / "home" / "example.png"
        mask_files = (SHIPPED / "home" / "example_mask.png",)
    pixels = read_pixels(picture)
    check_aspect(pixels, LIFT_ASPECT_RATIO)
    size = pixels.shape[:2]
    intrinsics = _intrinsics(options, size)
    if options.pointmap is not None:
        read_geometry(options.pointmap, options.depth_scale)
    model = find_model(options.model, LIFTER_NAME)
    _check_model(options, model)
    masks, names = _given(options, picture, mask_files, size)
    masks += _segmented(options, pixels)
    names += [f"box {' '.join(map(str, box))}" for box in options.box]
    names += [f"point {' '.join(map(str, point))}" for point in options.point]
    cleaned = [check_mask(mask, pixels, name) for mask, name in zip(masks, names, strict=True)]
    notes = [note for mask in cleaned for note in mask.notes]
    masks = [mask.inside for mask in cleaned]
    for name, mask in zip(names, masks, strict=True):
        if touches_edge(mask):
            notes.append(f"{name}: touches the picture's edge; what is cut off there is guessed")
    notes += overlaps(masks, names)
    if options.ground and (len(masks) == 1 or options.pointmap is not None):
        notes.append("--ground: one object or a pointmap, nothing to lay out")
    elif options.ground:
        notes.append(
            "no pointmap: the objects are laid out as if all stood on one plane, the first at "
            "distance 1"
        )
    elif len(masks) > 1 and options.pointmap is None:
        notes.append(
            "no pointmap: how far away the objects are is unknown; each is put at distance 1, or "
            "on one plane with --ground"
        )
    return CheckedLift(options, model, pixels, masks, names, intrinsics, notes)


def _given(
    options: LiftOptions, picture: Path, mask_files: tuple[Path, ...], size: tuple[int, int]
) -> tuple[list[Bool[np.ndarray, "h w"]], list[str]]:
    """The masks from files, or what is opaque in the picture, and their names."""
    if not (mask_files or options.box or options.point):
        alpha = read_alpha(picture)
        if alpha is None:
            raise LociError(
                "--mask: no object is selected, expected a mask, a --box or a --point for each"
            )
        return [alpha], [str(picture)]
    for path in mask_files:
        check_not_picture(path, picture, str(path))
    if options.label:
        names = [f"{mask_files[0]} label {label}" for label in options.label]
        return [read_mask(mask_files[0], "mask", size, label) for label in options.label], names
    return [read_mask(path, size=size) for path in mask_files], [*map(str, mask_files)]


def _intrinsics(options: LiftOptions, size: tuple[int, int]) -> Intrinsics | None:
    given = options.intrinsics
    if not given:
        return None
    if len(given) == 1:
        return read_intrinsics(given[0], *size)
    try:
        return read_intrinsics([float(word) for word in given], *size, name="--intrinsics")
    except ValueError as error:
        raise LociError("--intrinsics: no numbers, expected FX FY CX CY or one file") from error


def _check_options(options: LiftOptions) -> None:
    if options.max_ram is not None:
        parse_ram(options.max_ram)
    selected = options.mask or options.box or options.point
    if options.picture is None and (selected or options.pointmap):
        raise LociError("PICTURE is required with --mask, --box, --point and --pointmap")
    if options.picture is not None and not options.picture.exists():
        raise LociError(f"{options.picture}: no such file")
    for path in (*options.mask, options.pointmap):
        if path is not None and not path.is_file():
            raise LociError(f"{path}: cannot be read ({_reason(path)})")
    if options.label and len(options.mask) != 1:
        raise LociError(f"--label: {len(options.mask)} masks, expected one --mask with labels")
    if options.pointmap is None and options.pointmap_frame != "pytorch3d":
        raise LociError("--pointmap-frame: given without --pointmap, expected both or neither")
    if options.fov is not None and not 0 < options.fov < 180:
        raise LociError(f"--fov must be between 0 and 180 degrees, got {options.fov:g}")
    if options.fov is not None and options.intrinsics:
        raise LociError("--fov: given with --intrinsics, expected one of them")
    if not 0 < options.depth_scale < math.inf:
        raise LociError(f"--depth-scale: {options.depth_scale:g}, expected more than 0")
    for name, (least, most) in BOUNDS.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise LociError(f"--{name}: {value}, expected at least {least}")
        if value is not None and value > most:
            raise LociError(f"--{name}: {value}, expected at most {most}")
    chosen = set(options.decoders)
    if chosen >= {"gaussian_decoder", "gaussian_decoder_4"}:
        raise LociError("--decoders: gaussian_decoder and gaussian_decoder_4, expected one of them")
    if (options.faces or options.texture) and chosen and "mesh_decoder" not in chosen:
        raise LociError("--decoders: no mesh_decoder, expected it with --faces and --texture")
    if options.web and chosen == {"mesh_decoder"}:
        raise LociError("--decoders: mesh_decoder alone makes no splats, expected no --web")
    check_seed(options.seed, "--seed")
    check_tolerance(options.tolerance)
    check_device(options.device)


def _check_output(options: LiftOptions) -> None:
    if options.out.suffix.lower() in ONE_FILE:
        raise LociError(f"--out: {options.out}, expected the name of a folder for several files")
    out = options.out.resolve()
    for given in filter(None, (options.picture, options.pointmap, *options.mask)):
        if out in given.resolve().parents:
            raise LociError(
                f"{given}: would be replaced by what is written, expected another --out"
            )
    check_folder_writable(options.out, is_written)


def is_written(name: str) -> bool:
    """Whether this command writes files of that name, and may replace them."""
    return WRITTEN.fullmatch(name) is not None


def _reason(path: Path) -> str:
    try:
        path.open("rb").close()
    except OSError as error:
        return error.strerror or "no file"
    return "no file"


def _check_model(options: LiftOptions, model: Path) -> None:
    """Whether the model's configuration, if it has one, goes with what is asked for."""
    path = model / LIFTER_NAME
    config: Any = read_json(path) if path.is_file() else {}
    decoders = options.decoders or (config.get("decoders") if isinstance(config, dict) else None)
    if (options.faces or options.texture) and decoders and "mesh_decoder" not in decoders:
        raise LociError(f"{options.model} has no mesh decoder; remove --faces and --texture")


def _segmented(
    options: LiftOptions, pixels: UInt8[np.ndarray, "h w 3"]
) -> list[Bool[np.ndarray, "h w"]]:
    if not options.box and not options.point:
        return []
    if options.sam is not None and options.segmentation in ("auto", "sam"):
        from loci.objects.inputs import sam, segmentation

        for box in options.box:
            segmentation.check_box(pixels, box)
        for point in options.point:
            segmentation.check_point(pixels, point)
        network = sam.load_sam(options.sam)
        boxes = [sam.mask_from_box(network, pixels, box) for box in options.box]
        return boxes + [sam.mask_from_point(network, pixels, point) for point in options.point]
    if options.segmentation == "sam":
        raise LociError("--segmentation: sam, expected --sam FOLDER too")
    from loci.objects.inputs.segmentation import mask_from_point

    boxes = [_from_box(options, pixels, box) for box in options.box]
    return boxes + [mask_from_point(pixels, point) for point in options.point]


def _from_box(
    options: LiftOptions, pixels: UInt8[np.ndarray, "h w 3"], box: tuple[int, int, int, int]
) -> Bool[np.ndarray, "h w"]:
    from loci.objects.inputs import salient, segmentation

    automatic = options.segmentation == "auto"
    weights = None if options.segmentation == "grabcut" else salient.find_weights(options.u2net)
    if weights is None:
        if not automatic and options.segmentation != "grabcut":
            raise LociError(
                "--segmentation: no u2netp.onnx found, expected --u2net FILE or the package rembg"
            )
        return segmentation.mask_from_box(pixels, box)
    try:
        return salient.mask_from_box(pixels, box, weights)
    except LociError:
        if not automatic or options.u2net is not None:
            raise
        return segmentation.mask_from_box(pixels, box)
