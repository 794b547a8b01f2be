"""Which objects are never trained on, and the rule by which they were chosen.

Whole families (files of one library whose names differ in a number at most) are drawn, some of
every category. Then every object that is nearly the same shape as one of them is held out too, so
that no near-duplicate is left to train on. The result is the list `held_out_objects.txt`.
"""

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loci.data.mesh_cleaning import Unusable, check_name
from loci.data.object_source import Source, find_sources
from loci.data.objects import ObjectSet
from loci.errors import LociError
from loci.files import replacing

LIST = "held_out_objects.txt"
SHARE = 0.1
LARGEST_FAMILY = 4
ALIKE = 0.8  # overlap of volumes from which two objects are near-duplicates
RESOLUTION = 32


def held_out_names() -> frozenset[str]:
    """The names of the objects that `loci data objects` puts into "test"."""
    text = (files("loci.data") / LIST).read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


def hold_out(source: Path, out: Path, objects: Path | None = None) -> None:
    """Write the list of held-out objects.

    Args:
        source: the meshes, as for `loci data objects`.
        out: the text file to write.
        objects: what `loci data objects` has made of them. Without it, only names are looked at.
    """
    drawn = draw(find_sources(source))
    twins: dict[str, str] = {}
    if objects is not None:
        volumes: dict[str, Tensor] = {}
        for split in ("train", "test"):
            held = ObjectSet.load(objects / split)
            volumes |= {record.name: volume(held, i) for i, record in enumerate(held.records)}
        drawn = [name for name in drawn if name in volumes]
        twins = near_duplicates(drawn, volumes)
    lines = [
        "# Objects that are never trained on: made by loci data hold-out.",
        f"# {len(drawn)} drawn by family and category, then {len(twins)} nearly of the same shape.",
        *sorted(drawn),
        *(f"# like {twin}\n{name}" for name, twin in sorted(twins.items())),
    ]
    with replacing(out) as draft:
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{out}: {len(drawn) + len(twins)} objects held out")


def family(source: Source) -> str:
    """Name of a library or folder and of the file, without numbers: one family."""
    return re.sub(r"[\d_-]+", "", source.name)


def draw(sources: Sequence[Source], share: float = SHARE) -> list[str]:
    """Small families in the order of a checksum, until each category has its share.

    Raises:
        LociError: when there are too few objects to hold any out.
    """
    usable = [source for source in sources if _named_well(source)]
    families: dict[str, list[Source]] = defaultdict(list)
    for source in usable:
        families[family(source)].append(source)
    wanted = Counter(source.category for source in usable)
    taken: Counter[str] = Counter()
    drawn: list[str] = []
    for name in sorted(families, key=lambda name: zlib.crc32(name.encode())):
        members = families[name]
        category = members[0].category
        room = round(share * wanted[category]) - taken[category]
        if len(members) <= min(LARGEST_FAMILY, room):
            taken[category] += len(members)
            drawn += [member.name for member in members]
    if not drawn:
        raise LociError(f"{len(usable)} objects, too few to hold any out")
    return drawn


def near_duplicates(
    drawn: Sequence[str], volumes: Mapping[str, Bool[Tensor, "r r r"]]
) -> dict[str, str]:
    """Objects that overlap a held-out one, or one found so, almost wholly: name -> which one.

    Turned by quarters around the vertical and mirrored, too.
    """
    names = sorted(volumes)
    flat = torch.stack([volumes[name].flatten() for name in names]).float()
    found: dict[str, str] = {}
    fresh = list(drawn)
    while fresh:
        name = fresh.pop(0)
        for row in _likeness(volumes[name], flat).ge(ALIKE).nonzero()[:, 0].tolist():
            if names[row] not in drawn and names[row] not in found:
                found[names[row]] = name
                fresh.append(names[row])
    return found


def volume(objects: ObjectSet, index: int) -> Bool[Tensor, "r r r"]:
    """What an object fills: its inside and its surface."""
    inside = objects.sdf(index)[None, None, 1:-1:2, 1:-1:2, 1:-1:2] < 0
    return inside[0, 0] | objects.occupancy(index, RESOLUTION)


def _likeness(one: Bool[Tensor, "r r r"], flat: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """Intersection over union with each row, at the best of eight turns."""
    turned = [torch.rot90(mirrored, k) for mirrored in (one, one.flip(0)) for k in range(4)]
    poses = torch.stack([pose.flatten() for pose in turned]).float()
    common = flat @ poses.T
    union = flat.sum(dim=1, keepdim=True) + poses.sum(dim=1) - common
    return (common / union).amax(dim=1)


def _named_well(source: Source) -> bool:
    try:
        check_name(source.title, source.opening)
    except Unusable:
        return False
    return True
