"""What the page's map shows: the dead-reckoned path, and the memory tokens that are kept now."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loci.app.play.player import Player
    from loci.app.play.timeline import Timeline

MAX_PATH_FRAMES, MAX_PATH_POINTS = 16384, 1024
"""The path of the last frames is shown, by poses that are evenly spread over it."""


def memory_map(player: Player) -> dict[str, Any]:
    """Poses are [heading in radians, x, y in the world's units], dead-reckoned from the actions:
    they know no walls. Tokens are given by the frames they stand for, oldest first; those of
    before a saved walk was resumed have numbers below 0."""
    from loci.memory.keyframes import add_keyframes

    timeline = player.timeline
    state = player.pending.chunk.state_after() if player.pending else timeline.state
    memory, skipped = state.memory, timeline.skipped
    held, tokens = memory.settled, []
    if held is not None:
        if memory.keyframes is not None:
            held = add_keyframes(memory.keyframes, held)
        poses = [None] * len(held.spans)
        if held.poses is not None:
            poses = [[round(float(v), 3) for v in pose] for pose in held.poses[0]]
        tokens = [
            {
                "level": span.level,
                "start": span.start - skipped,
                "end": span.end - skipped,
                "pose": pose,
            }
            for span, pose in zip(held.spans, poses, strict=True)
        ]
    return {
        "path": _path(timeline),
        "pose": _pose(state.pose[0]),
        "tokens": tokens,
        "moment": timeline.moment,
        "earliest": timeline.earliest,
        "frames": player.last + 1,
        "committed": timeline.length - 1,
        "bytes": memory.nbytes,
    }


def _path(timeline: Timeline) -> list[list[float]]:
    """Poses along the committed walk, the last one among them."""
    import torch

    from loci.memory.poses import dead_reckon

    recent = [k for k in timeline.states if timeline.end(k) >= timeline.length - MAX_PATH_FRAMES]
    first = min(recent)
    start, scale = timeline.states[first].pose, timeline.world.config.action_scale
    ids = timeline.actions(timeline.end(first))
    if scale is None or not len(ids):
        return [_pose(start[0])]
    move, view = torch.from_numpy(ids)[None].unbind(-1)
    poses = dead_reckon(start, move, view, scale)[0]
    stride = max(timeline.world.chunk_frames, math.ceil(len(poses) / MAX_PATH_POINTS))
    shown = torch.cat([start.to(poses), poses[:-1][stride - 1 :: stride], poses[-1:]])
    return shown.numpy().round(3).tolist()


def _pose(pose: Any) -> list[float]:
    return [round(float(value), 3) for value in pose]
