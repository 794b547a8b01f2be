"""`loci lift --batch`: a folder of pictures with their masks, by a model that is loaded once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loci.errors import LociError

if TYPE_CHECKING:
    from loci.app.lift_request import LiftOptions

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MASK = "_mask"


def lift_batch(options: LiftOptions, folder: Path) -> None:
    """Lifts what is in a folder, one picture after the other.

    A picture that cannot be lifted is named, and the others go on. What is there already, as after
    an interruption, is left as it is.

    Raises:
        LociError: for a folder without pictures that have masks, options that belong to one
            picture, or, at the end, when pictures have failed.
    """
    from loci.app.lift import lift_one, load_lifter
    from loci.app.lift_request import check_request

    given = (options.picture, options.mask, options.label, options.box, options.point)
    if any(given) or options.pointmap is not None:
        raise LociError("--batch: given with a picture, masks or a pointmap, expected it alone")
    found = find_pictures(folder)
    lifter, failed = None, []
    for number, (picture, masks) in enumerate(found.items(), start=1):
        out = options.out / picture.stem
        print(f"[{number}/{len(found)}] {picture}")
        if out.exists():
            print(f"{out}: exists, left as it is")
            continue
        try:
            one = replace(options, batch=None, picture=picture, mask=tuple(masks), out=out)
            request = check_request(one)
            lifter = lifter or load_lifter(request)
            lift_one(request, lifter)
        except LociError as error:
            failed.append(picture.name)
            print(f"{picture}: failed: {error}")
    if failed:
        raise LociError(f"--batch: {len(failed)} of {len(found)} failed: {', '.join(failed)}")


def find_pictures(folder: Path) -> dict[Path, list[Path]]:
    """The pictures of a folder that have masks beside them, and those masks, by name.

    Raises:
        LociError: for no such folder, or none in it.
    """
    if not folder.is_dir():
        raise LociError(f"--batch: {folder}: no such folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    found = {
        path: [m for m in files if m.stem == path.stem + MASK]
        + [m for m in files if m.stem.startswith(path.stem + MASK + "_")]
        for path in files
        if MASK not in path.stem
    }
    found = {path: masks for path, masks in found.items() if masks}
    if not found:
        raise LociError(f"--batch: {folder}: no NAME.png with NAME_mask.png in it")
    return found
