"""Train and test splits: which objects are held out, and how they were chosen.

Whole families (objects whose names differ by a number) are drawn for testing, some of every
category. Near-duplicates of them, by shape or by name, are set aside and not used at all. The
result is `held_out_objects.txt`, with a split and a name on every line.
"""

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import torch
import tyro
from jaxtyping import Bool, Float
from torch import Tensor

from loci.data.objects.cleaning import UnusableObject, check_name
from loci.data.objects.dataset import ObjectRecord, ObjectSet
from loci.data.objects.sources import MeshSource, find_sources
from loci.errors import LociError
from loci.io.files import replacing

Split = Literal["train", "test", "aside", "packs"]
LIST = "held_out_objects.txt"
SHARE = 0.1
MAX_FAMILY = 4
MIN_DUPLICATE_IOU = 0.8
RESOLUTION = 32
MIN_NAME = 4


def held_out() -> dict[str, Split]:
    """The split of each held-out object, by name or by a pattern such as "pack-*"; all others are
    for training."""
    lines = (files("loci.data.objects") / LIST).read_text(encoding="utf-8").splitlines()
    splits: dict[str, Split] = {"test": "test", "aside": "aside", "packs": "packs"}
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return {name: splits[split] for split, name, *_ in words}


def split_of(name: str, splits: Mapping[str, Split]) -> Split:
    """The split of an object: its own, or that of the first pattern that fits its name."""
    if name in splits:
        return splits[name]
    for pattern, split in splits.items():
        if "*" in pattern and fnmatchcase(name, pattern):
            return split
    return "train"


def hold_out(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    objects: Path,
    out: Path,
) -> None:
    """Writes the list of held-out objects.

    Args:
        source: the meshes, as for `loci data objects`.
        objects: a folder that `loci data objects` has made of them.
        out: the text file to write.
    """
    volumes: dict[str, Bool[Tensor, "r r r"]] = {}
    for folder in sorted(path for path in objects.iterdir() if path.is_dir()):
        held = ObjectSet.load(folder)
        volumes |= {record.name: volume(held, i) for i, record in enumerate(held.records)}
    sources = find_sources(source)
    drawn = [name for name in draw(sources) if name in volumes]
    test = [item for item in sources if item.name in drawn]
    rest = [item for item in sources if item.name in volumes and item.name not in drawn]
    aside = namesakes(test, rest)
    aside |= near_duplicates(drawn, [item.name for item in rest], volumes)
    lines = [
        "# Never trained on (loci data hold-out): objects to test with, and what is like them.",
        *(f"test {name}" for name in sorted(drawn)),
        *(f"aside {name} like {other}" for name, other in sorted(aside.items())),
    ]
    with replacing(out) as draft:
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{out}: {len(drawn)} objects to test with, {len(aside)} set aside")


def family(name: str) -> str:
    """The letters of a name: objects that differ in a number are one family."""
    return re.sub(r"[\W\d_]+", "", name)


def draw(sources: Sequence[MeshSource], share: float = SHARE) -> list[str]:
    """Small families in the order of a checksum, until each category has its share.

    Raises:
        LociError: when there are too few objects to hold any out.
    """
    usable = [source for source in sources if _named_well(source)]
    families: dict[str, list[MeshSource]] = defaultdict(list)
    for source in usable:
        families[family(source.name)].append(source)
    wanted = Counter(source.category for source in usable)
    taken: Counter[str] = Counter()
    drawn: list[str] = []
    for name in sorted(families, key=lambda name: zlib.crc32(name.encode())):
        members = families[name]
        category = members[0].category
        room = round(share * wanted[category]) - taken[category]
        if len(members) <= min(MAX_FAMILY, room):
            taken[category] += len(members)
            drawn += [member.name for member in members]
    if not drawn:
        raise LociError(f"{len(usable)} objects, too few to hold any out")
    return drawn


