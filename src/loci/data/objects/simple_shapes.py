"""Shapes that furniture libraries lack: vessels, rings, pipes and handles, to train on (`turned`),
and boxes, tori, mugs and cylinders made in another way, to test with (`simple`).

Front and up as everywhere (z up, front -y); handles are on the right (+x), and what is longer than
deep is longer along x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from loci.data.objects.mesh_files import Submesh
from loci.data.objects.sources import MeshSource
from loci.data.objects.synthetic import colored, made_source, random_color, random_material, rng_of

SECTIONS, TUBE_SECTIONS, TURNS = 32, 12, 24
Profile = Sequence[tuple[float, float]]
Rng = np.random.Generator


def revolved(profile: Profile) -> Any:
    """The surface of revolution about z of a line of (radius, height); closed if it begins and ends
    on the axis, or where it began."""
    from trimesh import creation

    return creation.revolve(np.array(profile, float), sections=SECTIONS)


def tube(
    path: Float[np.ndarray, "n 3"], radius: float, closed: bool = False, squash: float = 1.0
) -> Any:
    """A round rod along a path in a plane or in space, its ends capped.

    Args:
        closed: the path returns to its first point, which is not repeated.
        squash: of the section, along the second of its axes.
    """
    import trimesh

    ahead = np.roll(path, -1, axis=0) - path
    behind = path - np.roll(path, 1, axis=0)
    if not closed:
        ahead[-1], behind[0] = behind[-1], ahead[0]
    tangents = _unit(ahead) + _unit(behind)
    tangents = _unit(tangents)
    # Normals are carried along the path with as little twist as possible.
    normals = [_unit(np.cross(tangents[0], np.eye(3)[np.abs(tangents[0]).argmin()]))]
    for tangent in tangents[1:]:
        normals.append(_unit(normals[-1] - tangent * (normals[-1] @ tangent)))
    first = np.stack(normals)
    second = np.cross(tangents, first) * squash
    angles = np.arange(TUBE_SECTIONS) * 2 * np.pi / TUBE_SECTIONS
    circle = np.cos(angles)[:, None] * first[:, None] + np.sin(angles)[:, None] * second[:, None]
    vertices = (path[:, None] + radius * circle).reshape(-1, 3)
    rings = np.arange(len(vertices)).reshape(len(path), TUBE_SECTIONS)
    rows = np.vstack([rings, rings[:1]]) if closed else rings
    a, b = rows[:-1], rows[1:]
    c, d = np.roll(a, -1, axis=1), np.roll(b, -1, axis=1)
    faces = [np.stack([a, c, b], -1).reshape(-1, 3), np.stack([c, d, b], -1).reshape(-1, 3)]
    if not closed:
        for ring, center, order in ((rings[0], path[0], -1), (rings[-1], path[-1], 1)):
            hub = np.full(TUBE_SECTIONS, len(vertices))
            vertices = np.vstack([vertices, center])
            faces.append(np.stack([hub, ring, np.roll(ring, -1)], -1)[:, ::order])
    return trimesh.Trimesh(vertices, np.concatenate(faces), process=False)


def arc(
    center: tuple[float, float, float],
    radii: tuple[float, float],
    degrees: tuple[float, float],
    axes: tuple[int, int] = (0, 2),
) -> Float[np.ndarray, "n 3"]:
    """Points of an ellipse about a centre, in the plane of two axes."""
    angles = np.radians(np.linspace(*degrees, TURNS))
    path = np.tile(np.array(center, float), (TURNS, 1))
    path[:, axes[0]] += radii[0] * np.cos(angles)
    path[:, axes[1]] += radii[1] * np.sin(angles)
    return path


def cup_profile(bottom: float, top: float, height: float, wall: float, bulge: float) -> Profile:
    """Radius and height of an open vessel with a floor, from the outer axis to the inner one."""
    heights = np.linspace(0, 1, 9)
    outer = bottom + (top - bottom) * heights + bulge * np.sin(np.pi * heights)
    rim = [(r, h * height) for r, h in zip(outer, heights, strict=True)]
    floor = wall / height
    inner_heights = np.linspace(1, floor, 9)
    outline = np.interp(inner_heights, heights, outer)
    inner = [
        (max(r - wall, 0.2 * r), h * height) for r, h in zip(outline, inner_heights, strict=True)
    ]
    return [(0.0, 0.0), *rim, *inner, (0.0, wall)]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _mug(rng: Rng) -> list[Any]:
    height, radius = 1.0, rng.uniform(0.3, 0.6)
    top, wall = radius * rng.uniform(0.9, 1.3), rng.uniform(0.03, 0.08)
    body = revolved(cup_profile(radius, top, height, wall, rng.uniform(-0.05, 0.12)))
    reach, tall = rng.uniform(0.2, 0.42), rng.uniform(0.25, 0.4)
    middle = (min(radius, top) - wall / 2, 0.0, rng.uniform(0.45, 0.58))
    handle = arc(middle, (reach, tall), (-100, 100))
    thick = rng.uniform(0.035, 0.07)
    return [body, tube(handle, thick, squash=rng.uniform(1, 1.8))]


def _bowl(rng: Rng) -> list[Any]:
    top, height = 1.0, rng.uniform(0.25, 0.8)
    return [
        revolved(cup_profile(rng.uniform(0.3, 0.7), top, height, rng.uniform(0.04, 0.09), 0.12))
    ]


def _plate(rng: Rng) -> list[Any]:
    height, wall = rng.uniform(0.1, 0.25), rng.uniform(0.04, 0.06)
    return [revolved(cup_profile(rng.uniform(0.5, 0.75), 1.0, height, wall, 0.0))]


def _bottle(rng: Rng) -> list[Any]:
    body, neck = rng.uniform(0.16, 0.34), rng.uniform(0.05, 0.11)
    shoulder, start = rng.uniform(0.45, 0.7), rng.uniform(0.72, 0.85)
    heights = np.linspace(0, 1, 8)
    bend = 0.5 - 0.5 * np.cos(np.pi * heights)
    curve = [
        (body + (neck - body) * b, shoulder + (start - shoulder) * h)
        for b, h in zip(bend, heights, strict=True)
    ]
    cap = revolved([(0, 0.9), (neck * 1.25, 0.9), (neck * 1.25, 1.0), (0, 1.0)])
    return [revolved([(0, 0), (body, 0), *curve, (neck, 0.95), (0, 0.95)]), cap]


def _vase(rng: Rng) -> list[Any]:
    foot, top, bulge = rng.uniform(0.12, 0.3), rng.uniform(0.12, 0.35), rng.uniform(-0.06, 0.25)
    return [revolved(cup_profile(foot, top, 1.0, rng.uniform(0.03, 0.06), bulge))]


def _goblet(rng: Rng) -> list[Any]:
    stem, foot, start = rng.uniform(0.03, 0.06), rng.uniform(0.2, 0.32), rng.uniform(0.35, 0.55)
    bowl = revolved(cup_profile(0.08, rng.uniform(0.22, 0.35), 1 - start, 0.035, 0.1))
    bowl.apply_translation((0, 0, start))
    base = revolved(
        [(0, 0), (foot, 0), (foot, 0.03), (stem, 0.09), (stem, start + 0.03), (0, start)]
    )
    return [base, bowl]


def _jar(rng: Rng) -> list[Any]:
    radius, height = rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.9)
    lid = rng.uniform(0.05, 0.15)
    knob = rng.uniform(0.06, 0.12)
    body = [(0, 0), (radius * 0.9, 0), (radius, 0.1 * height), (radius, 0.85 * height)]
    cover = [(radius * 1.05, height), (radius * 1.05, height + lid * 0.4), (knob, height + lid)]
    top = height + lid + knob * 1.6
    parts = [
        revolved([*body, (radius * 0.85, height), (0, height)]),
        revolved([(0, height), *cover, (knob, top), (0, top)]),
    ]
    if rng.random() < 0.5:  # a pot
        parts += [
            tube(arc((side * radius, 0, 0.7 * height), (0.2, 0.14), (-100, 100), (1, 0)), 0.035)
            if side > 0
            else tube(arc((side * radius, 0, 0.7 * height), (0.2, 0.14), (80, 280), (1, 0)), 0.035)
            for side in (-1, 1)
        ]
    return parts


def _bucket(rng: Rng) -> list[Any]:
    bottom, top, height = rng.uniform(0.3, 0.45), rng.uniform(0.45, 0.55), rng.uniform(0.6, 1.0)
    bail = arc((0, 0, height * 0.95), (top, rng.uniform(0.3, 0.6)), (0, 180))
    return [revolved(cup_profile(bottom, top, height, 0.05, 0.0)), tube(bail, 0.03)]


def _torus(rng: Rng) -> list[Any]:
    section = rng.uniform(0.12, 0.42)
    ring = arc((0, 0, 0), (1.0, rng.choice([1.0, rng.uniform(0.6, 1)])), (0, 360), (0, 1))[:-1]
    mesh = tube(ring, section, closed=True, squash=float(rng.choice([1.0, rng.uniform(0.6, 1.6)])))
    if rng.random() < 0.25:  # upright, seen through from the front
        mesh.vertices = mesh.vertices[:, [0, 2, 1]] * [1, -1, 1]
    return [mesh]


def _pipe(rng: Rng) -> list[Any]:
    """A rod with rounded bends: an L, U, S or hook."""
    count = int(rng.integers(2, 5))
    path, at, axis = [np.zeros(3)], np.zeros(3), int(rng.choice([0, 2]))
    for _ in range(count):
        at = at + np.eye(3)[axis] * rng.uniform(0.3, 1) * rng.choice([-1, 1])
        path.append(at)
        axis = int(rng.choice([k for k in range(3) if k != axis], p=None))
    corners = np.stack(path)
    smooth = corners
    for _ in range(3):  # Chaikin's corner cutting
        near, far = 0.75 * smooth[:-1] + 0.25 * smooth[1:], 0.25 * smooth[:-1] + 0.75 * smooth[1:]
        inner = np.stack([near, far], 1).reshape(-1, 3)
        smooth = np.vstack([smooth[:1], inner, smooth[-1:]])
    keep = np.r_[True, np.linalg.norm(np.diff(smooth, axis=0), axis=1) > 1e-6]
    return [tube(smooth[keep], rng.uniform(0.06, 0.16))]


def _hollow(rng: Rng) -> list[Any]:
    """A pipe with a hole, upright or lying."""
    radius, wall = rng.uniform(0.2, 0.8), rng.uniform(0.05, 0.12)
    inner = radius - min(wall, 0.5 * radius)
    mesh = revolved([(inner, 0), (radius, 0), (radius, 1), (inner, 1), (inner, 0)])
    if rng.random() < 0.3:
        mesh.vertices = mesh.vertices[:, [2, 1, 0]] * [1, 1, -1]
    return [mesh]


def _box(rng: Rng) -> list[Any]:
    from trimesh import creation

    sides = np.exp(rng.uniform(np.log(0.15), 0, 3))
    return [creation.box((max(sides[:2]), min(sides[:2]), sides[2]))]


def _drum(rng: Rng) -> list[Any]:
    """A cylinder, cone or frustum, upright."""
    bottom, top = rng.uniform(0.15, 0.8), rng.choice([0.0, 0.5, 1.0, 1.0, 1.0, 1.3])
    return [revolved([(0, 0), (bottom, 0), (bottom * max(top, 0.02), 1), (0, 1)])]


def _ball(rng: Rng) -> list[Any]:
    from trimesh import creation

    mesh = creation.icosphere(3)
    mesh.apply_scale((1, rng.uniform(0.7, 1), float(rng.choice([1, rng.uniform(0.5, 1.6)]))))
    return [mesh]


MAKERS: dict[str, tuple[float, Callable[[Rng], list[Any]]]] = {
    "mug": (3, _mug),
    "bowl": (1.5, _bowl),
    "plate": (1, _plate),
    "bottle": (1.5, _bottle),
    "vase": (1.5, _vase),
    "goblet": (1, _goblet),
    "jar": (1.5, _jar),
    "bucket": (1, _bucket),
    "torus": (2, _torus),
    "pipe": (1, _pipe),
    "hollow": (1, _hollow),
    "box": (2, _box),
    "drum": (2, _drum),
    "ball": (1, _ball),
}


def turned_mesh(kind: str, rng: Rng) -> list[Submesh]:
    """A random shape of a kind of `MAKERS`, each part in a material of its own or all in one."""
    parts = MAKERS[kind][1](rng)
    material = random_material(rng)
    materials = [material if rng.random() < 0.6 else random_material(rng) for _ in parts]
    return [colored(part, *material) for part, material in zip(parts, materials, strict=True)]


def turned(number: int, seed: int) -> MeshSource:
    """A source of a random vessel, ring, pipe, box or the like."""
    shares = np.array([share for share, _ in MAKERS.values()])
    name = f"turned-{number:04d}"
    kind = str(rng_of(name, seed).choice(list(MAKERS), p=shares / shares.sum()))
    return made_source(f"{name}-{kind}", "turned", partial(_read_turned, name, kind, seed))


def _read_turned(name: str, kind: str, seed: int) -> list[Submesh]:
    return turned_mesh(kind, rng_of(name + "-mesh", seed))


SIMPLE_KINDS = ("box", "torus", "mug", "cylinder")


def simple(number: int, seed: int) -> MeshSource:
    """A source of a box, torus, mug or cylinder in one plain colour, to test with."""
    kind = SIMPLE_KINDS[(number - 1) % len(SIMPLE_KINDS)]
    name = f"simple-{number:04d}-{kind}"
    return made_source(name, kind, partial(_read_simple, name, kind, seed))


def _read_simple(name: str, kind: str, seed: int) -> list[Submesh]:
    from trimesh import creation

    rng = rng_of(name, seed)
    if kind == "box":
        wide, deep, tall = rng.uniform(0.3, 1, 3)
        parts = [creation.box((max(wide, deep), min(wide, deep), tall))]
    elif kind == "torus":
        parts = [creation.torus(1, rng.uniform(0.2, 0.4))]
    elif kind == "cylinder":
        parts = [creation.cylinder(rng.uniform(0.15, 0.6), 1)]
    else:
        radius, wall, ring = rng.uniform(0.32, 0.5), rng.uniform(0.04, 0.07), rng.uniform(0.2, 0.28)
        floor = creation.cylinder(radius, wall)
        floor.apply_translation((0, 0, (wall - 1) / 2))
        handle = creation.torus(ring, rng.uniform(0.04, 0.06))
        handle.vertices = handle.vertices[:, [0, 2, 1]] * [1, -1, 1]
        outside = (handle.vertices[:, 0] > -1e-6)[handle.faces].all(axis=1)
        handle.update_faces(outside)
        handle.apply_translation((radius - wall / 2, 0, 0))
        parts = [creation.annulus(radius - wall, radius, 1), floor, handle]
    color = random_color(rng)
    return [colored(part, color, None) for part in parts]
