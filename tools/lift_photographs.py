"""A sheet of photographs that `loci lift` has lifted, as docs/objects.md shows it.

    python tools/lift_photographs.py PANORAMAS --out docs/lift_photographs.png --u2net u2netp.onnx

Four photographs come with scikit-image; eight are views into two 360-degree photographs (CC0) that
the folder PANORAMAS holds: lab.jpg of the npm package @pmndrs/assets, and
drei_st_fagans_interior_1k.jpg, st_fagans_interior_1k.hdr of pmndrs/drei-assets as a picture. Every
object is selected by a box, and segmented and lifted as by the command with its defaults. Its tiles
show what was segmented, the object in its place, and the object from the right, back and left.
"""

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import skimage
from PIL import Image

from loci import Lifter
from loci.app.lift.lift_request import LiftOptions, check_request
from loci.app.lift.lift_views import object_preview
from loci.envs.panorama import Panorama
from loci.errors import LociError
from loci.io.video import contact_sheet

SIDE = 256
"""Pixels of a view into a panorama."""
TILE = 224
CAPTION, GAP = 14, 4
HALL, LAB = "drei_st_fagans_interior_1k.jpg", "lab.jpg"
LABELS = ("", "in its place", "right", "back", "left")
PARTS = (0, 1, 3, 4, 5)
"""Of an object's preview: picture, in its place, right, back, left."""


class Photograph(NamedTuple):
    """An object in a photograph; `view` is heading, pitch and field of view in a panorama."""

    name: str
    file: str
    box: tuple[int, int, int, int]
    view: tuple[float, float, float] | None = None


PHOTOGRAPHS = (
    Photograph("motorcycle", "motorcycle_left.png", (90, 65, 690, 458)),
    Photograph("cup and saucer", "coffee.png", (74, 12, 484, 390)),
    Photograph("rocket", "rocket.jpg", (298, 122, 344, 412)),
    Photograph("coin, a grey picture", "coins.png", (291, 10, 354, 73)),
    Photograph("long bench", HALL, (46, 86, 196, 224), (100, -32, 65)),
    Photograph("long bench, behind", HALL, (16, 92, 210, 204), (-8, -34, 70)),
    Photograph("short bench", HALL, (62, 76, 184, 186), (36, -16, 30)),
    Photograph("sofa", HALL, (10, 80, 204, 192), (118, -16, 40)),
    Photograph("sign", HALL, (93, 64, 168, 206), (161, -20, 40)),
    Photograph("chair", LAB, (90, 94, 174, 252), (-60, -27, 45)),
    Photograph("motor", LAB, (46, 98, 182, 180), (-17, -38, 70)),
    Photograph("motor on its block", LAB, (56, 46, 202, 194), (118, -30, 50)),
)


def photograph(shown: Photograph, panoramas: Path) -> Image.Image:
    if shown.view is None:
        return Image.open(Path(skimage.__file__).parent / "data" / shown.file).convert("RGB")
    heading, pitch, fov = shown.view
    pixels = np.asarray(Image.open(panoramas / shown.file).convert("RGB"))
    return Image.fromarray(Panorama(pixels, SIDE, fov, heading=heading, pitch=pitch).frame())


def row(shown: Photograph, lifter: Lifter, panoramas: Path, u2net: Path | None) -> np.ndarray:
    """The tiles of one object."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        photograph(shown, panoramas).save(path)
        fov = None if shown.view is None else shown.view[2]
        out = Path(folder) / "out"
        options = LiftOptions(picture=path, box=(shown.box,), fov=fov, u2net=u2net, out=out)
        request = check_request(options)
    try:
        asset = lifter(request.pixels, request.masks[0], fov=fov)
    except LociError as error:
        print(f"{shown.name}: {error}")
        tiles = np.full((len(PARTS), TILE, TILE, 3), 255, np.uint8)
        inside = request.masks[0][:, :, None]
        picture = Image.fromarray(np.where(inside, request.pixels, request.pixels // 3))
        picture.thumbnail((TILE, TILE))
        tiles[0, : picture.height, : picture.width] = np.asarray(picture)
        return tiles
    print(shown.name, *asset.notes, sep="; ", flush=True)
    sheet = np.asarray(object_preview(asset, request.pixels, request.masks[0]))
    step = TILE + GAP
    corners = [divmod(part, 3) for part in PARTS]
    return np.stack(
        [
            sheet[GAP + CAPTION + r * (step + CAPTION) :, GAP + c * step : GAP + c * step + TILE][
                :TILE
            ]
            for r, c in corners
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="A sheet of lifted photographs.")
    parser.add_argument("panoramas", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--u2net", type=Path)
    given = parser.parse_args()
    lifter = Lifter.from_pretrained("home", keep=True)
    rows = [row(shown, lifter, given.panoramas, given.u2net) for shown in PHOTOGRAPHS]
    labels = [[shown.name, *LABELS[1:]] for shown in PHOTOGRAPHS]
    sheet = contact_sheet(
        np.concatenate(rows), [label for line in labels for label in line], columns=2 * len(PARTS)
    )
    sheet = sheet.resize((sheet.width * 6 // 10, sheet.height * 6 // 10), Image.Resampling.LANCZOS)
    sheet.save(given.out, optimize=True)


if __name__ == "__main__":
    main()
