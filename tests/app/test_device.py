"""Devices, element types and threads."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from loci.app import device
from loci.app.device import check_device, choose_device, choose_dtype, tune_threads
from loci.errors import LociError
from loci.nn import device as nn_device


def test_a_device_that_is_not_there_is_named() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(LociError, match="--device: abacus, expected auto"):
        choose_device("abacus")
    with pytest.raises(LociError, match="--device: meta, expected auto"):
        choose_device("meta")


def test_names_are_checked_without_torch() -> None:
    for name in ("auto", "cpu", "cuda", "cuda:1", "mps"):
        check_device(name)
    for name in ("abacus", "meta", "cuda:", "cuda:x", ""):
        with pytest.raises(LociError, match=f"--device: {name}, expected auto"):
            check_device(name)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose weights count as large."""
    monkeypatch.setattr(device, "LARGE", 100)
    monkeypatch.setattr(nn_device, "LARGE", 100)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "model.safetensors").write_bytes(bytes(60))
    (tmp_path / "model.ckpt").write_bytes(bytes(60))
    return tmp_path


def test_large_models_are_halved_where_the_device_is_made_for_it(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for made_for_it in (True, False):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True, yes=made_for_it: yes
        )
        expected = torch.bfloat16 if made_for_it else torch.float32
        cuda, cpu = torch.device("cuda"), torch.device("cpu")
        assert choose_dtype("auto", cuda, large) == expected
        assert choose_dtype("auto", cuda, large / "model.ckpt") == expected
        assert choose_dtype("auto", cuda, large / "part") == torch.float32
        assert choose_dtype("auto", cpu, large) == torch.float32
        assert choose_dtype("float16", cuda, large) == torch.float16


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


CPU = torch.device("cpu")


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("alone", "together", "chosen"), [(1, 6, 1), (6, 1, 2), (4, 4, 1)])
def test_threads_are_measured(alone: int, together: int, chosen: int, tmp_path: Path) -> None:
    def step() -> None:
        time.sleep((alone if torch.get_num_threads() == 1 else together) / 200)

    assert tune_threads(step, CPU, tmp_path) == chosen
    assert torch.get_num_threads() == chosen


@pytest.mark.usefixtures("two_threads")
def test_threads_stay_where_nothing_is_to_be_chosen(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> None:
        raise AssertionError("it was measured")

    assert tune_threads(never, CPU, large) == 2
    assert tune_threads(never, torch.device("cuda"), large / "part") == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert tune_threads(never, CPU, large / "part") == 2
