"""`--max-ram`: what is needed is told, and how weights fit is chosen."""

from pathlib import Path

import pytest
import torch

from loci import cli
from loci.app.ram import RamNeed, choose_placement, lift_ram, parse_ram, walk_ram
from loci.data.random_checkpoint import write_random_checkpoint
from loci.errors import LociError

NEED = RamNeed(blocks=6e9, block=0.2e9, rest=0.4e9, work=3e9)


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8e9), ("8", 8e9), ("800MB", 8e8), ("1.5 GiB", 1.5e9), ("4g", 4e9)]
)
def test_sizes(text: str, size: float) -> None:
    assert parse_ram(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "8TB", "10MB", "eight"])
def test_sizes_that_cannot_be(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LociError, match="--max-ram: "):
        parse_ram(text)
    assert cli.main(["walk", f"--max-ram={text}"]) == 2
    assert "--max-ram: " in capsys.readouterr().err


def test_the_former_name_of_the_flag_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("walk", "lift"):
        assert cli.main([command, "--memory", "8TB"]) == 2
        assert "--max-ram: 8TB, expected" in capsys.readouterr().err


def test_weights_are_streamed_where_they_do_not_fit() -> None:
    assert choose_placement(NEED, 12e9, False, "") == "resident"
    assert choose_placement(NEED, 8e9, False, "") == "streamed"
    assert choose_placement(NEED, 8e9, True, "") == "int8"
    with pytest.raises(LociError, match=r"4.0 GB, but this needs about 4.6 GB .* try less"):
        choose_placement(NEED, 4e9, False, "try less")
    assert "streamed" in NEED.described("streamed")


def test_the_published_models_fit_into_8_gb(tmp_path: Path) -> None:
    """Computed from their sizes; the layout of tiny files is all that is read."""
    write_random_checkpoint("infinite-world", tmp_path / "world")
    (tmp_path / "world" / "checkpoints" / "loci-sizes.json").unlink()
    need = walk_ram(tmp_path / "world", torch.bfloat16, 448, 896)
    assert need is not None
    assert need.is_large
    assert 2.5e9 < need.blocks < 3e9
    assert choose_placement(need, 8e9, False, "") in ("resident", "streamed")
    less = walk_ram(tmp_path / "world", torch.bfloat16, 256, 256)
    assert less is not None
    assert less.work < need.work / 3
    write_random_checkpoint("sam-3d-objects", tmp_path / "lifter")
    (tmp_path / "lifter" / "checkpoints" / "loci-sizes.json").unlink()
    need = lift_ram(tmp_path / "lifter", torch.bfloat16)
    assert need is not None
    assert need.total("resident") < 8e9
    assert need.total("streamed") < 3.5e9


def test_small_models_need_nothing() -> None:
    shipped = Path(cli.__file__).parent / "shipped"
    for folder in shipped.glob("doom"):
        assert walk_ram(folder, torch.float32, 128, 128) is None
