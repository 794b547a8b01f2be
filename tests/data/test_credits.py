from pathlib import Path

from loci.data.credits import credits_text
from loci.data.objects import ObjectRecord


def record(name: str, title: str, source: str, licence: str, author: str) -> ObjectRecord:
    return ObjectRecord(Path(name), name, title, "Kitchen", source, licence, author, None)


def test_every_source_and_author_is_named() -> None:
    train = [
        record("a1", "Cup", "one.sh3f: cup/cup.obj", "CC-BY-3.0", "Ann"),
        record("a2", "Cup", "one.sh3f: mug/mug.obj", "CC-BY-3.0", "Ann"),
        record("b", "Rock", "two.sh3f: rock.obj", "CC0-1.0", "Bob"),
    ]
    test = [record("c", "Tree", "one.sh3f: tree.obj", "CC-BY-3.0", "Cy")]
    lines = credits_text(train, test).splitlines()
    link = "https://creativecommons.org/licenses/by/3.0/"
    assert f"| one.sh3f | [CC-BY-3.0]({link}) | 3 | 1 |" in lines
    assert any(line.startswith("| two.sh3f |") and line.endswith("| 1 | 0 |") for line in lines)
    assert "- Ann: Cup (2)" in lines
    assert "- Cy: Tree" in lines