def namesakes(drawn: Iterable[MeshSource], others: Sequence[MeshSource]) -> dict[str, str]:
    """Objects whose name is a drawn one's but for its end: "sofa" and "sofa-bed-closed" are set
    aside for "sofa-bed-opened"."""
    found: dict[str, str] = {}
    for source in drawn:
        for other in others:
            stem = PurePosixPath(other.origin).stem
            known = len(family(stem)) >= MIN_NAME
            shorter = known and family(source.name).startswith(family(other.name))
            long = len(_words(stem)) > 2
            if shorter or (long and _words(source.name)[:-1] == _words(other.name)[:-1]):
                found.setdefault(other.name, source.name)
    return found


def near_duplicates(
    drawn: Iterable[str], others: list[str], volumes: Mapping[str, Bool[Tensor, "r r r"]]
) -> dict[str, str]:
    """Objects of nearly the volume of a drawn one, also rotated by quarter turns or mirrored."""
    flat = torch.stack([volumes[name].flatten() for name in others]).float()
    found: dict[str, str] = {}
    for name in drawn:
        for row in _best_iou(volumes[name], flat).ge(MIN_DUPLICATE_IOU).nonzero()[:, 0].tolist():
            found.setdefault(others[row], name)
    return found


def volume(objects: ObjectSet, index: int) -> Bool[Tensor, "r r r"]:
    """Voxels inside an object or touched by its surface."""
    inside = objects.sdf(index)[1:-1:2, 1:-1:2, 1:-1:2] < 0
    return inside | objects.occupancy(index, RESOLUTION)


def _best_iou(one: Bool[Tensor, "r r r"], flat: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """Intersection over union with each row, in the best of eight poses."""
    rotated = [torch.rot90(mirrored, k) for mirrored in (one, one.flip(0)) for k in range(4)]
    poses = torch.stack([pose.flatten() for pose in rotated]).float()
    common = flat @ poses.T
    union = flat.sum(dim=1, keepdim=True) + poses.sum(dim=1) - common
    return (common / union).amax(dim=1)


def _words(name: str) -> list[str]:
    return re.split(r"[\W_]+", name)


def _named_well(source: MeshSource) -> bool:
    try:
        check_name(source.title, source.opening)
    except UnusableObject:
        return False
    return True


LINKS = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-3.0-US": "https://creativecommons.org/licenses/by/3.0/us/",
}


def write_credits(objects: Path, out: Path) -> None:
    """Writes the sources, licences and authors of a data set as Markdown.

    Args:
        objects: a folder that `loci data objects` has made.
        out: the text file to write.
    """
    train = ObjectSet.load(objects / "train").records
    test = ObjectSet.load(objects / "test").records
    with replacing(out) as draft:
        draft.write_text(credits_text(train, test), encoding="utf-8")
    print(f"{out}: {len(train) + len(test)} objects")


def credits_text(train: Sequence[ObjectRecord], test: Sequence[ObjectRecord]) -> str:
    """A table by library and licence, then every author with the names of the objects."""
    groups: dict[tuple[str, str], list[ObjectRecord]] = defaultdict(list)
    for record in [*train, *test]:
        groups[record.source.split(":")[0], record.licence].append(record)
    held_out = {record.name for record in test}
    lines = ["| source | licence | objects | of them held out |", "| --- | --- | --- | --- |"]
    for (library, licence), records in sorted(groups.items()):
        named = f"[{licence}]({LINKS[licence]})" if licence in LINKS else licence
        held = sum(record.name in held_out for record in records)
        lines.append(f"| {library} | {named} | {len(records)} | {held} |")
    for (library, licence), records in sorted(groups.items()):
        lines += ["", f"{library} ({licence}):", ""]
        by_author: dict[str, list[str]] = defaultdict(list)
        for record in records:
            by_author[record.author].append(record.title)
        lines += [f"- {who}: {_listed(titles)}" for who, titles in sorted(by_author.items())]
    return "\n".join(lines) + "\n"


def _listed(titles: Sequence[str]) -> str:
    counts = {title: titles.count(title) for title in sorted(titles)}
    return "; ".join(title if n == 1 else f"{title} ({n})" for title, n in counts.items())
