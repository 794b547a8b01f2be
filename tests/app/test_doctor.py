"""`loci doctor` on published layouts, whole and damaged."""

from pathlib import Path

import pytest
import torch

from loci.app.doctor import check_model, doctor
from loci.data.random_checkpoint import write_random_checkpoint
from loci.errors import LociError
from loci.objects.published_files import Sam3dCheckpoint, convert


@pytest.fixture(scope="module")
def lifter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor") / "model"
    write_random_checkpoint("sam-3d-objects", folder)
    return folder


def test_a_whole_model_is_listed_part_by_part(
    lifter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor(str(lifter))
    out = capsys.readouterr().out
    assert "structure_flow" in out
    assert "complete: 8 parts" in out
    assert "GB free" in out


def test_a_converted_model_has_the_same_parts(lifter: Path, tmp_path: Path) -> None:
    parts = Sam3dCheckpoint.find(lifter)
    assert parts is not None
    convert(parts, tmp_path / "out")
    published, converted = check_model(lifter), check_model(tmp_path / "out")
    assert published[0] == converted[0] == "lifter"
    sizes = [{part.name: part.numbers for part in some} for _, some in (published, converted)]
    assert sizes[0] == sizes[1]
    assert min(sizes[0].values()) > 100


def test_what_is_wrong_is_said_beside_its_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_random_checkpoint("sam-3d-objects", tmp_path / "model")
    checkpoints = tmp_path / "model" / "checkpoints"
    path = checkpoints / "ss_decoder.ckpt"
    path.write_bytes(path.read_bytes()[:-500])
    mesh = torch.load(checkpoints / "slat_decoder_mesh.ckpt")
    mesh["renamed"] = mesh.pop("out_layer.bias")
    torch.save(mesh, checkpoints / "slat_decoder_mesh.ckpt")
    with pytest.raises(LociError, match="2 of 8 parts cannot be used"):
        doctor(str(tmp_path / "model"))
    out = capsys.readouterr().out
    assert "cut short" in out
    assert "1 missing: out_layer.bias; 1 unexpected: renamed" in out


@pytest.mark.parametrize("size", ["448", "448x897", "axb", "0x0"])
def test_sizes_that_cannot_be(size: str) -> None:
    with pytest.raises(LociError, match="--size"):
        doctor(size=size)
