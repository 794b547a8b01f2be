from loci.geometry.cube_cases import EDGES, FACES, case_loops, case_tables, problem_direction


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
