"""One object on disk: a .safetensors file with its views, surface and grids.

Arrays (V views of S x S pixels; frames and units: see `object_cameras`):

- `rgba` uint8 [V, S, S, 4]: under the lights of each view; the colour is not multiplied by alpha.
- `even` uint8 [V, S, S, 3]: the same views under the even light, the object's own look; the alpha
  is that of `rgba`.
- `depth` float16 [V, S, S]: z in the camera frame, inf where nothing is.
- `fov` float32 [V]; `rotation` float32 [V, 3, 3], `translation` float32 [V, 3], `scale` float32
  [V]: the cameras.
- `surface` float16 [16384, 9]: position, outward normal, RGB under the even light.
- `occupancy` uint8 [32768]: bits of [64, 64, 64] (x, y, z), the voxels that the surface touches.
- `sdf` int8 [65, 65, 65]: distance at the corners of that grid in 1/32 voxel, positive outside.

The header holds name, category, title, source, licence, author and, if known, metres (of the
object's longest side).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from loci.errors import LociError
from loci.files import replacing

SURFACE = 16384
SUFFIX = ".safetensors"
HEADER = ("name", "title", "category", "source", "licence", "author")
# Type and shape of every array; "v" stands for views, "s" for pixels.
ARRAYS: dict[str, tuple[type[np.generic], tuple[str | int, ...]]] = {
    "rgba": (np.uint8, ("v", "s", "s", 4)),
    "even": (np.uint8, ("v", "s", "s", 3)),
    "depth": (np.float16, ("v", "s", "s")),
    "fov": (np.float32, ("v",)),
    "rotation": (np.float32, ("v", 3, 3)),
    "translation": (np.float32, ("v", 3)),
    "scale": (np.float32, ("v",)),
    "surface": (np.float16, (SURFACE, 9)),
    "occupancy": (np.uint8, (64**3 // 8,)),
    "sdf": (np.int8, (65, 65, 65)),
}


def write_object(path: Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, str]) -> None:
    """One object, complete or not at all.

    Raises:
        LociError: when the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            content = {name: np.ascontiguousarray(arrays[name], ARRAYS[name][0]) for name in ARRAYS}
            save_file(content, draft, dict(header))
    except OSError as error:
        raise LociError(f"{path}: cannot be written ({error.strerror})") from error
