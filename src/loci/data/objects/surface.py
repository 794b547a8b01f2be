"""Samples and signed distances of the surface that is visible from outside.

The object is rendered from many sides with parallel rays, and every pixel is a sample. Hidden
insides are left out, and normals point outwards whatever the winding of the mesh.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int8, UInt8

from loci.data.objects.cameras import RenderCamera, look_along, sphere_directions
from loci.data.objects.cleaning import UnusableObject
from loci.data.objects.render import ObjectRenderer
from loci.errors import LociError, install_hint

VIEWS = 32
PIXELS = 240
MIN_COSINE = 0.15  # between normal and ray: more oblique pixels are no samples
CELLS = 96  # of the grid in which the views of a place are counted


class OrthographicView(NamedTuple):
    """Depth (z) in the frame of a camera with parallel rays, inf where nothing is."""

    camera: RenderCamera
    depth: Float32[np.ndarray, "s s"]


class SurfaceSamples(NamedTuple):
    """Samples of a surface in the object's frame.

    Attributes:
        points: in [-0.5, 0.5]^3.
        normals: outward unit vectors.
        colors: RGB in [0, 1] under the even light.
    """

    points: Float32[np.ndarray, "n 3"]
    normals: Float32[np.ndarray, "n 3"]
    colors: Float32[np.ndarray, "n 3"]

    def take(self, rows: np.ndarray) -> "SurfaceSamples":
        """Some of the samples, by index or mask."""
        return SurfaceSamples(self.points[rows], self.normals[rows], self.colors[rows])

    def table(self) -> Float32[np.ndarray, "n 9"]:
        """Position, normal and colour of each sample."""
        return np.concatenate([self.points, self.normals, self.colors], axis=1)


def visible_surface(
    renderer: ObjectRenderer,
) -> tuple[SurfaceSamples, Float32[np.ndarray, " n"], list[OrthographicView]]:
    """Samples of the loaded mesh from every pixel of all views, the area of each, and the views.

    A pixel covers more area where the surface is oblique, and a place visible in many views has
    many samples: areas account for both, so that they add up to that of the surface.

    Raises:
        UnusableObject: when nothing is visible.
    """
    samples, sources, areas, views = [], [], [], []
    for index, direction in enumerate(sphere_directions(VIEWS)):
        rotation = look_along(-direction)
        camera = RenderCamera(rotation, np.array([0.0, 0.0, 2.0]), reach=0.9)
        buffers = renderer.draw(camera, PIXELS, smooth=False)
        views.append(OrthographicView(camera, buffers.depth))
        cosine = -(buffers.normal @ rotation[:, 2].astype(np.float32))
        rows, columns = np.nonzero(
            np.isfinite(buffers.depth) & (cosine > MIN_COSINE) & (cosine < 1.01)
        )
        step = 2 * camera.reach / PIXELS
        in_camera = np.stack(
            [
                camera.reach - (columns + 0.5) * step,
                camera.reach - (rows + 0.5) * step,
                buffers.depth[rows, columns] - 2,
            ],
            axis=1,
        )
        points = (in_camera @ rotation.T).astype(np.float32)
        colors = buffers.even[rows, columns, :3].astype(np.float32) / 255
        samples.append(SurfaceSamples(points, buffers.normal[rows, columns], colors))
        sources.append(np.full(len(rows), index))
        areas.append(step**2 / cosine[rows, columns])
    surface = SurfaceSamples(*(np.concatenate(parts) for parts in zip(*samples, strict=True)))
    if len(surface.points) == 0:
        raise UnusableObject("nothing visible")
    inside = np.all(np.abs(surface.points) < 0.5, axis=1)
    share = np.concatenate(areas) / _view_counts(surface, np.concatenate(sources))
    return surface.take(inside), share[inside].astype(np.float32), views


def uniform_samples(
    surface: SurfaceSamples,
    area: Float32[np.ndarray, " n"],
    count: int,
    rng: np.random.Generator,
    cover: int = 32,
) -> SurfaceSamples:
    """`count` samples uniform over the area, at least one in every cell of a `cover`^3 grid that
    the surface touches."""
    chosen = rng.choice(len(area), count, p=area.astype(np.float64) / area.sum(dtype=np.float64))
    cells = cell_numbers(surface.points, cover)
    first = np.unique(cells, return_index=True)[1]
    missed = first[~np.isin(cells[first], cells[chosen])]
    # They replace samples that are not the only one of their cell.
    spare = np.setdiff1d(np.arange(count), np.unique(cells[chosen], return_index=True)[1])
    missed = missed[: len(spare)]
    chosen[spare[: len(missed)]] = missed
    return surface.take(chosen)


def cell_numbers(points: Float32[np.ndarray, "n 3"], resolution: int) -> Int[np.ndarray, " n"]:
    """Which cell of a grid over [-0.5, 0.5]^3 each point is in: (x * r + y) * r + z."""
    x, y, z = np.clip((points + 0.5) * resolution, 0, resolution - 1).astype(np.int64).T
    return (x * resolution + y) * resolution + z


def _view_counts(surface: SurfaceSamples, sources: np.ndarray) -> np.ndarray:
    """In how many views the place of each sample is visible; samples in one cell that face the
    same way along an axis are one place."""
    axis = np.abs(surface.normals).argmax(axis=1)
    facing = 2 * axis + (np.take_along_axis(surface.normals, axis[:, None], 1)[:, 0] > 0)
    places = cell_numbers(surface.points, CELLS) * 6 + facing
    pairs = np.unique(places * VIEWS + sources)
    each, counts = np.unique(pairs // VIEWS, return_counts=True)
    return counts[np.searchsorted(each, places)]


GRID = 64
STEPS = 32  # of stored distances, a voxel
HALF_THICKNESS = 0.6  # in voxels, given to sheets and rods without an inside
SLACK = 0.05 / GRID  # how far in front of the depth a point must lie to be empty
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


def signed_distance(
    surface: SurfaceSamples, views: Sequence[OrthographicView]
) -> Int8[np.ndarray, "65 65 65"]:
    """Distances at the corners of the grid, positive outside, in steps of 1/32 voxel, clipped.

    Args:
        surface: all visible samples of the object.
        views: those they come from.

    Raises:
        LociError: when scipy is missing.
    """
    ndimage, KDTree = need_scipy()
    points, normals = _thinned(surface)
    axis = np.linspace(-0.5, 0.5, GRID + 1)
    corners = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    empty = visibly_empty(corners, views).reshape([GRID + 1] * 3)
    # Pockets behind a slot narrower than a voxel are visible in parts only: they count as inside.
    regions, _ = ndimage.label(np.pad(empty, 1, constant_values=True))
    inside = (regions != regions[0, 0, 0])[1:-1, 1:-1, 1:-1].reshape(-1)
    touched = ndimage.binary_dilation(occupied(surface.points, GRID), CUBE)
    close = _corners_of(touched)
    near_surface = _corners_of(ndimage.binary_dilation(touched, CUBE, iterations=3)) & ~close
    tree = KDTree(points)
    near, nearest = tree.query(corners[close])
    distance = np.full(len(corners), np.inf)
    distance[close] = near
    distance[near_surface], _ = tree.query(corners[near_surface], eps=0.1)  # approximate
    signed = np.where(inside, -1, 1) * distance * GRID
    # Right at the surface the plane of the nearest sample is the most exact.
    plane = ((corners[close] - points[nearest]) * normals[nearest]).sum(axis=1) * GRID
    signed[close] = np.where(near < 0.5 / GRID, plane, signed[close])
    # Sheets and rods have no corner well inside near the nearest sample: signs there are noise.
    core = (signed < -0.5).reshape([GRID + 1] * 3)
    solid = ndimage.binary_dilation(core, CUBE, iterations=2).reshape(-1)
    thin = ~solid[_nearest_corners(points)][nearest]
    signed[close] = np.where(thin, near * GRID - HALF_THICKNESS, signed[close])
    steps = np.clip(np.round(signed * STEPS), -127, 127)
    return steps.astype(np.int8).reshape(GRID + 1, GRID + 1, GRID + 1)


def visibly_empty(
    points: Float[np.ndarray, "n 3"], views: Sequence[OrthographicView]
) -> Bool[np.ndarray, " n"]:
    """Whether a point lies in front of the surface in some view."""
    empty = np.zeros(len(points), bool)
    left = np.arange(len(points))
    for camera, depth in views:
        # The nearest of the four pixels around it: the surface may be oblique.
        padded = np.pad(depth, 1, constant_values=np.inf)
        nearer = np.minimum(padded[1:], padded[:-1])
        nearer = np.minimum(nearer[:, 1:], nearer[:, :-1])
        in_camera = camera.place(points[left])
        pixels = (camera.reach - in_camera[:, :2]) * (len(depth) / 2 / camera.reach)
        column, row = (pixels + 0.5).astype(np.int64).clip(0, len(depth)).T
        free = in_camera[:, 2] < nearer[row, column] - SLACK
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
        raise LociError(f"surfaces need scipy: {install_hint('objects')}") from error
    return ndimage, KDTree


def _corners_of(grid: Bool[np.ndarray, "r r r"]) -> Bool[np.ndarray, " n"]:
    """The corners of the voxels that are set."""
    corners = np.zeros([side + 1 for side in grid.shape], bool)
    for x in (slice(None, -1), slice(1, None)):
        for y in (slice(None, -1), slice(1, None)):
            for z in (slice(None, -1), slice(1, None)):
                corners[x, y, z] |= grid
    return corners.reshape(-1)


def _thinned(surface: SurfaceSamples) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Points and normals of one sample in each fine cell."""
    first = np.unique(cell_numbers(surface.points, 3 * GRID), return_index=True)[1]
    return surface.points[first].astype(np.float64), surface.normals[first].astype(np.float64)
