"""Meshes of a few triangles, as files."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
RED = "newmtl paint\nKd 0.8 0.2 0.1\nd 1\n"


def box_obj(size: tuple[float, float, float] = (1, 1, 1), at: tuple[float, ...] = (0, 0, 0)) -> str:
    """A box of the material "paint"; y is up."""
    corners = CORNERS * size + at
    lines = ["mtllib paint.mtl", "usemtl paint"]
    lines += [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in corners]
    lines += [f"vt {u} {v}" for u, v in ((0, 0), (1, 0), (1, 1), (0, 1))]
    lines += [
        "f " + " ".join(f"{corner + 1}/{k + 1}" for k, corner in enumerate(side)) for side in SIDES
    ]
    return "\n".join(lines) + "\n"


def write_box(folder: Path, name: str, size: tuple[float, float, float] = (1, 1, 1)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "paint.mtl").write_text(RED)
    path = folder / f"{name}.obj"
    path.write_text(box_obj(size))
    return path


def png(color: tuple[int, int, int], size: int = 4) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), color).save(stream, "PNG")
    return stream.getvalue()


def write_library(path: Path) -> Path:
    """A library with a textured lamp that is turned, a box, a door and a socket."""
    lines = ["license=Creative Commons Attribution 3.0 Unported license", "# a comment=no value"]
    entries = [
        ("1", "Lib#lamp1", "Tall lamp", "Lights", "false", "1 0 0 0 0 -1 0 1 0"),
        ("2", "Lib#box", "Caf\\u00e9 box", "Misc", "false", None),
        ("3", "Lib#door", "Door", "Doors and windows", "true", None),
        ("4", "Lib#socket", "Wall socket", "Misc", "false", None),
    ]
    for number, key, name, category, opening, turn in entries:
        model = key.split("#")[1]
        lines += [
            f"id#{number}={key}",
            f"name#{number}={name}",
            f"category#{number}={category}",
            f"model#{number}=/models/{model}/{model}.obj",
            f"creator#{number}=Somebody",
            f"width#{number}=50.0",
            f"depth#{number}=40",
            f"height#{number}=120",
            f"doorOrWindow#{number}={opening}",
            *([f"modelRotation#{number}={turn}"] if turn else []),
        ]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines).encode("latin-1"))
        for _, key, *_ in entries:
            folder = f"models/{key.split('#')[1]}"
            size = (1, 1, 3) if "lamp" in key else (1, 2, 1)
            archive.writestr(f"{folder}/{key.split('#')[1]}.obj", box_obj(size))
            archive.writestr(f"{folder}/paint.mtl", RED + "map_Kd blue.png\n")
            archive.writestr(f"{folder}/blue.png", png((10, 20, 200)))
    return path
