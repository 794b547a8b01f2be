"""Isosurface extraction by FlexiCubes (Shen et al., arXiv 2308.05371).

Corner i of a cube is at (i & 1, i >> 1 & 1, i >> 2 & 1) in (x, y, z); one of the 256 sign patterns
has bit i set where corner i is inside. Every sign change along an edge is a crossing. Crossings are
joined on each face of the cube, and every closed loop that results is one dual vertex. The tables
are computed by this rule.
"""

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.nn.sparse.voxels import KeyIndex

EDGES = (
    *((0, 1), (1, 5), (4, 5), (0, 4)),
    *((2, 3), (3, 7), (6, 7), (2, 6)),
    *((2, 0), (3, 1), (7, 5), (6, 4)),
)
"""Corner pairs. Every edge points the same way in all cubes: up in x and z, down in y."""

FACES = {
    (-1, 0, 0): (0, 2, 6, 4),
    (1, 0, 0): (1, 3, 7, 5),
    (0, -1, 0): (0, 1, 5, 4),
    (0, 1, 0): (2, 3, 7, 6),
    (0, 0, -1): (0, 1, 3, 2),
    (0, 0, 1): (4, 5, 7, 6),
}
"""Corners of each face in cyclic order, by the direction in which the face looks."""

_EDGE_BETWEEN = {frozenset(pair): number for number, pair in enumerate(EDGES)}
_REVERSED_CASE = 231  # the one pattern whose loops the published table lists the other way round


class CaseTables(NamedTuple):
    """Tables over the 256 sign patterns.

    Attributes:
        loop: the dual vertex that each edge's crossing belongs to, -1 for no crossing, `[256, 12]`.
        count: dual vertices, `[256]`.
        problem: direction of the face that makes a pattern ambiguous, or zeros, `[256, 3]`.
    """

    loop: Tensor
    count: Tensor
    problem: Tensor


@cache
def case_loops(case: int) -> tuple[tuple[int, ...], ...]:
    """The loops of crossings of a pattern, as ascending edge numbers.

    Loops are ordered by the smallest inside corner they touch.
    """
    joined: dict[int, set[int]] = {}
    for face in FACES.values():
        for a, b in _joins(case, face):
            joined.setdefault(a, set()).add(b)
            joined.setdefault(b, set()).add(a)
    loops = []
    while joined:
        loop, queue = set(), {min(joined)}
        while queue:
            edge = queue.pop()
            loop.add(edge)
            queue |= joined.pop(edge) - loop
        loops.append(tuple(sorted(loop)))
    loops.sort(key=lambda loop: (min(_inside_corner(case, edge) for edge in loop), loop))
    return tuple(reversed(loops) if case == _REVERSED_CASE else loops)


def problem_direction(case: int) -> tuple[int, int, int]:
    """Direction of the one ambiguous face of a pattern that is mostly inside and has one loop.

    Where two such cubes meet at that face, the surface would not be manifold.
    """
    ambiguous = [d for d, face in FACES.items() if len(_crossings(case, face)) == 4]
    if case.bit_count() >= 5 and len(ambiguous) == 1 and len(case_loops(case)) == 1:
        return ambiguous[0]
    return (0, 0, 0)


@cache
def _tables_on_cpu() -> CaseTables:
    loop = torch.full((256, len(EDGES)), -1)
    for case in range(256):
        for number, edges in enumerate(case_loops(case)):
            loop[case, list(edges)] = number
    problem = torch.tensor([problem_direction(case) for case in range(256)])
    return CaseTables(loop, loop.amax(1) + 1, problem)


def case_tables(device: torch.device) -> CaseTables:
    """The tables on a device."""
    return CaseTables(*(table.to(device) for table in _tables_on_cpu()))


def _inside(case: int, corner: int) -> bool:
    return bool(case >> corner & 1)


def _inside_corner(case: int, edge: int) -> int:
    return next(corner for corner in EDGES[edge] if _inside(case, corner))


def _crossings(case: int, face: tuple[int, ...]) -> list[int]:
    sides = zip(face, face[1:] + face[:1], strict=True)
    return [
        _EDGE_BETWEEN[frozenset(s)] for s in sides if _inside(case, s[0]) != _inside(case, s[1])
    ]


