"""Fine codes kept as they are beside the cover: of all views seen, the few that differ most.

A merged code knows what was seen, but not sharply. What a walk may come back to is a view, and a
few dozen views are most of a place.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from loci.memory.codes import Codes, gather

TURN = math.radians(40.0)
"""A turn that makes a view as different ..."""
PLACE = 2.0
"""... as being this far away, in cells."""


def kept(before: Codes | None, fresh: Codes, count: int) -> Codes:
    """At most `count` codes, oldest first: each fresh one comes in, and where there are too many,
    one of the two most alike goes.

    Of the two it is the one that is more like the others, and the newer one where that decides
    nothing: what a walk made itself is never truer than what it was made from. Codes come one
    after the other, so it does not matter how many come at once.

    Raises:
        ValueError: for codes without poses, which cannot be told apart.
    """
    if fresh.poses is None:
        raise ValueError("keepsakes are chosen by poses: every latent needs one")
    codes = fresh if before is None else gather([before, fresh])
    poses, rows = codes.poses, list(range(len(codes.spans) - len(fresh.spans)))
    assert poses is not None
    known = poses.cpu().double()
    for new in range(len(rows), len(codes.spans)):
        rows.append(new)
        if len(rows) > count:
            rows.pop(_least_missed(differences(known[:, rows])))
    chosen = torch.tensor(rows, device=codes.tokens.device, dtype=torch.long)
    return Codes(
        codes.tokens[:, :, chosen],
        poses[:, chosen.to(poses.device)],
        tuple(codes.spans[row] for row in rows),
    )


def beside(kept: Codes, cover: Codes) -> Codes:
    """Both, oldest first; what stands in the cover is there once."""
    extra = [row for row, span in enumerate(kept.spans) if span not in set(cover.spans)]
    poses = None if kept.poses is None else kept.poses[:, extra]
    spans = tuple(kept.spans[row] for row in extra)
    joined = gather([Codes(kept.tokens[:, :, extra], poses, spans), cover])
    order = sorted(range(len(joined.spans)), key=lambda row: (joined.spans[row].start, -row))
    return Codes(
        joined.tokens[:, :, order],
        None if joined.poses is None else joined.poses[:, order],
        tuple(joined.spans[row] for row in order),
    )


def differences(poses: Float[Tensor, "b n 4"]) -> Float[Tensor, "n n"]:
    """How different views are, the mean over a batch of walks: 1 for `TURN` or for `PLACE`."""
    turn = poses[:, :, None, 0] - poses[:, None, :, 0]
    turn = torch.atan2(turn.sin(), turn.cos()) / TURN
    place = (poses[:, :, None, 1:3] - poses[:, None, :, 1:3]) / PLACE
    return (turn.square() + place.square().sum(dim=-1)).sqrt().mean(dim=0)


def _least_missed(apart: Float[Tensor, "n n"]) -> int:
    apart = apart.clone().fill_diagonal_(math.inf)
    first, second = divmod(int(apart.argmin()), len(apart))
    others = apart[[first, second]]
    others[:, [first, second]] = math.inf
    nearest = others.amin(dim=1)
    return first if nearest[0] < nearest[1] else second
