from collections import Counter
from pathlib import Path

import pytest
import torch

from loci.data.objects.dataset import ObjectRecord
from loci.data.objects.sources import MeshSource, slug
from loci.data.objects.splits import (
    Split,
    credits_text,
    draw,
    family,
    held_out,
    namesakes,
    near_duplicates,
    split_of,
)
from loci.errors import LociError


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


def source(name: str, category: str = "Living room", title: str = "Thing") -> MeshSource:
    return MeshSource(
        name, title, category, f"lib.sh3f: x/{name}.obj", "CC0-1.0", "me", None, False, list
    )


def test_the_committed_list_holds_sixty_objects_or_more() -> None:
    splits = held_out()
    assert Counter(splits.values())["test"] >= 60
    assert set(splits.values()) == {"test", "aside", "packs"}
    assert not {name for name in splits if name != slug(name) and not name.endswith("-*")}


def test_a_pattern_holds_out_a_pack_and_a_name_comes_first() -> None:
    splits: dict[str, Split] = {"toys-*": "packs", "toys-ball": "aside"}
    names = ("toys-duck", "toys-ball", "toyshop", "chair")
    assert [split_of(name, splits) for name in names] == ["packs", "aside", "train", "train"]


def test_whole_families_are_drawn_from_every_category() -> None:
    kinds = ("Kitchen", "Office")
    sources = [
        source(f"lib-{kind.lower()}{a}{b}", kind)
        for kind in kinds
        for a in "abcdefghij"
        for b in "12"
    ]
    drawn = draw(sources, share=0.2)
    assert draw(sources, share=0.2) == drawn
    assert Counter("kitchen" in name for name in drawn) == {True: 4, False: 4}
    by_family = Counter(map(family, drawn))
    assert set(by_family.values()) == {2}


def test_doors_are_not_drawn_and_too_few_objects_are_an_error() -> None:
    with pytest.raises(LociError, match="too few"):
        draw([source(f"lib-{k}", title="Wall socket") for k in "abcdefghijklmnop"])


def test_near_duplicates_are_found_turned_and_mirrored() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(8, 8, 8, generator=generator) > 0.5
    changed = first.clone()
    changed[:, :, 0] = False
    volumes = {
        "held": first,
        "other": torch.rand(8, 8, 8, generator=generator) > 0.5,
        "turned": torch.rot90(first, 1).flip(0),
        "less": changed,
    }
    twins = near_duplicates(["held"], ["other", "turned", "less"], volumes)
    assert twins == {"turned": "held", "less": "held"}


def test_an_object_in_another_state_is_found_by_its_name() -> None:
    opened = [source("sofa-bed2-opened"), source("cart")]
    same = [source("sofa-bed1"), source("sofa"), source("sofa-bed2-closed")]
    found = namesakes(opened, [*same, source("sofa-green"), source("car")])
    assert found == {other.name: "sofa-bed2-opened" for other in same}
