"""What of an object's surface can be seen from outside: points, outward normals, colours.

The object is drawn from many sides with parallel rays; every pixel is a sample. So hidden insides
are left out, and normals point outward whatever the file says.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from loci.data.mesh_cleaning import Unusable
from loci.data.object_cameras import RenderCamera, look, sphere_directions
from loci.data.object_render import ObjectRenderer

SIDES = 32
PIXELS = 240
GRAZING = 0.15  # the least cosine to a ray that counts as seen
CELLS = 96  # of the grid in which a place's observers are counted


class Side(NamedTuple):
    """A view with parallel rays: z in its camera frame, inf where nothing is."""

    camera: RenderCamera
    depth: Float32[np.ndarray, "s s"]


class Surface(NamedTuple):
    """Samples of a surface in the object's frame.

    Attributes:
        points: in [-0.5, 0.5]^3.
        normals: outward unit vectors.
        colors: RGB in [0, 1] under the even light.
    """

    points: Float32[np.ndarray, "n 3"]
    normals: Float32[np.ndarray, "n 3"]
    colors: Float32[np.ndarray, "n 3"]

    def take(self, rows: np.ndarray) -> "Surface":
        """Some of the samples, by their numbers or a mask."""
        return Surface(self.points[rows], self.normals[rows], self.colors[rows])

    def table(self) -> Float32[np.ndarray, "n 9"]:
        """Position, normal and colour of each sample."""
        return np.concatenate([self.points, self.normals, self.colors], axis=1)


def seen_surface(
    renderer: ObjectRenderer,
) -> tuple[Surface, Float32[np.ndarray, " n"], list[Side]]:
    """Every pixel of the loaded mesh from all sides, the area that each stands for, and the sides.

    A pixel covers more area where the surface is oblique, and a place that is seen from many sides
    has many pixels: the areas count this in, so that they add up to that of the surface.

    Raises:
        Unusable: when nothing is seen.
    """
    found, seers, areas, sides = [], [], [], []
    for index, direction in enumerate(sphere_directions(SIDES)):
        rotation = look(-direction)
        camera = RenderCamera(rotation, np.array([0.0, 0.0, 2.0]), reach=0.9)
        picture = renderer.draw(camera, PIXELS, smooth=False)
        sides.append(Side(camera, picture.depth))
        cosine = -(picture.normal @ rotation[:, 2].astype(np.float32))
        rows, columns = np.nonzero(
            np.isfinite(picture.depth) & (cosine > GRAZING) & (cosine < 1.01)
        )
        step = 2 * camera.reach / PIXELS
        seen = np.stack(
            [
                camera.reach - (columns + 0.5) * step,
                camera.reach - (rows + 0.5) * step,
                picture.depth[rows, columns] - 2,
            ],
            axis=1,
        )
        points = (seen @ rotation.T).astype(np.float32)
        colors = picture.even[rows, columns, :3].astype(np.float32) / 255
        found.append(Surface(points, picture.normal[rows, columns], colors))
        seers.append(np.full(len(rows), index))
        areas.append(step**2 / cosine[rows, columns])
    surface = Surface(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    if len(surface.points) == 0:
        raise Unusable("nothing to be seen")
    inside = np.all(np.abs(surface.points) < 0.5, axis=1)
    share = np.concatenate(areas) / _observers(surface, np.concatenate(seers))
    return surface.take(inside), share[inside].astype(np.float32), sides


def even_samples(
    surface: Surface,
    area: Float32[np.ndarray, " n"],
    count: int,
    rng: np.random.Generator,
    cover: int = 32,
) -> Surface:
    """`count` samples, uniform over the area; every cell of a `cover`^3 grid that the surface
    touches has at least one."""
    chosen = rng.choice(len(area), count, p=area.astype(np.float64) / area.sum(dtype=np.float64))
    cells = cell_numbers(surface.points, cover)
    first = np.unique(cells, return_index=True)[1]
    missed = first[~np.isin(cells[first], cells[chosen])]
    # In place of samples that are not the only one of their cell.
    spare = np.setdiff1d(np.arange(count), np.unique(cells[chosen], return_index=True)[1])
    missed = missed[: len(spare)]
    chosen[spare[: len(missed)]] = missed
    return surface.take(chosen)


def cell_numbers(points: Float32[np.ndarray, "n 3"], resolution: int) -> Int[np.ndarray, " n"]:
    """Which cell of a grid over [-0.5, 0.5]^3 each point is in: (x * r + y) * r + z."""
    x, y, z = np.clip((points + 0.5) * resolution, 0, resolution - 1).astype(np.int64).T
    return (x * resolution + y) * resolution + z


def _observers(surface: Surface, seers: np.ndarray) -> np.ndarray:
    """From how many sides the place of each sample is seen: samples of one cell that face the
    same way along an axis."""
    axis = np.abs(surface.normals).argmax(axis=1)
    facing = 2 * axis + (np.take_along_axis(surface.normals, axis[:, None], 1)[:, 0] > 0)
    places = cell_numbers(surface.points, CELLS) * 6 + facing
    pairs = np.unique(places * SIDES + seers)
    each, counts = np.unique(pairs // SIDES, return_counts=True)
    return counts[np.searchsorted(each, places)]
