"""Memories that are compared, and the scores of single frames."""

import numpy as np
import pytest
import torch

from loci.bench.world.recall import FrameScores, breakdown
from loci.bench.world.trials import encode_history, rollout
from loci.bench.world.variants import memory_variants, with_memory
from tests.world.models import small_world, with_keyframes

SIZE = (32, 32)


def test_variants_differ_in_memory_alone() -> None:
    world = small_world()
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (41, *SIZE, 3), dtype=np.uint8)
    actions = np.array([(1, 3)] * 40)
    other = encode_history(world, frames[::-1], actions, seed=0)
    worlds = memory_variants(world, world.memory.tokens(other.memory))
    assert set(worlds) == {"hpmc", "keyframes", "age", "none", "wrong", "window", "stride"}
    generated = {
        name: rollout(w, encode_history(w, frames, actions, seed=0), actions[:6])[0]
        for name, w in worlds.items()
    }
    assert {frames.shape for frames in generated.values()} == {(6, *SIZE, 3)}
    for name in ("none", "wrong"):
        assert (generated[name] != generated["hpmc"]).any()
    # Forty latents are ten tokens of level one, which these four hold.
    for name in ("age", "window", "stride"):
        assert np.abs(generated[name].astype(int) - generated["hpmc"]).max() <= 1
    same, _ = rollout(with_memory(world, world.memory), other, actions[:4])
    assert (same == rollout(world, other, actions[:4])[0]).all()


def test_keyframes_are_kept_where_the_own_memory_merges() -> None:
    world = small_world()
    rng = np.random.default_rng(2)
    frames = rng.integers(0, 256, (161, *SIZE, 3), dtype=np.uint8)
    actions = np.array([(1, 3)] * 160)
    spans = {
        name: other.memory.tokens(encode_history(other, frames, actions, seed=0).memory).spans
        for name, other in memory_variants(world).items()
        if name in ("hpmc", "keyframes")
    }
    merging = world.config.memory.merging
    assert spans["hpmc"] != spans["keyframes"]
    assert max(map(len, spans.values())) <= merging.budget
    starts = [span.start for span in spans["hpmc"]]
    assert len(set(starts)) == len(starts)  # nothing is covered twice


def test_rivals_of_a_memory_with_keyframes_get_as_many_tokens() -> None:
    world = with_keyframes(small_world())
    rng = np.random.default_rng(2)
    frames = rng.integers(0, 256, (161, *SIZE, 3), dtype=np.uint8)
    actions = np.array([(1, 3)] * 160)
    ahead = torch.zeros(1, 4, 3, dtype=torch.float64)
    worlds = memory_variants(world)
    assert set(worlds) == {"hpmc", "keyframes", "merged", "age", "none", "window", "stride"}
    held = {
        name: other.memory.tokens(encode_history(other, frames, actions, seed=0).memory, ahead)
        for name, other in worlds.items()
    }
    most = world.config.memory.attended
    assert most == 12
    assert all(len(tokens.spans) <= most for tokens in held.values())
    assert len(held["hpmc"].spans) >= most - 1
    # Kept by view of all that was seen, and attended to by where the chunk looks.
    fine = {name: {s for s in held[name].spans if s.level == 1} for name in held}
    assert fine["hpmc"] != fine["keyframes"] != fine["merged"]


def test_means_are_over_frames_and_show_what_is_missing() -> None:
    scores = FrameScores({("psnr", "spin", 64, "hpmc"): [np.array([20.0, 22.0]), np.array([27.0])]})
    assert scores.means("psnr", ("hpmc", "raw")) == {"hpmc": 23.0, "raw": None}
    assert scores.means("psnr", ("hpmc",), kind="walk") == {"hpmc": None}
    assert breakdown(scores, ("hpmc",), ("psnr",)) == {
        "spin": {"64": {"psnr": {"hpmc": 23.0}}, "all": {"psnr": {"hpmc": pytest.approx(23.0)}}}
    }