def _joins(case: int, face: tuple[int, ...]) -> list[tuple[int, int]]:
    """Pairs of crossings joined on a face; on an ambiguous one they separate the inside corners."""
    crossings = _crossings(case, face)
    if len(crossings) < 4:
        return [(crossings[0], crossings[1])] if crossings else []
    around = zip(face[-1:] + face[:-1], face, face[1:] + face[:1], strict=True)
    return [
        (_EDGE_BETWEEN[frozenset((before, corner))], _EDGE_BETWEEN[frozenset((corner, after))])
        for before, corner, after in around
        if _inside(case, corner)
    ]


WEIGHT_RANGE = 0.99


class Cubes(NamedTuple):
    """Some or all cubes of a grid, in lexicographic order of their coordinates.

    Attributes:
        corners: indices of the corner arrays, which are in lexicographic order too, `[c, 8]`.
        coords: integer coordinates, `[c, 3]`.
    """

    corners: Int[Tensor, "c 8"]
    coords: Int[Tensor, "c 3"]


class CubeWeights(NamedTuple):
    """Positive weights of each cube's edges (beta), corners (alpha) and quads (gamma)."""

    beta: Float[Tensor, "c 12"]
    alpha: Float[Tensor, "c 8"]
    gamma: Float[Tensor, "c"]


class Isosurface(NamedTuple):
    """Triangles and, for the training loss, the crossings that each vertex is averaged from.

    Attributes:
        vertices: `[v, 3]`.
        faces: `[f, 3]`.
        attributes: in (0, 1), `[v, k]`, or None.
        crossings: unweighted, `[p, 3]`.
        owner: vertex of each crossing, `[p]`.
    """

    vertices: Tensor
    faces: Tensor
    attributes: Tensor | None
    crossings: Tensor
    owner: Tensor


def activated(
    beta: Float[Tensor, "c 12"], alpha: Float[Tensor, "c 8"], gamma: Float[Tensor, "c"]
) -> CubeWeights:
    """Weights from raw network outputs: in (0, 2) for beta and alpha, in (0, 1) for gamma."""
    margin = (1 - WEIGHT_RANGE) / 2
    return CubeWeights(
        WEIGHT_RANGE * torch.tanh(beta) + 1,
        WEIGHT_RANGE * torch.tanh(alpha) + 1,
        WEIGHT_RANGE * torch.sigmoid(gamma) + margin,
    )


def extract_isosurface(
    positions: Float[Tensor, "n 3"],
    sdf: Float[Tensor, "n"],
    cubes: Cubes,
    weights: CubeWeights | None = None,
    attributes: Float[Tensor, "n k"] | None = None,
) -> Isosurface:
    """The zero surface of `sdf`; negative is inside.

    Args:
        positions: of the corners.
        sdf: signed distances at the corners.
        cubes: to search for the surface.
        weights: of every cube, from `activated`; all ones by default.
        attributes: raw values at the corners, passed through a sigmoid and interpolated.
    """
    inside = sdf[cubes.corners] < 0
    mixed = inside.any(1) & ~inside.all(1)
    cubes, inside = Cubes(*(part[mixed] for part in cubes)), inside[mixed]
    if weights is None:
        ones = positions.new_ones(len(inside), 12)
        weights = CubeWeights(ones, ones[:, :8], ones[:, 0])
    else:
        weights = CubeWeights(*(part[mixed] for part in weights))
    loop, count, _ = case_tables(sdf.device)
    case = _resolved_cases(inside, cubes.coords)
    base = _first_vertices(count[case])

    cube, edge = (loop[case] >= 0).nonzero(as_tuple=True)
    owner = base[cube] + loop[case][cube, edge]
    ends = torch.tensor(EDGES, device=sdf.device)[edge]
    corners = cubes.corners[cube[:, None], ends]
    weighted = sdf[corners] * weights.alpha[cube[:, None], ends]
    share = weights.beta[cube, edge]
    vertices = int(count[case].sum())
    mean_of = _WeightedMean(owner, share, vertices)
    out_attributes = None
    if attributes is not None:
        out_attributes = mean_of(_crossing(torch.sigmoid(attributes)[corners], weighted))
    quads, gamma = _quads(corners, owner, sdf, weights.gamma[cube])
    return Isosurface(
        mean_of(_crossing(positions[corners], weighted)),
        _triangles(quads, gamma),
        out_attributes,
        *_by_vertex(_crossing(positions[corners], sdf[corners]), owner, edge),
    )


