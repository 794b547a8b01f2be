import re
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from loci.envs.doom.looks import LANDMARKS, WALLS
from loci.envs.doom.maps import CELL, FIRST_CORRIDOR, SIDES, Cell, DoomMap, make_map
from loci.envs.doom.wad import udmf

seeds = st.integers(0, 2**40)


def reached(world: DoomMap, start: Cell) -> set[Cell]:
    """The open cells that can be walked to, from cell to cell across their sides."""
    seen, edge = {start}, [start]
    while edge:
        i, j = edge.pop()
        beside = {(i + dx, j + dy) for dx, dy in SIDES}
        new = {cell for cell in beside if cell in world.owner} - seen
        seen |= new
        edge += new
    return seen


@given(seeds)
def test_every_room_can_be_walked_to(seed: int) -> None:
    world = make_map(seed)
    assert 4 <= len(world.rooms) <= 6
    assert reached(world, world.rooms[0].cells[0]) == set(world.owner)


@given(seeds)
def test_rooms_keep_their_cells_and_touch_only_through_corridors(seed: int) -> None:
    world = make_map(seed)
    for k, room in enumerate(world.rooms):
        assert 3 <= room.w <= 5
        assert 3 <= room.h <= 5
        assert {world.owner[cell] for cell in room.cells} == {k}
    for (i, j), place in world.owner.items():
        for dx, dy in SIDES:
            other = world.owner.get((i + dx, j + dy), place)
            assert other == place or (other >= FIRST_CORRIDOR) != (place >= FIRST_CORRIDOR)


@given(seeds)
def test_corridors_are_straight_and_join_their_rooms(seed: int) -> None:
    world = make_map(seed)
    for corridor in world.corridors:
        assert world.owner[corridor.gate_a] == corridor.a
        assert world.owner[corridor.gate_b] == corridor.b
        assert corridor.gates(into=corridor.a) == (corridor.gate_b, corridor.gate_a)
        line = [corridor.gate_a, *corridor.cells, corridor.gate_b]
        assert len({(b[0] - a[0], b[1] - a[1]) for a, b in zip(line, line[1:], strict=False)}) == 1


@given(seeds)
def test_landmarks_stand_in_rooms_and_clear_of_gates_and_the_start(seed: int) -> None:
    world = make_map(seed)
    rooms = Counter(world.room_at(mark.x, mark.y) for mark in world.landmarks)
    assert None not in rooms
    assert max(rooms.values()) <= 3
    assert all(0 <= mark.kind < len(LANDMARKS) for mark in world.landmarks)
    gates = {cell for c in world.corridors for cell in (c.gate_a, c.gate_b)}
    assert not gates & {(int(m.x // CELL), int(m.y // CELL)) for m in world.landmarks}
    assert world.is_clear(*world.start[:2], 64)
    assert world.start[2] in range(0, 360, 15)


@given(seeds)
def test_the_same_seed_gives_the_same_map(seed: int) -> None:
    assert make_map(seed) == make_map(seed)
    assert udmf(make_map(seed)) == udmf(make_map(seed))
    assert make_map(seed) != make_map(seed + 1)


@given(seeds)
def test_text_maps_are_closed(seed: int) -> None:
    """Every sector is bounded all round: its lines enter each corner as often as they leave it."""
    text = udmf(make_map(seed))
    sides = [int(n) for n in re.findall(r"sidedef\{sector=(\d+);", text)]
    balance: Counter[tuple[int, int]] = Counter()
    used = []
    for a, b, front, back in re.findall(
        r"linedef\{v1=(\d+);v2=(\d+);sidefront=(\d+);(?:sideback=(\d+);)?", text
    ):
        used += [int(front)] + ([int(back)] if back else [])
        for side, start, end in ((front, a, b), (back, b, a)):
            if side:
                balance[sides[int(side)], int(start)] += 1
                balance[sides[int(side)], int(end)] -= 1
    assert set(balance.values()) == {0}
    assert sorted(used) == list(range(len(sides)))
    names = set(re.findall(r'texture(?:middle|top|bottom)="(\w+)"', text))
    assert names <= {f"LOCI{k:02d}" for k in range(len(WALLS))}


def test_clearance_is_a_square() -> None:
    world = make_map(5)
    room = world.rooms[0]
    world.landmarks.clear()
    x, y = room.middle
    half = min(room.w, room.h) * CELL / 2
    assert world.is_clear(x, y, half - 1)
    assert not world.is_clear(x - 1e6, y, 16)
