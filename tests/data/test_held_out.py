from collections import Counter

import pytest
import torch

from loci.data.held_out import draw, family, held_out_names, near_duplicates
from loci.data.object_source import Source
from loci.errors import LociError


def source(name: str, category: str = "Living room", title: str = "Thing") -> Source:
    return Source(name, title, category, f"{name}.obj", "CC0-1.0", "me", None, False, list)


def test_the_committed_list_holds_sixty_objects_or_more() -> None:
    names = held_out_names()
    assert len(names) >= 60
    assert not {name for name in names if name != name.strip().lower()}


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
    by_family = Counter(family(source(name)) for name in drawn)
    assert set(by_family.values()) == {2}


def test_doors_are_not_drawn_and_too_few_objects_are_an_error() -> None:
    with pytest.raises(LociError, match="too few"):
        draw([source(f"lib-{k}", title="Wall socket") for k in "abcdefghijklmnop"])


def test_near_duplicates_are_found_turned_mirrored_and_in_chains() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(8, 8, 8, generator=generator) > 0.5
    changed = first.clone()
    changed[:, :, 0] = False
    again = changed.clone()
    again[:, :, 7] = False
    volumes = {
        "held": first,
        "other": torch.rand(8, 8, 8, generator=generator) > 0.5,
        "turned": torch.rot90(first, 1).flip(0),
        "less": changed,
        "least": again,
    }
    twins = near_duplicates(["held"], volumes)
    assert twins == {"turned": "held", "less": "held", "least": "less"}
