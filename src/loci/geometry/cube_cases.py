"""Dual vertices of the 256 sign patterns of a cube, made by rule instead of copied as a table.

Corner i stands at (i & 1, i >> 1 & 1, i >> 2 & 1) in (x, y, z); a pattern has bit i set where
corner i is inside. Every sign change on an edge is a crossing. Crossings are joined on each face
of the cube, and every closed loop that results is one dual vertex (FlexiCubes; SAM 3D Objects, 10).
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

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
    """What the 256 patterns mean.

    `loop` `[256, 12]`: the dual vertex that each edge's crossing belongs to, -1 for no crossing.
    `count` `[256]`: dual vertices. `problem` `[256, 3]`: the direction of the face that makes a
    pattern problematic, zeros for all others.
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
        loop, ahead = set(), {min(joined)}
        while ahead:
            edge = ahead.pop()
            loop.add(edge)
            ahead |= joined.pop(edge) - loop
        loops.append(tuple(sorted(loop)))
    loops.sort(key=lambda loop: (min(_inside_corner(case, edge) for edge in loop), loop))
    return tuple(reversed(loops) if case == _REVERSED_CASE else loops)


def problem_direction(case: int) -> tuple[int, int, int]:
    """Direction of the one ambiguous face of a pattern that is mostly inside and has one loop.

    Where two such cubes meet, taking both as they are would give a surface that is no manifold.
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
    """Pairs of crossings joined on a face; an ambiguous face has each inside corner cut off."""
    crossings = _crossings(case, face)
    if len(crossings) < 4:
        return [(crossings[0], crossings[1])] if crossings else []
    around = zip(face[-1:] + face[:-1], face, face[1:] + face[:1], strict=True)
    return [
        (_EDGE_BETWEEN[frozenset((before, corner))], _EDGE_BETWEEN[frozenset((corner, after))])
        for before, corner, after in around
        if _inside(case, corner)
    ]
