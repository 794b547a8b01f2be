import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loci.geometry.mesh.flexicubes import (
    EDGES,
    FACES,
    Cubes,
    CubeWeights,
    activated,
    case_loops,
    case_tables,
    deviation,
    extract_isosurface,
    problem_direction,
)


def crossed(case: int) -> set[int]:
    return {n for n, (a, b) in enumerate(EDGES) if (case >> a & 1) != (case >> b & 1)}


def test_edges_join_corners_that_differ_on_one_axis() -> None:
    assert len({frozenset(edge) for edge in EDGES}) == 12
    assert all((a ^ b).bit_count() == 1 for a, b in EDGES)


def test_faces_list_their_corners_around() -> None:
    for direction, face in FACES.items():
        axis = next(i for i, d in enumerate(direction) if d)
        assert {corner >> axis & 1 for corner in face} == {int(direction[axis] > 0)}
        assert all((a ^ b).bit_count() == 1 for a, b in zip(face, face[1:], strict=False))


def test_loops_share_out_all_crossings() -> None:
    for case in range(256):
        loops = case_loops(case)
        assert len(loops) <= 4
        assert all(len(loop) >= 3 for loop in loops)
        assert sorted(edge for loop in loops for edge in loop) == sorted(crossed(case))


def test_corners_apart_get_a_vertex_each() -> None:
    assert len(case_loops(1)) == 1
    assert len(case_loops(0b10000001)) == 2
    assert len(case_loops(0b01101001)) == 4
    # The complement joins what the pattern keeps apart: on its faces inside corners are cut off.
    assert len(case_loops(0b00001001)) == 2
    assert len(case_loops(0b11110110)) == 1


def test_loops_are_ordered_by_their_smallest_inside_corner_except_in_case_231() -> None:
    def smallest(case: int, loop: tuple[int, ...]) -> int:
        return min(corner for edge in loop for corner in EDGES[edge] if case >> corner & 1)

    out_of_order = []
    for case in range(256):
        order = [smallest(case, loop) for loop in case_loops(case)]
        if order != sorted(order):
            out_of_order.append(case)
    assert out_of_order == [231]


def test_thirty_six_cases_are_problematic() -> None:
    problematic = [case for case in range(256) if any(problem_direction(case))]
    assert len(problematic) == 36
    assert all(sum(map(abs, problem_direction(case))) == 1 for case in problematic)


def test_tables_say_what_the_loops_say() -> None:
    import torch

    tables = case_tables(torch.device("cpu"))
    for case in range(256):
        assert tables.count[case] == len(case_loops(case))
        for number, loop in enumerate(case_loops(case)):
            assert (tables.loop[case] == number).nonzero()[:, 0].tolist() == list(loop)


SIDE = 6


def grid(side: int = SIDE) -> tuple[Tensor, Cubes]:
    """Corner positions in [-0.5, 0.5]^3 and all cubes."""
    positions = torch.cartesian_prod(*(torch.arange(side + 1.0),) * 3) / side - 0.5
    coords = torch.cartesian_prod(*(torch.arange(side),) * 3)
    bits = torch.arange(8)
    offsets = torch.stack([bits & 1, bits >> 1 & 1, bits >> 2 & 1], dim=1)
    x, y, z = (coords[:, None] + offsets).unbind(-1)
    return positions, Cubes((x * (side + 1) + y) * (side + 1) + z, coords)


def sphere(positions: Tensor, radius: float = 0.31) -> Tensor:
    return positions.norm(dim=1) - radius


def random_sdf(seed: int) -> Tensor:
    """Random signs and sizes inside, outside at the border, so that the surface is closed."""
    positions, _ = grid()
    sdf = torch.randn(len(positions), generator=torch.Generator().manual_seed(seed))
    border = (positions.abs() > 0.49).any(1)
    return torch.where(border, sdf.abs() + 0.1, sdf)


