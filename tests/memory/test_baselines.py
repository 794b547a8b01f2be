"""The memories that the horizon is compared with."""

import pytest
import torch
from torch import Tensor

from loci.memory.base import Memory
from loci.memory.baselines import NoMemory, RawMemory, SampledMemory, WrongMemory
from loci.memory.memory_tokens import MemoryTokens
from loci.memory.schedule import MergeConfig


class FirstOfFour:
    """A code is the first of the four latents it stands for."""

    def encode(self, latents: Tensor, poses: Tensor | None) -> Tensor:
        return latents[:, :, ::4]

    def merge(self, tokens: Tensor, poses: Tensor | None) -> Tensor:
        raise AssertionError("the baselines have one level only")


def walk(memory: Memory, length: int) -> MemoryTokens:
    """Codes of a history in which each latent holds its own number."""
    latents = torch.arange(length, dtype=torch.float32).view(1, 1, -1, 1, 1)
    poses = latents.view(1, -1, 1).expand(-1, -1, 3) * 0.01
    state = memory.empty()
    for at in range(0, length, 20):
        cut = slice(at, at + 20)
        state = memory.append(state, latents[:, :, cut], poses[:, cut])
    return memory.tokens(state)


def check(held: MemoryTokens, level: int) -> None:
    assert held.tokens.flatten().tolist() == [span.start for span in held.spans]
    assert all(span.level == level for span in held.spans)
    assert held.poses is not None
    centers = torch.tensor([(span.start + span.end - 1) / 2 for span in held.spans]).double()
    torch.testing.assert_close(held.poses[0, :, 1], centers * 0.01)


def test_none_has_no_tokens_but_their_shapes() -> None:
    held = walk(NoMemory(compressor=FirstOfFour()), 100)
    assert held.tokens.shape == (1, 1, 0, 1, 1)
    assert held.poses is not None
    assert held.poses.shape == (1, 0, 3)
    assert held.spans == ()


@pytest.mark.parametrize("length", [1, 30, 100])
def test_raw_keeps_the_newest_latents(length: int) -> None:
    held = walk(RawMemory(keep=30), length)
    check(held, level=0)
    assert [span.start for span in held.spans] == list(range(max(0, length - 30), length))
    assert len(walk(RawMemory(), length).spans) == length


@pytest.mark.parametrize("length", [1, 8, 77, 80, 81, 100, 1_001])
def test_window_remembers_the_end(length: int) -> None:
    held = walk(SampledMemory(compressor=FirstOfFour()), length)
    check(held, level=1)
    assert held.spans[-1].end == length
    assert held.spans[0].start >= length - 84
    assert min(-(-length // 4), 19) <= len(held.spans) <= 20


@pytest.mark.parametrize("length", [1, 8, 77, 80, 81, 100, 1_001])
def test_stride_samples_the_whole_history(length: int) -> None:
    held = walk(SampledMemory(compressor=FirstOfFour(), strided=True), length)
    check(held, level=1)
    assert held.spans[0].start == 0
    assert held.spans[-1].end == length
    assert min(-(-length // 4), 19) <= len(held.spans) <= 20
    gaps = [b.start - a.end for a, b in zip(held.spans, held.spans[1:], strict=False)]
    assert max(gaps, default=0) <= length / 9


def test_windows_as_large_as_the_budget_leave_room_for_the_newest_only() -> None:
    config = MergeConfig(window=64)
    held = walk(SampledMemory(compressor=FirstOfFour(), config=config, strided=True), 127)
    assert [span.start for span in held.spans] == list(range(64, 127, 4))


def test_wrong_answers_for_another_scene() -> None:
    other = walk(RawMemory(), 7)
    assert walk(WrongMemory(RawMemory(), other), 100) is other


def test_an_empty_memory_has_no_tokens() -> None:
    for memory in (RawMemory(), NoMemory(compressor=FirstOfFour())):
        with pytest.raises(ValueError, match="empty"):
            memory.tokens(memory.empty())
