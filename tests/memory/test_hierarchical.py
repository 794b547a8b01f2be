"""The unbounded memory: what its tokens are, what they cost, and that states are immutable."""

import json
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from loci.errors import LociError
from loci.memory.hierarchical import (
    HierarchicalMemory,
    MemoryConfig,
    published_spans,
)
from loci.memory.hpmc import HPMCConfig, HPMCEncoder, WindowPlan, published_memory
from loci.memory.memory_tokens import MemoryTokens
from loci.memory.panorama_merge import PoseConditionedEncoder
from loci.memory.pose_rotary import PoseRotaryConfig
from loci.memory.poses import panorama_pose, view_pose
from loci.memory.schedule import MergeConfig, Merges, MergeSchedule, Span

CHANNELS, WIDTH = 2, 3


class SmallCompressor(nn.Module):
    """A real compressor in small: every output depends on all near inputs and on their poses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fine = nn.Conv3d(CHANNELS + 2, WIDTH, 3, stride=2, padding=1)
        self.coarse = nn.Conv3d(WIDTH, WIDTH, 3, stride=(2, 1, 1), padding=1)
        self.again = nn.Conv3d(WIDTH + 2, WIDTH, 3, stride=(2, 1, 1), padding=1)
        self.double()
        self.windows = self.groups = 0

    def encode(self, latents: Tensor, poses: Tensor | None) -> Tensor:
        self.windows += len(latents)
        return self.coarse(torch.tanh(self.fine(with_poses(latents, poses))))

    def merge(self, tokens: Tensor, poses: Tensor | None) -> Tensor:
        assert tokens.shape[2] == 4
        self.groups += len(tokens)
        return self.coarse(torch.tanh(self.again(with_poses(tokens, poses))))


def with_poses(x: Tensor, poses: Tensor | None) -> Tensor:
    batch, _, time, *size = x.shape
    if poses is None:
        poses = torch.zeros(batch, time, 3)
    maps = torch.stack([poses[..., 0].cos(), poses[..., 1] - poses[..., 2]], dim=1)
    return torch.cat([x, maps.to(x)[..., None, None].expand(-1, -1, -1, *size)], dim=1)


def history(length: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    latents = torch.randn(batch, CHANNELS, length, 2, 2, generator=generator, dtype=torch.float64)
    steps = torch.randn(batch, length, 3, generator=generator, dtype=torch.float64) * 0.3
    return latents, steps.cumsum(dim=1)


def remember(memory: HierarchicalMemory, latents: Tensor, poses: Tensor | None, chunk: int):
    state = memory.empty()
    for at in range(0, latents.shape[2], chunk):
        cut = slice(at, at + chunk)
        state = memory.append(state, latents[:, :, cut], None if poses is None else poses[:, cut])
    return state


def by_definition(
    compressor, window: int, latents: Tensor, poses: Tensor, span: Span, merges: Merges
) -> tuple[Tensor, Tensor]:
    """Memory tokens straight from the raw history, as a function of its span alone."""
    if span.level == 1:
        start = span.start - span.start % window
        cut = slice(start, start + window)
        tokens = compressor.encode(latents[:, :, cut], poses[:, cut])
        own = view_pose(poses[:, span.start : span.end])[:, None]
        return tokens[:, :, (span.start - start) // 4][:, :, None], own
    parts = merges.get(span) or span.quarters
    made = [by_definition(compressor, window, latents, poses, part, merges) for part in parts]
    tokens, where = (torch.cat([m[i] for m in made], dim=2 - i) for i in (0, 1))
    lengths = torch.tensor([part.length for part in parts], dtype=torch.float64)
    return compressor.merge(tokens, where), panorama_pose(where, lengths)[:, None]


def same(a: MemoryTokens, b: MemoryTokens) -> None:
    assert a.spans == b.spans
    torch.testing.assert_close(a.tokens, b.tokens)
    torch.testing.assert_close(a.poses, b.poses)


@pytest.mark.parametrize("config", [MergeConfig(), MergeConfig(16, 7, 2)], ids=str)
@pytest.mark.parametrize("length", [1, 7, 8, 23, 80, 81, 150, 301, 555])
def test_tokens_are_what_their_spans_say(config: MergeConfig, length: int) -> None:
    compressor = SmallCompressor()
    latents, poses = history(length, batch=2)
    memory = HierarchicalMemory(MemoryConfig(config), compressor)
    held = memory.tokens(remember(memory, latents, poses, chunk=21))
    plan, merges = MergeSchedule(config).extend(length)
    assert held.spans == plan.spans
    assert bool(merges) == (config.budget == 7 and length >= 150)
    assert held.tokens.shape == (2, WIDTH, len(plan.spans), 1, 1)
    assert held.poses is not None
    for k, span in enumerate(held.spans):
        token, pose = by_definition(compressor, config.window, latents, poses, span, merges)
        torch.testing.assert_close(held.tokens[:, :, k : k + 1], token)
        torch.testing.assert_close(held.poses[:, k : k + 1], pose)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.booleans())
def test_chunks_do_not_matter(counts: list[int], posed: bool) -> None:
    memory = HierarchicalMemory(MemoryConfig(MergeConfig(8, 7)), SmallCompressor())
    latents, poses = history(sum(counts))
    once = memory.tokens(memory.append(memory.empty(), latents, poses if posed else None))
    state, at = memory.empty(), 0
    for count in counts:
        cut = slice(at, at + count)
        state = memory.append(state, latents[:, :, cut], poses[:, cut] if posed else None)
        at += count
    same(memory.tokens(state), once)
    assert (once.poses is not None) == posed


def test_settled_tokens_never_change() -> None:
    memory = HierarchicalMemory(MemoryConfig(), SmallCompressor())
    latents, poses = history(400)
    state, seen = memory.empty(), {}
    for t in range(400):
        state = memory.append(state, latents[:, :, t : t + 1], poses[:, t : t + 1])
        held = memory.tokens(state)
        for k, span in enumerate(held.spans):
            if span.end <= state.schedule.settled:
                token = seen.setdefault(span, held.tokens[:, :, k].clone())
                assert torch.equal(token, held.tokens[:, :, k])


def test_work_per_chunk_and_state_do_not_grow() -> None:
    compressor = SmallCompressor()
    memory = HierarchicalMemory(MemoryConfig(), compressor)
    latents, poses = history(20)
    state, work, size = memory.empty(), [], []
    with torch.no_grad():
        for _ in range(400):
            compressor.windows = compressor.groups = 0
            state = memory.append(state, latents, poses)
            assert compressor.windows <= 3
            assert compressor.groups <= 5
            memory.tokens(state)
            work.append((compressor.windows, compressor.groups))
            size.append(state.nbytes)
            assert len(state.tensors) == 4
    # 20 latents are 2.5 windows and 5 slots, and the window that is filling is coded each time.
    assert max(windows for windows, _ in work) <= 4
    assert sum(windows for windows, _ in work) <= 400 * 3.5
    assert sum(groups for _, groups in work) <= 400 * 5 / 3 + 20
    assert max(size[8:]) <= 8 * (20 * (WIDTH + 3) + 7 * (CHANNELS * 4 + 3))


def test_an_old_state_can_be_continued_twice() -> None:
    memory = HierarchicalMemory(MemoryConfig(), SmallCompressor())
    latents, poses = history(130)
    old = remember(memory, latents[:, :, :100], poses[:, :100], chunk=20)
    kept = {name: tensor.clone() for name, tensor in old.tensors.items()}
    one = memory.append(old, latents[:, :, 100:], poses[:, 100:])
    two = memory.append(old, -latents[:, :, 100:], poses[:, 100:])
    again = memory.append(old, latents[:, :, 100:], poses[:, 100:])
    same(memory.tokens(one), memory.tokens(again))
    assert not torch.equal(memory.tokens(one).tokens, memory.tokens(two).tokens)
    for name, tensor in old.tensors.items():
        assert torch.equal(tensor, kept[name])


def test_a_state_does_not_share_memory_with_what_was_given() -> None:
    memory = HierarchicalMemory(MemoryConfig(), SmallCompressor())
    latents, poses = history(13)
    state = memory.append(memory.empty(), latents, poses)
    before = memory.tokens(state)
    latents.zero_()
    poses.zero_()
    same(memory.tokens(state), before)
    assert state.tail is not None
    assert state.tail.untyped_storage().nbytes() == state.tail.nbytes


def test_gradients_reach_the_compressor_through_every_level() -> None:
    compressor = SmallCompressor()
    memory = HierarchicalMemory(MemoryConfig(), compressor)
    latents, poses = history(200)
    latents.requires_grad_()
    memory.tokens(memory.append(memory.empty(), latents, poses)).tokens.square().sum().backward()
    assert latents.grad is not None
    assert (latents.grad.abs().amax(dim=(0, 1, 3, 4)) > 0).all()
    assert all(p.grad is not None and p.grad.any() for p in compressor.parameters())


def test_places_far_away_keep_their_precision() -> None:
    """Ten million cells out, the poses still tell steps of a tenth of a cell apart."""
    memory = HierarchicalMemory(MemoryConfig(), SmallCompressor())
    latents, poses = history(40)
    moved = poses + torch.tensor([0.0, 1e7, -1e7], dtype=torch.float64)
    near = memory.tokens(remember(memory, latents, poses, 9)).poses
    far = memory.tokens(remember(memory, latents, moved, 9)).poses
    assert near is not None
    assert far is not None
    torch.testing.assert_close(far[..., 0], near[..., 0])
    torch.testing.assert_close(far[..., 1] - 1e7, near[..., 1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("exact", [None, WindowPlan(16, 8, 2)])
@pytest.mark.parametrize("length", [0, 5, 8, 16, 17, 90])
def test_a_saved_state_goes_on_as_before(exact: WindowPlan | None, length: int) -> None:
    published = (lambda x: x[:, :WIDTH, ::4]) if exact else None
    config = MemoryConfig(published_windows=exact)
    memory = HierarchicalMemory(config, SmallCompressor(), published)
    latents, poses = history(length + 9)
    state = remember(memory, latents[:, :, :length], poses[:, :length], 6)
    tensors, metadata = memory.state_dict(state)
    back = memory.from_state_dict(tensors, json.loads(json.dumps(metadata)))
    more = (latents[:, :, length:], poses[:, length:])
    same(memory.tokens(memory.append(back, *more)), memory.tokens(memory.append(state, *more)))


def saved() -> tuple[HierarchicalMemory, dict[str, Tensor], dict]:
    memory = HierarchicalMemory(MemoryConfig(), SmallCompressor())
    state = remember(memory, *history(45), chunk=20)
    return memory, *memory.state_dict(state)


@pytest.mark.parametrize("name", ["tokens", "poses", "tail", "tail_poses"])
def test_damaged_states_are_refused(name: str) -> None:
    memory, tensors, metadata = saved()
    with pytest.raises(LociError, match=name):
        memory.from_state_dict({**tensors, name: tensors[name].flatten(1)}, metadata)
    with pytest.raises(LociError, match=name):
        doubled = torch.cat([tensors[name]] * 2, dim=1 if name.endswith("poses") else 2)
        memory.from_state_dict({**tensors, name: doubled}, metadata)
    with pytest.raises(LociError, match=f"lacks {name}"):
        memory.from_state_dict({k: v for k, v in tensors.items() if k != name}, metadata)


@pytest.mark.parametrize(
    "change",
    [
        {"length": 46},
        {"spans": [[1, 0, 4]]},
        {"spans": 3},
        {"planned": None},
        {"config": None},
        {"config": {"batch": 3}},
    ],
)
def test_damaged_metadata_is_refused(change: dict) -> None:
    memory, tensors, metadata = saved()
    with pytest.raises(LociError, match="memory state"):
        memory.from_state_dict(tensors, {**metadata, **change})


def test_what_does_not_continue_a_walk_is_refused() -> None:
    memory = HierarchicalMemory(MemoryConfig(), SmallCompressor())
    latents, poses = history(10)
    with pytest.raises(ValueError, match="empty"):
        memory.tokens(memory.empty())
    state = memory.append(memory.empty(), latents, poses)
    for bad, match in [
        ((latents[0], poses), "latents"),
        ((latents[:, :, :0], poses[:, :0]), "latents"),
        ((latents, poses[:, :3]), "poses"),
        ((latents, None), "poses"),
        ((latents[:, :1], poses), "continue"),
        ((torch.cat([latents] * 2), torch.cat([poses] * 2)), "continue"),
    ]:
        with pytest.raises(ValueError, match=match):
            memory.append(state, *bad)
    with pytest.raises(ValueError, match="published"):
        HierarchicalMemory(MemoryConfig(published_windows=WindowPlan()), SmallCompressor())


SMALL = HPMCConfig(in_channels=4, out_channels=4, hidden=24, heads=2, groups=4)


def published() -> tuple[HPMCEncoder, HierarchicalMemory]:
    torch.manual_seed(0)
    encoder = HPMCEncoder(SMALL).eval()
    config = MemoryConfig(MergeConfig(window=64), published_windows=WindowPlan())
    return encoder, HierarchicalMemory(config, encoder, partial(published_memory, encoder))


@torch.no_grad()
def test_the_published_memory_holds_as_long_as_its_windows_touch() -> None:
    encoder, memory = published()
    latents = torch.randn(1, 4, 341, 1, 1)
    state, done = memory.empty(), 0
    for length in (1, 21, 80, 81, 101, 301, 323, 324, 341):
        state = memory.append(state, latents[:, :, done:length])
        done, held = length, memory.tokens(state)
        assert len(held.spans) == held.tokens.shape[2] <= 20
        if length <= 323:
            expected = published_memory(encoder, latents[:, :, :length])
            assert torch.equal(held.tokens, expected)
        else:
            assert held.spans == MergeSchedule(memory.config.merging).extend(length)[0].spans
            assert state.tail is not None
            assert state.tail.shape[2] == length % 64


@pytest.mark.parametrize("length", [1, 80, 81, 200, 323])
def test_published_spans_reach_as_far_as_the_windows(length: int) -> None:
    spans = published_spans(WindowPlan(), length)
    covered = {t for span in spans for t in range(span.start, span.end)}
    assert len(spans) == min(20, -(-length // 4))
    assert covered == set(range(max(covered) + 1))
    assert length - max(covered) <= 4


@torch.no_grad()
def test_the_posed_encoder_fits_and_its_tokens_do_not_depend_on_the_place() -> None:
    torch.manual_seed(0)
    encoder = PoseConditionedEncoder(
        HPMCConfig(in_channels=4 + 6, out_channels=24, hidden=24, heads=2, groups=4),
        PoseRotaryConfig(time=1, rows=1, columns=1, heading=3, place=(0.4, 1.6, 3.2)),
    ).eval()
    memory = HierarchicalMemory(MemoryConfig(), encoder)
    latents = torch.randn(1, 4, 150, 2, 2)
    poses = history(150)[1]
    moved = poses + torch.tensor([0.0, 3e5, -2e5], dtype=torch.float64)
    once = memory.tokens(remember(memory, latents, poses, 150))
    chunked = memory.tokens(remember(memory, latents, poses, 16))
    far = memory.tokens(remember(memory, latents, moved, 16))
    assert once.tokens.shape == (1, 24, len(once.spans), 2, 2)
    torch.testing.assert_close(chunked.tokens, once.tokens, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(far.tokens, once.tokens, atol=1e-5, rtol=1e-4)
