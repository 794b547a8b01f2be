"""Judges a model of labelled films: does it obey, does it stand still, does it predict?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from loci.bench.metrics import psnr, shift_right
from loci.bench.studies.hand_films import (
    FIRST_HELD_OUT,
    STEP,
    TURN,
    Command,
    HandFilms,
    obeyed,
)
from loci.bench.studies.label_training import TARGETS, LabelledFilms, draw_starts
from loci.bench.world.control import MOTIONS
from loci.codecs.base import Codec
from loci.envs.base import MapPose
from loci.envs.doom.engine import BACK, FORWARD, LEFT, RIGHT, STRAFE_LEFT, STRAFE_RIGHT
from loci.envs.doom.maps import make_map
from loci.errors import LociError
from loci.train.world.batches import WorldBatch
from loci.train.world.evaluate import predict_frames, predict_latents
from loci.world.transformer import WorldTransformer

ROOM = 48.0
"""Map units that are free around a start: a command goes 28."""
MOVED = 2
"""Pixels of 128 by which a picture has moved that should stand still."""
ENGINE: dict[tuple[int, int], Command] = {
    (0, LEFT): (0.0, 0.0, TURN),
    (0, RIGHT): (0.0, 0.0, -TURN),
    (FORWARD, 0): (STEP, 0.0, 0.0),
    (BACK, 0): (-STEP, 0.0, 0.0),
    (STRAFE_LEFT, 0): (0.0, STEP, 0.0),
    (STRAFE_RIGHT, 0): (0.0, -STEP, 0.0),
    (0, 0): (0.0, 0.0, 0.0),
}
"""What each command means in the engine, in every frame: what the median walker does."""
Frames = UInt8[np.ndarray, "n h w 3"]


@dataclass(frozen=True)
class Examination:
    """What models are asked, the same for all.

    Attributes:
        next: held-out examples with their true actions.
        frames: the true frames of their targets.
        moving: whether their first action is one.
        starts: held-out examples that commands are given to, with room around.
        engine: what the engine shows for each command from there: first and last frame.
        codec: of the latents.
    """

    next: WorldBatch
    frames: UInt8[np.ndarray, "b t h w 3"]
    moving: Bool[np.ndarray, "b"]
    starts: WorldBatch
    engine: UInt8[np.ndarray, "s k 2 h w 3"]
    codec: Codec

    @classmethod
    def prepare(
        cls, films: HandFilms, true: Int[np.ndarray, "m t 2"], codec: Codec, count: int, starts: int
    ) -> Examination:
        """`count` examples of the next frames, and `starts` of commands.

        Raises:
            LociError: when fewer frames have room around them.
        """
        latents, actions = torch.from_numpy(films.held_out), torch.from_numpy(true)
        held_out = LabelledFilms(latents, actions, torch.ones(actions.shape[:2]).bool(), true)
        rng = np.random.default_rng(5)
        at = draw_starts(held_out, held_out.by_action(), count, rng)
        following = held_out.batch(*at)
        frames = films.held_out_frames[at[0][:, None], following.target_frames.numpy()]
        places = roomy(films.held_out_poses, held_out.starts)
        if len(places) < starts:
            raise LociError(f"{len(places)} held-out frames have room around, expected {starts}")
        chosen = places[rng.choice(len(places), starts, replace=False)]
        poses: list[tuple[int, MapPose]] = [
            (FIRST_HELD_OUT + int(k), tuple(films.held_out_poses[k, t].tolist())) for k, t in chosen
        ]
        engine = obeyed(poses, list(ENGINE.values()), TARGETS)[:, :, [0, -1]]
        moving = np.asarray(true[at[0], at[1]].any(axis=-1))
        commanded = held_out.batch(chosen[:, 0], chosen[:, 1])
        return cls(following, frames, moving, commanded, engine, codec)

    def of_engine(self) -> dict[str, Any]:
        """How the engine's own frames are judged: how far the measurement can be trusted."""
        commands = {
            action: (self.engine[:, k, 0], self.engine[:, k, 1]) for k, action in enumerate(ENGINE)
        }
        return obedience(commands)

    def of_model(self, world: WorldTransformer) -> dict[str, Any]:
        """Obedience, stillness, and the PSNR of the next frames under their true actions."""
        shown = as_pixels(predict_frames(world, self.next, "true", self.codec))
        flat = [x.reshape(-1, *x.shape[2:]) for x in (shown, self.frames)]
        decibels = psnr(flat[0], flat[1]).reshape(shown.shape[:2]).mean(axis=1)
        first = self.codec.decode(self.starts.local[:, :, None]).transpose(1, 2)
        before = as_pixels(first)[:, 0]
        commands = {}
        for action in ENGINE:
            ids = torch.tensor(action).expand(len(before), TARGETS, 2)
            asked = replace(self.starts, actions=ids)
            last = predict_latents(world, asked, "true")[:, :, -1:]
            commands[action] = before, as_pixels(self.codec.decode(last).transpose(1, 2))[:, 0]
        return {
            "psnr": float(decibels.mean()),
            "psnr_moving": _mean(decibels[self.moving]),
            "psnr_still": _mean(decibels[~self.moving]),
            **obedience(commands),
        }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def roomy(poses: Float[np.ndarray, "m t 3"], frames: range) -> Int[np.ndarray, "k 2"]:
    """Films and frames with room around the walker."""
    found = []
    for film, path in enumerate(poses):
        doom_map = make_map(FIRST_HELD_OUT + film)
        free = [t for t in frames if doom_map.is_clear(path[t, 0], path[t, 1], ROOM)]
        found += [(film, t) for t in free]
    return np.array(found).reshape(-1, 2)


def as_pixels(frames: Float[Tensor, "b t 3 h w"]) -> UInt8[np.ndarray, "b t h w 3"]:
    """From [-1, 1]."""
    pixels = ((frames.clamp(-1, 1) + 1) * 127.5).round().byte()
    return pixels.permute(0, 1, 3, 4, 2).numpy()


def obedience(commands: dict[tuple[int, int], tuple[Frames, Frames]]) -> dict[str, Any]:
    """Scores of pictures before and after each command.

    Returns:
        the share that moved as told, of each kind and their mean; how far turns moved the picture
        in pixels; and of the command to stand still, how far the picture moved aside in pixels, how
        often by `MOVED` or more, and the PSNR of the last picture against the first.
    """
    result: dict[str, Any] = {}
    turns = []
    for name, (action, measure, sign) in MOTIONS.items():
        moved = measure(*commands[action])
        result[name] = float((np.sign(moved) == sign).mean())
        if action[1]:
            turns.append(float((sign * moved).mean()))
    result["obedience"] = float(np.mean([result[name] for name in MOTIONS]))
    result["turn_pixels"] = float(np.mean(turns))
    aside = np.abs(shift_right(*commands[0, 0]))
    result["still_pixels"] = float(aside.mean())
    result["still_moved"] = float((aside >= MOVED).mean())
    result["still_psnr"] = float(psnr(*commands[0, 0]).mean())
    return result
