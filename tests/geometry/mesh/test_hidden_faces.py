"""What nobody can see is cut off, and nothing else."""

from dataclasses import replace

import numpy as np
import torch
import trimesh

from loci.geometry.mesh.hidden_faces import (
    HiddenFacesConfig,
    face_visibility,
    hidden_faces,
    remove_faces,
    remove_hidden_faces,
)
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.simplify import boundary_loops, fill_holes

QUICK = HiddenFacesConfig(views=40, pixels=128)


def joined(*parts: trimesh.Trimesh) -> Mesh:
    whole = trimesh.util.concatenate(parts)
    assert isinstance(whole, trimesh.Trimesh)
    vertices = torch.tensor(whole.vertices, dtype=torch.float32)
    return Mesh(vertices, torch.tensor(whole.faces).long(), vertices + 0.5)


def ball(radius: float, subdivisions: int, inwards: bool = False) -> trimesh.Trimesh:
    solid = trimesh.creation.icosphere(subdivisions, radius)
    if inwards:
        solid.invert()
    return solid


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


def test_a_hollow_ball_becomes_a_ball() -> None:
    outer = ball(0.4, 3)
    mesh = joined(outer, ball(0.35, 3, inwards=True), ball(0.1, 2))
    cleaned = remove_hidden_faces(mesh, QUICK)
    assert len(cleaned.faces) == len(outer.faces)
    assert len(cleaned.vertices) == len(outer.vertices)
    assert as_trimesh(cleaned).is_watertight
    assert torch.allclose(cleaned.vertices.norm(dim=1), torch.tensor(0.4), atol=1e-5)
    assert cleaned.colors is not None
    assert torch.equal(cleaned.colors, cleaned.vertices + 0.5)


def test_what_is_whole_stays_as_it_is() -> None:
    for solid in (
        ball(0.4, 3),
        trimesh.creation.box((0.8, 0.3, 0.5)),
        trimesh.creation.torus(0.3, 0.1),
    ):
        mesh = joined(solid)
        assert remove_hidden_faces(mesh, QUICK) is mesh


def test_a_cup_keeps_its_inside() -> None:
    """Seen from above only, but seen."""
    cup = trimesh.creation.annulus(0.3, 0.35, 0.5)
    floor = trimesh.creation.cylinder(0.35, 0.05)
    floor.apply_translation([0, 0, -0.275])
    mesh = joined(cup.subdivide().subdivide(), floor.subdivide().subdivide())
    cleaned = remove_hidden_faces(mesh, QUICK)
    walls = (cleaned.vertices[:, :2].norm(dim=1) < 0.32) & (cleaned.vertices[:, 2] > 0.1)
    before = (mesh.vertices[:, :2].norm(dim=1) < 0.32) & (mesh.vertices[:, 2] > 0.1)
    assert walls.sum() == before.sum() > 20


def test_a_pocket_is_cut_off_at_its_neck() -> None:
    """A bubble inside that opens outwards through a pinhole: the shortest cut is at the neck, and
    the hole that it leaves can be closed."""
    outside, bubble = ball(0.4, 4), ball(0.3, 3, inwards=True)
    neck = [trimesh.Trimesh(s.vertices, s.faces, process=False) for s in (outside, bubble)]
    tops = [int(s.vertices[:, 2].argmax()) for s in neck]
    rims = []
    for solid, top in zip(neck, tops, strict=True):
        solid.update_faces(~(solid.faces == top).any(axis=1))
        (rim,) = boundary_loops(torch.tensor(solid.faces))
        rims.append(sorted(rim, key=lambda v: np.arctan2(*solid.vertices[v, :2])))
    vertices = np.concatenate([s.vertices for s in neck])
    first, second = rims[0], [v + len(neck[0].vertices) for v in rims[1]]
    assert len(first) == len(second)
    turns = [np.roll(second, k) for k in range(len(second))]
    second = min(turns, key=lambda r: np.square(vertices[first, :2] - vertices[r, :2]).sum())
    bridge = []
    for k in range(len(first)):
        after = (k + 1) % len(first)
        bridge += [[first[k], second[k], first[after]], [second[k], second[after], first[after]]]
    faces = np.concatenate([neck[0].faces, neck[1].faces + len(neck[0].vertices), bridge])
    whole = trimesh.Trimesh(vertices, faces, process=False)
    trimesh.repair.fix_normals(whole)
    mesh = Mesh(torch.tensor(whole.vertices).float(), torch.tensor(whole.faces).long())
    assert as_trimesh(mesh).is_watertight
    cleaned = remove_hidden_faces(mesh, QUICK)
    assert len(neck[0].faces) - 100 < len(cleaned.faces) < len(neck[0].faces) + 60
    again = as_trimesh(fill_holes(cleaned))
    assert again.is_watertight
    assert again.volume > 0.95 * outside.volume


