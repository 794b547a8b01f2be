"""`walk.loci`: a walk on disk, to be resumed or forked.

A safetensors file whose tensors are the state and whose metadata names the format, the world it
belongs to and the plan of its memory.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loci.errors import LociError
from loci.files import replacing
from loci.world.context import Prompt
from loci.world.world import WalkState, World

FORMAT = "loci-walk-1"
_NUMBERS = ("seed", "frames", "chunks")


def save_walk(path: str | Path, state: WalkState, world: World) -> None:
    """Write a walk, whole or not at all.

    Raises:
        LociError: when the file cannot be written.
    """
    from safetensors.torch import save

    memory, plan = world.memory.state_dict(state.memory)
    tensors = {"local": state.local, "pose": state.pose}
    tensors |= {f"memory.{name}": tensor for name, tensor in memory.items()}
    tensors |= {f"codec.{name}": tensor for name, tensor in state.codec.items()}
    if state.prompt is not None:
        tensors |= {"prompt.states": state.prompt.states, "prompt.mask": state.prompt.mask}
    numbers = {name: getattr(state, name) for name in _NUMBERS}
    content = {"memory": plan, "world": _identity(world), **numbers}
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    data = save(plain, metadata={"format": FORMAT, "walk": json.dumps(content)})
    with replacing(path) as part:
        part.write_bytes(data)


def load_walk(path: str | Path, world: World) -> WalkState:
    """Read a walk that `save_walk` wrote, to go on with it in the same world.

    Raises:
        LociError: when the file is absent, damaged, no walk, or a walk in another world.
    """
    content, tensors = _read(Path(path))
    found, expected = content.get("world"), _identity(world)
    if found != expected:
        found = found if isinstance(found, dict) else {}
        differing = [part for part in expected if found.get(part) != expected[part]]
        raise LociError(f"{path}: a walk in another world ({', '.join(differing)} differ)")
    device = world.transformer.patch_embedding.weight.device
    tensors = {
        name: tensor if tensor.dtype == torch.float64 else tensor.to(device)
        for name, tensor in tensors.items()
    }
    try:
        memory = world.memory.from_state_dict(_under("memory.", tensors), content["memory"])
        prompt = _under("prompt.", tensors)
        return WalkState(
            **{name: int(content[name]) for name in _NUMBERS},
            memory=memory,
            codec=_under("codec.", tensors),
            local=tensors["local"],
            pose=tensors["pose"],
            prompt=Prompt(prompt["states"], prompt["mask"]) if prompt else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LociError(f"{path}: a damaged walk, cannot be read ({error!r})") from error


def _identity(world: World) -> dict[str, Any]:
    """What must agree between the world a walk was saved in and the one that resumes it."""
    parts = {"world": asdict(world.config), "transformer": asdict(world.transformer.config)}
    return json.loads(json.dumps(parts))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise LociError(f"{path}: no such walk") from error
    except (SafetensorError, OSError) as error:
        raise LociError(
            f"{path}: damaged or no walk, expected a file of loci walk --save"
        ) from error
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "another kind of file")
        raise LociError(f"{path}: expected a walk ({FORMAT}), found {found}")
    try:
        return json.loads(metadata["walk"]), tensors
    except (KeyError, json.JSONDecodeError) as error:
        raise LociError(f"{path}: a damaged walk, its description cannot be read") from error


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
