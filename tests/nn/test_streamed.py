"""Blocks that stay on disk: the same numbers, in bounded memory."""

from pathlib import Path

import pytest
import torch
from torch import nn

from loci.io import tensor_files
from loci.io.tensor_files import MappedRanges
from loci.io.weights import read_tensors, save_tensors
from loci.nn.streamed import StreamedBlocks, stream_blocks

CPU = torch.device("cpu")
RESIDENT = Path("/proc/self/status")


class Stack(nn.Module):
    def __init__(self, blocks: int = 4, dim: int = 16) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(dim, dim) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x).tanh()
        return x


def mapped(folder: Path, model: Stack) -> Stack:
    """The same weights, mapped from a file."""
    save_tensors(folder / "model.safetensors", model.state_dict())
    with torch.device("meta"):
        empty = Stack(len(model.blocks), model.blocks[0].in_features)  # pyright: ignore
    empty.load_state_dict(read_tensors(folder / "model.safetensors"), assign=True)
    return empty.requires_grad_(False)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_streamed_blocks_give_the_same(tmp_path: Path, dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    model = Stack()
    streamed = mapped(tmp_path, model)
    stream_blocks(streamed, "blocks", CPU, dtype)
    x = torch.randn(3, 16).to(dtype or torch.float32)
    expected = model.to(dtype)(x)
    for _ in range(3):  # the weights are there again at every pass
        assert torch.equal(streamed(x), expected)


def test_what_is_streamed_keeps_its_names_and_its_type(tmp_path: Path) -> None:
    model = Stack()
    streamed = mapped(tmp_path, model)
    stream_blocks(streamed, "blocks", CPU, torch.bfloat16)
    streamed.to(torch.bfloat16)
    found = streamed.state_dict()
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], t) for name, t in model.state_dict().items())


def test_two_passes_at_a_time_do_not_meet(tmp_path: Path) -> None:
    streamed = mapped(tmp_path, Stack())
    stream_blocks(streamed, "blocks", CPU, torch.bfloat16)
    pairs = zip(streamed.blocks, streamed.blocks, strict=True)
    for first, second in pairs:
        assert torch.equal(first.weight, second.weight)  # pyright: ignore


def test_a_pass_that_is_left_can_be_begun_again(tmp_path: Path) -> None:
    streamed = mapped(tmp_path, Stack())
    blocks = StreamedBlocks(streamed.blocks, CPU, torch.bfloat16)
    for _ in blocks:
        break
    assert len(list(blocks)) == 4


@pytest.mark.skipif(not RESIDENT.is_file(), reason="the system does not say how large we are")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_pages_are_given_back(tmp_path: Path, dtype: torch.dtype | None) -> None:
    streamed = mapped(tmp_path, Stack(10, 1024))  # 4 MB a block
    ranges = MappedRanges()
    assert all(ranges.holds(block.weight) for block in streamed.blocks)  # pyright: ignore
    assert not ranges.holds(torch.zeros(1 << 20))
    stream_blocks(streamed, "blocks", CPU, dtype)
    before, most = file_pages(), 0
    for block in streamed.blocks:
        block(torch.zeros(1, 1024).to(dtype or torch.float32))
        most = max(most, file_pages() - before)
    assert most < 16e6
    assert file_pages() - before < 5e6


def file_pages() -> int:
    """Bytes of mapped files in memory."""
    lines = RESIDENT.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssFile"))


def test_without_a_list_of_mappings_nothing_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "_MAPS", Path("/nowhere"))
    assert not MappedRanges().holds(torch.zeros(4))
