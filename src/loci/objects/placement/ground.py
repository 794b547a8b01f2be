"""Distances of objects that stand on one plane, where no geometry tells them.

A picture alone gives an object's pose up to a factor: twice as far and twice as large, it looks the
same. If all objects stand on one plane, what they share is its height below the camera, which
fixes all factors but one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.rotations import quaternion_to_matrix
from loci.objects.placement.pose import Pose

CONTACT = 0.02
"""Share of an object's points that may lie below its contact with the ground: strays of its
generated shape."""
MIN_SLOPE = 0.03
"""Least sine of the angle below the horizon at which a contact is seen: nearer to it, distances are
a guess, and above it an object does not stand on what the camera looks down on."""


def common_up(poses: Sequence[Pose]) -> Float[Tensor, "3"]:
    """The mean of the objects' verticals in the camera frame, of unit length."""
    ups = torch.stack([quaternion_to_matrix(pose.rotation)[0, 2] for pose in poses])
    return torch.nn.functional.normalize(ups.mean(0), dim=0)


def ground_factors(
    poses: Sequence[Pose], points: Sequence[Float[Tensor, "n 3"]]
) -> Float[Tensor, "k"]:
    """By how much each object is moved away along its ray, and enlarged, to stand on the plane of
    the first one that can be seen to stand.

    Args:
        poses: batches of one.
        points: of every object, in its own frame (z up).

    Returns:
        Factors, 1 for that first one. NaN where an object's lowest points are seen above the
        horizon or too near to it.
    """
    up = common_up(poses)
    heights = []
    for pose, own in zip(poses, points, strict=True):
        placed = pose.place(own[None])[0]
        height = placed @ up
        low = height.kthvalue(1 + int(CONTACT * (len(height) - 1)))
        down = -float(low.values)
        stands = down > MIN_SLOPE * float(placed[low.indices].norm())
        heights.append(down if stands else torch.nan)
    found = torch.tensor(heights)
    first = found[~found.isnan()][:1]
    return first / found if len(first) else found


def moved_away(pose: Pose, factor: float) -> Pose:
    """The pose of an object that looks the same, `factor` times as far away."""
    return pose._replace(translation=pose.translation * factor, scale=pose.scale * factor)