def test_visibility_is_a_share_of_the_views() -> None:
    seen = face_visibility(joined(ball(0.4, 3), ball(0.2, 2)), QUICK)
    outer = len(ball(0.4, 3).faces)
    assert (seen[outer:] == 0).all()
    assert seen[:outer].min() > 0.3
    assert seen.max() < 0.5


def test_a_hole_in_what_goes_may_be_as_large_as_it_says() -> None:
    """A bowl whose inside nobody looks at, as far as is told: it goes only if the rim that it
    leaves may be so large, and the rim is closed, however many edges it has."""
    sheet = trimesh.creation.icosphere(4, 0.4)
    mesh = joined(sheet)
    middles = mesh.vertices[mesh.faces].mean(dim=1)
    seen = np.where(middles[:, 2].numpy() > 0.3, 0.0, 0.4).astype(np.float32)
    rim = 0.4**2 - 0.3**2  # Of its radius, squared
    area = np.pi * rim
    assert not hidden_faces(mesh, seen, HiddenFacesConfig(opening=0.8 * area)).any()
    gone = hidden_faces(mesh, seen, HiddenFacesConfig(opening=1.2 * area))
    assert np.array_equal(gone, seen == 0)
    again = as_trimesh(remove_faces(mesh, torch.from_numpy(gone)))
    assert again.is_watertight
    assert 0.8 * as_trimesh(mesh).volume < again.volume < as_trimesh(mesh).volume


def test_a_rim_that_touches_itself_counts() -> None:
    """Two lids that meet in one vertex."""
    mesh = joined(ball(0.4, 4))
    middles = mesh.vertices[mesh.faces].mean(dim=1)
    corner = int((mesh.vertices - torch.tensor([0.4, 0, 0])).norm(dim=1).argmin())
    side = torch.nn.functional.normalize(mesh.vertices[corner], dim=0)
    lids = (middles @ side < 0.39) & (middles @ side > 0.2)
    lids &= (middles[:, 1].abs() > 0.02) | (mesh.faces == corner).any(dim=1)
    seen = np.where(lids.numpy(), 0.0, 0.4).astype(np.float32)
    assert not hidden_faces(mesh, seen, HiddenFacesConfig()).any()
    assert hidden_faces(mesh, seen, HiddenFacesConfig(opening=1.0)).any()


def test_what_is_hidden_only_here_and_there_stays() -> None:
    """What the cut takes goes if half of it is seen from as few views as is allowed, else not."""
    mesh = joined(ball(0.4, 4))
    up = mesh.vertices[mesh.faces].mean(dim=1)[:, 2].numpy()
    seen = np.where(up > 0.3, 0.24, 0.4).astype(np.float32)
    seen[up > 0.36] = 0
    wide = HiddenFacesConfig(opening=1.0)
    found = hidden_faces(mesh, seen, wide)
    assert found[up > 0.36].all()
    assert not hidden_faces(mesh, seen, replace(wide, hidden=-1.0)).any()


def test_what_is_often_seen_is_not_cut_off_with_what_is_not() -> None:
    """A hidden face at the end of a tongue that is seen by nearly all: the cut is at the face."""
    mesh = joined(ball(0.4, 4))
    seen = np.full(len(mesh.faces), 0.4, np.float32)
    seen[7] = 0
    gone = hidden_faces(mesh, seen, QUICK)
    assert gone.sum() == 1
    assert gone[7]


def test_faces_without_an_area_and_meshes_without_faces_do_no_harm() -> None:
    whole = joined(ball(0.4, 3))
    flat = Mesh(whole.vertices, torch.cat([whole.faces, torch.tensor([[0, 0, 1]])]))
    assert remove_hidden_faces(flat, QUICK) is flat
    nothing = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    assert remove_hidden_faces(nothing, QUICK) is nothing
    inwards = joined(ball(0.4, 2, inwards=True))
    assert remove_hidden_faces(inwards, QUICK) is inwards  # Seen from nowhere, but all there is