def directed_edges(faces: Tensor) -> Tensor:
    return torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_a_surface_is_closed_and_consistently_oriented(seed: int) -> None:
    positions, cubes = grid()
    surface = extract_isosurface(positions, random_sdf(seed), cubes)
    edges = directed_edges(surface.faces)
    there, back = (e[:, 0] * len(surface.vertices) + e[:, 1] for e in (edges, edges.flip(1)))
    assert torch.equal(there.sort().values, back.sort().values)
    assert surface.faces.unique().numel() == len(surface.vertices)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_vertices_stay_in_their_cubes(seed: int) -> None:
    positions, cubes = grid()
    generator = torch.Generator().manual_seed(seed)
    raw = [torch.randn(len(cubes.coords), k, generator=generator) for k in (12, 8, 1)]
    weights = activated(raw[0], raw[1], raw[2][:, 0])
    surface = extract_isosurface(positions, random_sdf(seed), cubes, weights)
    assert surface.vertices.isfinite().all()
    distance = (surface.crossings - surface.vertices[surface.owner]).abs()
    assert distance.max() <= 1 / SIDE + 1e-5


def test_a_sphere_is_round_and_faces_outwards() -> None:
    positions, cubes = grid(12)
    surface = extract_isosurface(positions, sphere(positions), cubes)
    assert (surface.vertices.norm(dim=1) - 0.31).abs().max() < 0.02
    a, b, c = surface.vertices[surface.faces].unbind(1)
    outwards = (torch.linalg.cross(b - a, c - a) * (a + b + c)).sum(1)
    assert (outwards > 0).all()
    edges = directed_edges(surface.faces)
    euler = len(surface.vertices) - len(edges) // 2 + len(surface.faces)
    assert euler == 2


def test_without_a_change_of_sign_there_is_no_surface() -> None:
    positions, cubes = grid()
    attributes = torch.zeros(len(positions), 2)
    surface = extract_isosurface(positions, torch.ones(len(positions)), cubes, None, attributes)
    assert surface.vertices.shape == (0, 3)
    assert surface.faces.shape == (0, 3)
    assert surface.attributes is not None
    assert surface.attributes.shape == (0, 2)


def test_some_cubes_give_what_all_cubes_give_there() -> None:
    """Searching only the cubes that a surface crosses changes nothing, ambiguous faces included."""
    positions, cubes = grid()
    for seed in range(20):
        sdf = random_sdf(seed)
        inside = sdf[cubes.corners] < 0
        crossed = inside.any(1) & ~inside.all(1)
        every = extract_isosurface(positions, sdf, cubes)
        some = extract_isosurface(positions, sdf, Cubes(*(part[crossed] for part in cubes)))
        assert torch.equal(every.vertices, some.vertices)
        assert torch.equal(every.faces, some.faces)


def test_attributes_are_interpolated_after_the_sigmoid() -> None:
    positions, cubes = grid()
    constant = torch.full((len(positions), 1), 1.5)
    surface = extract_isosurface(positions, sphere(positions), cubes, None, constant)
    assert surface.attributes is not None
    assert torch.allclose(surface.attributes, torch.sigmoid(torch.tensor(1.5)), atol=1e-6)


def test_weights_of_nought_stand_for_ones_except_gamma() -> None:
    weights = activated(torch.zeros(2, 12), torch.zeros(2, 8), torch.zeros(2))
    assert (weights.beta == 1).all()
    assert (weights.alpha == 1).all()
    assert torch.allclose(weights.gamma, torch.tensor(0.5))


def test_quads_are_cut_where_gamma_says() -> None:
    positions, cubes = grid()
    sdf = positions[:, 0] - 0.01  # a flat wall: every quad is of four cubes of one layer
    count = len(cubes.coords)
    gamma = torch.full((count,), 0.5)
    even = extract_isosurface(positions, sdf, cubes, _with_gamma(gamma))
    gamma[(cubes.coords[:, 1] + cubes.coords[:, 2]) % 2 == 0] = 0.9
    checked = extract_isosurface(positions, sdf, cubes, _with_gamma(gamma))
    assert torch.equal(even.vertices, checked.vertices)
    assert not torch.equal(even.faces, checked.faces)


def _with_gamma(gamma: Tensor) -> CubeWeights:
    ones = torch.ones(len(gamma), 12)
    return CubeWeights(ones, ones[:, :8], gamma)


def test_gradients_reach_the_distances() -> None:
    positions, cubes = grid()
    sdf = sphere(positions).requires_grad_()
    surface = extract_isosurface(positions, sdf, cubes)
    (surface.vertices.norm(dim=1).mean() + deviation(surface).mean()).backward()
    assert sdf.grad is not None
    # Growing the ball lowers its distances: the radius falls as the distances rise.
    assert sdf.grad.isfinite().all()
    assert sdf.grad.sum() < 0
