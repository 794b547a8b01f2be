"""`walk.loci`: a walk on disk, to be resumed or forked.

A safetensors file. Its tensors are the state; its metadata holds the format, what the walk is of
(world, merge schedule, counts) and a hash of everything, so that damage is noticed.
"""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loci.errors import LociError
from loci.io.config_files import config_from_dict
from loci.io.files import replacing
from loci.nn.placement import fingerprint
from loci.world.conditioning import Prompt
from loci.world.world import WalkState, World

FORMAT = "loci-walk-2"
FORMER_FORMAT = "loci-walk-1"
"""The same without a hash."""
_NUMBERS = {"seed": "seed", "frames": "frame_count", "chunks": "chunk_count"}
"""Numbers of a walk by their names in the file."""


def save_walk(
    path: str | Path,
    state: WalkState,
    world: World,
    video: dict[str, str] | None = None,
    skipped: int = 0,
) -> None:
    """Write a walk, whole or not at all.

    Args:
        path: the file to write.
        state: the walk.
        world: what it was walked in.
        video: what is kept of the video of its frames, for `loci walk --resume`.
        skipped: frames before those that `loci play` keeps of it.

    Raises:
        LociError: when the file cannot be written.
    """
    from safetensors.torch import save

    memory, schedule = world.memory.state_dict(state.memory)
    tensors = {"local": state.newest_latent, "pose": state.pose}
    tensors |= {f"memory.{name}": tensor for name, tensor in memory.items()}
    tensors |= {f"codec.{name}": tensor for name, tensor in state.codec_state.items()}
    if state.prompt is not None:
        tensors |= {"prompt.states": state.prompt.states, "prompt.mask": state.prompt.mask}
    numbers = {name: getattr(state, field) for name, field in _NUMBERS.items()}
    described = {"memory": schedule, "world": _identity(world), "video": video, **numbers}
    content = json.dumps(described | {"skipped": skipped})
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "walk": content, "sha256": _digest(content, plain)}
    data = save(plain, metadata=metadata)
    try:
        with replacing(path) as part:
            part.write_bytes(data)
    except OSError as error:
        raise LociError(f"{path}: cannot be written ({error.strerror})") from error


def load_walk(path: str | Path, world: World) -> WalkState:
    """Read a walk that `save_walk` wrote, to go on with it in the same world.

    Raises:
        LociError: when the file is absent, damaged, no walk, or a walk in another world (another
            configuration, or other weights).
    """
    content, tensors = _read(Path(path))
    differing = _differences(content.get("world"), world)
    if differing:
        raise LociError(f"{path}: a walk in another world ({', '.join(differing)} differ)")
    tensors = {  # poses are computed on the CPU, in float64
        name: tensor if tensor.dtype == torch.float64 else tensor.to(world.device)
        for name, tensor in tensors.items()
    }
    try:
        if tensors["local"].ndim != 5 or tensors["pose"].shape != (1, 3):
            raise ValueError("local or pose of another shape")
        memory = world.memory.from_state_dict(_under("memory.", tensors), content["memory"])
        prompt = _under("prompt.", tensors)
        return WalkState(
            **{field: int(content[name]) for name, field in _NUMBERS.items()},
            memory=memory,
            codec_state=_under("codec.", tensors),
            newest_latent=tensors["local"],
            pose=tensors["pose"],
            prompt=Prompt(prompt["states"], prompt["mask"]) if prompt else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LociError(f"{path}: a damaged walk, cannot be read ({error!r})") from error
    except LociError as error:
        raise LociError(f"{path}: a damaged walk; {error}") from error


def _identity(world: World) -> dict[str, Any]:
    """What must agree between the world a walk was saved in and the one that resumes it."""
    parts = {
        "world": asdict(world.config),
        "transformer": asdict(world.transformer.config),
        "codec": asdict(world.codec.config),
        "weights": fingerprint(world.transformer),
    }
    return json.loads(json.dumps(parts))


def _differences(saved: Any, world: World) -> list[str]:
    """Which parts of the world a walk was saved in differ from those of this one."""
    saved = saved if isinstance(saved, dict) else {}
    kinds = {
        "world": world.config,
        "transformer": world.transformer.config,
        "codec": world.codec.config,
    }
    differing = []
    for part, config in kinds.items():
        try:
            found = config_from_dict(type(config), saved.get(part))
        except LociError:
            found = None
        if part == "world" and found is not None:
            # What it was trained on, and how it is sampled, do not say which world it is.
            found = replace(found, fov=config.fov, sampling=config.sampling)
        if found != config:
            differing.append(part)
    if saved.get("weights") != fingerprint(world.transformer):
        differing.append("weights")
    return differing


def _digest(content: str, tensors: dict[str, Tensor]) -> str:
    """A hash of the description, and of the name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256(content.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
    if metadata.get("format") not in (FORMAT, FORMER_FORMAT):
        found = metadata.get("format", "another kind of file")
        raise LociError(f"{path}: expected a walk ({FORMAT}), found {found}")
    if metadata["format"] == FORMAT:
        intact = metadata.get("sha256") == _digest(metadata.get("walk", ""), tensors)
    else:
        intact = all(tensor.isfinite().all() for tensor in tensors.values())
    if not intact:
        raise LociError(f"{path}: a damaged walk, its content has changed since it was saved")
    try:
        content = json.loads(metadata["walk"])
    except (KeyError, json.JSONDecodeError) as error:
        raise LociError(f"{path}: a damaged walk, its description cannot be read") from error
    if not isinstance(content, dict):
        raise LociError(f"{path}: a damaged walk, its description is no dictionary")
    return content, tensors


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
