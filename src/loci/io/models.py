"""Where a model is: shipped with the package, a folder, or on the Hugging Face hub."""

from pathlib import Path

from loci.errors import LociError

SHIPPED = Path(__file__).parents[1] / "shipped"
WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt")
LARGE = 1_000_000_000
"""Bytes of weights from which on a model computes in bfloat16 and on all threads."""


def shipped_folder(name: Path | str, config_name: str) -> Path | None:
    """The folder of a shipped model that has a file `config_name`; None if no shipped
    model has this name."""
    folder = SHIPPED / name
    return folder if Path(name).name == str(name) and (folder / config_name).is_file() else None


def pretrained_folder(source: Path | str) -> Path:
    """A local folder as it is, anything else as a hub id, downloaded (and cached) if need be.

    Raises:
        LociError: when it is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    text = str(source)
    if text and (SHIPPED / text).is_dir():
        raise LociError(f"{text}: a shipped model for another command (doom walks, home lifts)")
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise LociError(
            f"{text}: no such model folder, and no model of that name is shipped; expected one of "
            "them or a hub id (owner/name)"
        )
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(text, allow_patterns=["*.json", "*.safetensors", "*.model"]))
    except ImportError as error:
        raise LociError(f"{text}: hub ids need the package huggingface_hub") from error
    except Exception as error:  # network, authentication, unknown repository
        raise LociError(f"{text}: neither a model folder nor a reachable hub id") from error


def find_model(source: Path | str, config_name: str) -> Path:
    """A shipped model by its name, a folder or a file as it is, or the folder of a hub id.

    Raises:
        LociError: when it is none of them.
    """
    shipped = shipped_folder(source, config_name)
    if shipped is not None:
        return shipped
    return Path(source) if Path(source).is_file() else pretrained_folder(source)


def weight_bytes(model: Path) -> int:
    """The size of a model's weights on disk; of the whole folder where `model` is a file."""
    folder = model.parent if model.is_file() else model
    files = (path for path in folder.rglob("*") if path.suffix in WEIGHT_SUFFIXES)
    return sum(path.stat().st_size for path in files)
