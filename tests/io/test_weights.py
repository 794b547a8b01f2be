"""Weights and configurations on disk."""

import json
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import pytest
import torch
from torch import nn

from loci.errors import LociError
from loci.io.weights import (
    has_tensors,
    load_pretrained,
    load_strict,
    read_tensors,
    save_pretrained,
    save_tensors,
)


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)


def test_pickles_and_safetensors_read_alike(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    save_tensors(tmp_path / "t.safetensors", tensors)
    torch.save(tensors, tmp_path / "plain.pth")
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "nested.ckpt")
    for name in ("t.safetensors", "plain.pth", "nested.ckpt"):
        read = read_tensors(tmp_path / name)
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensors[key]) for key in tensors)


class Trap:
    """Unpickling this would call a function."""

    def __reduce__(self):
        return print, ("called",)


def test_a_pickle_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"a": Trap()}, tmp_path / "trap.pth")
    said = r"trap.pth: holds (builtins\.)?print, which could run code .* save its state_dict"
    with pytest.raises(LociError, match=said):
        read_tensors(tmp_path / "trap.pth")
    torch.save({"a": Trap()}, tmp_path / "trap.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(LociError, match=said):
        read_tensors(tmp_path / "trap.pth")
    assert "called" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["t.safetensors", "t.pth"])
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(LociError, match=name):
        read_tensors(tmp_path / name)
    with pytest.raises(LociError, match="no such weights file"):
        read_tensors(tmp_path / f"absent-{name}")


def test_only_tensors(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "b": 3}, tmp_path / "t.pth")
    with pytest.raises(LociError, match="only tensors, but b are not"):
        read_tensors(tmp_path / "t.pth")
    torch.save([torch.ones(1)], tmp_path / "l.pth")
    with pytest.raises(LociError, match="found list"):
        read_tensors(tmp_path / "l.pth")


def test_every_problem_is_named() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    tensors = dict(module.state_dict())
    del tensors["0.bias"]
    tensors["1.weight"] = torch.zeros(4, 5)
    tensors["2.weight"] = torch.zeros(1)
    with pytest.raises(LociError) as caught:
        load_strict(module, tensors, "file")
    assert str(caught.value) == (
        "file: weights do not fit the model; 1 missing: 0.bias; 1 unexpected: 2.weight; "
        "1 misshapen: 1.weight [4, 5] instead of [4, 3]"
    )


def test_long_lists_are_counted() -> None:
    module = nn.Sequential(*(nn.Linear(1, 1) for _ in range(10)))
    with pytest.raises(LociError, match="20 missing: .* and 12 more$"):
        load_strict(module, {}, "file")


def test_on_the_meta_device_the_saved_type_is_kept() -> None:
    with torch.device("meta"):
        module = nn.Linear(2, 2)
    load_strict(module, nn.Linear(2, 2).bfloat16().state_dict(), "file")
    assert module.weight.dtype == torch.bfloat16
    assert not module.weight.is_meta


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LociError, match="cannot be written"):
        save_pretrained(tmp_path / "file" / "folder", Inner(), nn.Linear(1, 1))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_hub_id_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype | None
) -> None:
    """What the hub's own client fetches is read as a folder is; the hub itself is not asked."""
    asked = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        assert {"*.json", "*.safetensors"} <= set(allow_patterns)
        return str(tmp_path / "fetched")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    layer = nn.Linear(2, 3)
    save_pretrained(tmp_path / "fetched", Inner(), layer, dtype)
    loaded = load_pretrained(lambda config: nn.Linear(2, 3), Inner, "owner/name")
    assert asked == ["owner/name"]
    assert torch.equal(loaded.weight, layer.weight.to(dtype or torch.float32))


WRAPPED = {"a": torch.arange(3.0), "b.c": torch.ones(2, 2)}


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "_orig_mod.module."])
@pytest.mark.parametrize("name", ["t.safetensors", "t.pth"])
@pytest.mark.parametrize("prefix", ["", "b."])
def test_what_wraps_every_name_is_removed(
    tmp_path: Path, wrapper: str, name: str, prefix: str
) -> None:
    tensors = {wrapper + key: tensor for key, tensor in WRAPPED.items()}
    if name == "t.pth":
        torch.save({"epoch": 3, "model": tensors}, tmp_path / name)
    else:
        save_tensors(tmp_path / name, tensors)
    read = read_tensors(tmp_path / name, prefix)
    assert set(read) == ({"c"} if prefix else set(WRAPPED))
    assert torch.equal(read[list(read)[-1]], WRAPPED["b.c"])


def test_what_begins_only_some_names_belongs_to_them(tmp_path: Path) -> None:
    save_tensors(tmp_path / "t.safetensors", {"model.a": WRAPPED["a"], "b": WRAPPED["b.c"]})
    assert set(read_tensors(tmp_path / "t.safetensors")) == {"model.a", "b"}
    save_tensors(tmp_path / "t.safetensors", {"model.a": WRAPPED["a"]})
    assert set(read_tensors(tmp_path / "t.safetensors", "model.")) == {"a"}


def sharded(folder: Path, **files: str) -> Path:
    save_tensors(folder / "m-1.safetensors", {"a": WRAPPED["a"]})
    save_tensors(folder / "m-2.safetensors", {"b.c": WRAPPED["b.c"]})
    index = {"metadata": {}, "weight_map": {"a": "m-1.safetensors", "b.c": "m-2.safetensors"}}
    index["weight_map"] |= files
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors"


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    path = sharded(tmp_path)
    assert has_tensors(path)
    assert not has_tensors(tmp_path / "other.safetensors")
    for name in (path, path.with_name(path.name + ".index.json")):
        read = read_tensors(name)
        assert all(torch.equal(read[key], WRAPPED[key]) for key in WRAPPED)
    assert set(read_tensors(path, "b.")) == {"c"}
    with pytest.raises(LociError, match="d not in the files listed"):
        read_tensors(sharded(tmp_path, d="m-1.safetensors"))
    with pytest.raises(LociError, match="m-3.safetensors: no such weights file"):
        read_tensors(sharded(tmp_path, d="m-3.safetensors"))
    with pytest.raises(LociError, match="expected files beside the index"):
        read_tensors(sharded(tmp_path, d="../m-1.safetensors"))


def test_quantized_weights_are_refused() -> None:
    module = nn.Linear(2, 2)
    tensors = module.state_dict() | {"weight": torch.ones(2, 2, dtype=torch.int8)}
    with pytest.raises(LociError, match=r"quantised weights \(int8: weight\), expected float32"):
        load_strict(module, tensors, "file")
