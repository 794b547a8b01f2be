"""Where a model is found."""

import huggingface_hub
import pytest

from loci.errors import LociError
from loci.io.models import find_model, pretrained_folder


@pytest.mark.parametrize("source", ["absent", "./a/b", "/a/b", "a/b/c"])
def test_what_is_neither_folder_nor_hub_id(source: str) -> None:
    with pytest.raises(LociError, match="no such model folder"):
        pretrained_folder(source)


def test_a_hub_id_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(name: str, **options: object) -> str:
        raise ConnectionError("no way there")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(LociError, match="owner/name: neither a model folder nor a reachable"):
        pretrained_folder("owner/name")


@pytest.mark.parametrize("name", ["doom", "home"])
def test_a_shipped_model_of_another_kind_is_told_apart(name: str) -> None:
    with pytest.raises(LociError, match=f"{name}: a shipped model for another command"):
        find_model(name, "config of neither.json")
