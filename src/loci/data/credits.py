"""Who made the objects, and under which licence: a table for the card of a trained model."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from loci.data.objects import ObjectRecord, ObjectSet
from loci.files import replacing

LINKS = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-3.0-US": "https://creativecommons.org/licenses/by/3.0/us/",
}


def write_credits(objects: Path, out: Path) -> None:
    """Write the sources, licences and authors of a set of objects as Markdown.

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
