"""What the page's map shows: the dead-reckoned path, and the memory tokens that are kept now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loci.app.play.player import Player


def memory_map(player: Player) -> dict[str, Any]:
    """Poses are [heading in radians, x, y in the world's units], dead-reckoned from the actions:
    they know no walls. Tokens are given by the frames they stand for, oldest first; those of
    before a saved walk was resumed have numbers below 0."""
    from loci.memory.keyframes import add_keyframes

    timeline = player.timeline
    state = player.pending.chunk.after if player.pending else timeline.state
    path = [_pose(timeline.states[k].pose[0]) for k in sorted(timeline.states)]
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
        "path": path,
        "pose": _pose(state.pose[0]),
        "tokens": tokens,
        "moment": timeline.moment,
        "earliest": timeline.earliest,
        "frames": player.last + 1,
        "committed": timeline.length - 1,
        "bytes": memory.nbytes,
    }


def _pose(pose: Any) -> list[float]:
    return [round(float(value), 3) for value in pose]