def deviation(surface: Isosurface) -> Float[Tensor, "p"]:
    """FlexiCubes' regulariser: absolute deviation of each crossing's distance to its vertex from
    the vertex's mean. Crossings are ordered by vertex, then edge."""
    distance = (surface.crossings - surface.vertices[surface.owner]).norm(dim=-1)
    mean = _WeightedMean(surface.owner, torch.ones_like(distance), len(surface.vertices))
    return (distance - mean(distance[:, None])[surface.owner, 0]).abs()


class _WeightedMean:
    """Weighted means over the crossings of each vertex."""

    def __init__(self, owner: Tensor, share: Tensor, count: int) -> None:
        self.owner, self.share = owner, share[:, None]
        self.total = share.new_zeros(count, 1).index_add(0, owner, self.share)

    def __call__(self, values: Float[Tensor, "p k"]) -> Float[Tensor, "v k"]:
        summed = values.new_zeros(len(self.total), values.shape[1])
        return summed.index_add(0, self.owner, values * self.share) / self.total


def _crossing(ends: Float[Tensor, "p 2 k"], values: Float[Tensor, "p 2"]) -> Float[Tensor, "p k"]:
    """Where the line between two ends is zero."""
    first, second = values[:, :1], values[:, 1:]
    return (ends[:, 0] * second - ends[:, 1] * first) / (second - first)


def _resolved_cases(inside: Tensor, coords: Tensor) -> Int[Tensor, "c"]:
    """Sign patterns; an ambiguous cube that faces another takes the complementary pattern.

    As published, the other one need not be ambiguous in the same direction.
    """
    case = (inside.long() << torch.arange(8, device=inside.device)).sum(1)
    direction = case_tables(inside.device).problem[case]
    rows = direction.any(1).nonzero()[:, 0]
    if rows.numel() == 0:
        return case
    low = coords[rows].amin(0) - 1
    extent = coords[rows].amax(0) - low + 2

    def key(places: Tensor) -> Tensor:
        x, y, z = (places - low).unbind(1)
        return (x * extent[1] + y) * extent[2] + z

    neighbor = KeyIndex(key(coords[rows])).find(key(coords[rows] + direction[rows]))
    facing = rows[neighbor >= 0]
    case[facing] = 255 - case[facing]
    return case


def _first_vertices(count: Int[Tensor, "c"]) -> Int[Tensor, "c"]:
    """Index of each cube's first vertex; cubes are ordered by their number of vertices."""
    order = count.argsort(stable=True)
    ends = count[order].cumsum(0)
    first = torch.empty_like(count)
    first[order] = ends - count[order]
    return first


def _quads(
    corners: Int[Tensor, "p 2"],
    owner: Int[Tensor, "p"],
    sdf: Float[Tensor, "n"],
    gamma: Float[Tensor, "p"],
) -> tuple[Int[Tensor, "q 4"], Float[Tensor, "q 4"]]:
    """A quad of vertices and their gammas for every crossed edge that four cubes share."""
    _, kind, count = torch.unique(
        corners[:, 0] * len(sdf) + corners[:, 1], return_inverse=True, return_counts=True
    )
    order = kind.argsort(stable=True)
    order = order[count[kind[order]] == 4].view(-1, 4)
    leaving = sdf[corners[order[:, 0], 0]] > 0
    order = torch.cat([order[leaving][:, [0, 1, 3, 2]], order[~leaving][:, [2, 3, 1, 0]]])
    return owner[order], gamma[order]


def _triangles(quads: Int[Tensor, "q 4"], gamma: Float[Tensor, "q 4"]) -> Int[Tensor, "q2 3"]:
    """Splits quads along the diagonal with the larger product of gammas."""
    along_02 = gamma[:, 0] * gamma[:, 2] > gamma[:, 1] * gamma[:, 3]
    first, second = quads[:, [0, 1, 2, 0, 2, 3]], quads[:, [0, 1, 3, 3, 1, 2]]
    return torch.where(along_02[:, None], first, second).view(-1, 3)


def _by_vertex(crossings: Tensor, owner: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
    order = (owner * len(EDGES) + edge).argsort()
    return crossings[order], owner[order]
