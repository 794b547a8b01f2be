"""The picture that a model is shipped with, so that there is something to lift."""

from pathlib import Path

from loci.data.objects import ObjectRecord, ObjectSet
from loci.files import replacing

EXAMPLE, MASK = "example.png", "example_mask.png"
PREFERRED = ("blend-swap-cc-0-winchestersofa", 3)
"""Name and view of the held-out object that is shown if it is there: dedicated to the public."""
FREE = "CC0-1.0"
BEHIND = (196, 200, 206)


def write_example(objects: ObjectSet, folder: Path) -> ObjectRecord:
    """Write `example.png` and `example_mask.png`, and tell which object they show.

    It is the preferred one, or the first that is free of conditions, or the first of all.
    """
    number, view = chosen(objects)
    seen = objects.view(number, view, BEHIND)
    for name, pixels in ((EXAMPLE, seen.image), (MASK, seen.mask)):
        _save(folder / name, pixels.numpy())
    return objects.records[number]


def chosen(objects: ObjectSet) -> tuple[int, int]:
    """Number and view of the example."""
    names = [record.name for record in objects.records]
    if PREFERRED[0] in names:
        return names.index(PREFERRED[0]), min(PREFERRED[1], objects.views - 1)
    free = (n for n, record in enumerate(objects.records) if record.licence == FREE)
    return next(free, 0), 0


def _save(path: Path, pixels) -> None:
    from PIL import Image

    with replacing(path) as part:
        Image.fromarray(pixels).save(part, format="PNG")
