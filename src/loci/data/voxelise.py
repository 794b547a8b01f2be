"""Grids of an object: which voxels its surface touches, and the distance to the surface.

Files of furniture are rarely watertight, and full of hidden surfaces. So what counts as outside is
what some camera saw to be empty; sheets and rods without an inside get a little thickness.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int8, UInt8

from loci.data.object_surface import Side, Surface, cell_numbers
from loci.errors import LociError

GRID = 64
STEPS = 32  # of a stored distance, a voxel of the grid
THICKNESS = 0.6  # half of it, in voxels, for what has no inside
SLACK = 0.05 / GRID  # of a depth, before a place in front of it is taken to be empty
CUBE = np.ones((3, 3, 3), bool)


def occupied(points: Float32[np.ndarray, "n 3"], resolution: int) -> Bool[np.ndarray, "r r r"]:
    """The voxels that hold a point; axes x, y, z."""
    grid = np.zeros(resolution**3, bool)
    grid[cell_numbers(points, resolution)] = True
    return grid.reshape(resolution, resolution, resolution)


def pack(grid: Bool[np.ndarray, "r r r"]) -> UInt8[np.ndarray, " n"]:
    return np.packbits(grid)


def unpack(bits: UInt8[np.ndarray, " n"], resolution: int = GRID) -> Bool[np.ndarray, "r r r"]:
    return np.unpackbits(bits).astype(bool).reshape(resolution, resolution, resolution)


def signed_distance(surface: Surface, sides: Sequence[Side]) -> Int8[np.ndarray, "65 65 65"]:
    """Distances at the corners of the grid, positive outside, in steps of 1/32 voxel, clipped.

    Args:
        surface: what is seen of the object.
        sides: the views it was seen in.

    Raises:
        LociError: when scipy is missing.
    """
    ndimage, KDTree = need_scipy()
    points, normals = _thinned(surface)
    axis = np.linspace(-0.5, 0.5, GRID + 1)
    corners = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    empty = seen_empty(corners, sides).reshape([GRID + 1] * 3)
    # Pockets behind a slot narrower than a voxel are seen in bits only: they count as inside.
    regions, _ = ndimage.label(np.pad(empty, 1, constant_values=True))
    inside = (regions != regions[0, 0, 0])[1:-1, 1:-1, 1:-1].reshape(-1)
    touched = ndimage.binary_dilation(occupied(surface.points, GRID), CUBE)
    close = _corners_of(touched)
    reachable = _corners_of(ndimage.binary_dilation(touched, CUBE, iterations=3)) & ~close
    tree = KDTree(points)
    near, nearest = tree.query(corners[close])
    distance = np.full(len(corners), np.inf)
    distance[close] = near
    distance[reachable], _ = tree.query(corners[reachable], eps=0.1)  # far: about
    signed = np.where(inside, -1, 1) * distance * GRID
    # Right at the surface the plane of the nearest sample is more exact than anything else.
    plane = ((corners[close] - points[nearest]) * normals[nearest]).sum(axis=1) * GRID
    signed[close] = np.where(near < 0.5 / GRID, plane, signed[close])
    # A sheet or a rod: no corner well inside is near the nearest sample, and signs there are noise.
    core = (signed < -0.5).reshape([GRID + 1] * 3)
    solid = ndimage.binary_dilation(core, CUBE, iterations=2).reshape(-1)
    thin = ~solid[_nearest_corners(points)][nearest]
    signed[close] = np.where(thin, near * GRID - THICKNESS, signed[close])
    steps = np.clip(np.round(signed * STEPS), -127, 127)
    return steps.astype(np.int8).reshape(GRID + 1, GRID + 1, GRID + 1)


def seen_empty(points: Float[np.ndarray, "n 3"], sides: Sequence[Side]) -> Bool[np.ndarray, " n"]:
    """Whether a place is in front of all that some side sees around it."""
    empty = np.zeros(len(points), bool)
    left = np.arange(len(points))
    for camera, depth in sides:
        # Between the middles of pixels the nearer counts: the surface may be oblique.
        padded = np.pad(depth, 1, constant_values=np.inf)
        nearer = np.minimum(padded[1:], padded[:-1])
        nearer = np.minimum(nearer[:, 1:], nearer[:, :-1])
        seen = camera.place(points[left])
        pixels = (camera.reach - seen[:, :2]) * (len(depth) / 2 / camera.reach)
        column, row = (pixels + 0.5).astype(np.int64).clip(0, len(depth)).T
        free = seen[:, 2] < nearer[row, column] - SLACK
        empty[left[free]] = True
        left = left[~free]
    return empty


def _nearest_corners(points: np.ndarray) -> np.ndarray:
    x, y, z = np.round((points + 0.5) * GRID).astype(np.int64).clip(0, GRID).T
    return (x * (GRID + 1) + y) * (GRID + 1) + z


def need_scipy() -> tuple[Any, Any]:
    """scipy.ndimage and KDTree; raises LociError when scipy is missing."""
    try:
        from scipy import ndimage
        from scipy.spatial import KDTree
    except ImportError as error:
        raise LociError("scipy is missing, expected: pip install 'genius-loci[objects]'") from error
    return ndimage, KDTree


def _corners_of(grid: Bool[np.ndarray, "r r r"]) -> Bool[np.ndarray, " n"]:
    """The corners of the voxels that are set."""
    corners = np.zeros([side + 1 for side in grid.shape], bool)
    for x in (slice(None, -1), slice(1, None)):
        for y in (slice(None, -1), slice(1, None)):
            for z in (slice(None, -1), slice(1, None)):
                corners[x, y, z] |= grid
    return corners.reshape(-1)


def _thinned(surface: Surface) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Point and normal of one sample for each fine cell: distances need no more."""
    first = np.unique(cell_numbers(surface.points, 3 * GRID), return_index=True)[1]
    return surface.points[first].astype(np.float64), surface.normals[first].astype(np.float64)
