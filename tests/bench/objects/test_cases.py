"""Rotational symmetries of shapes, and rotation errors up to them."""

import math

import pytest
import torch
from torch import Tensor

from loci.bench.objects.cases import (
    ROTATIONS,
    rotational_symmetries,
    symmetric_rotation_error,
)


def box(low: tuple[float, float, float], high: tuple[float, float, float], seed: int) -> Tensor:
    points = torch.rand(3000, 3, generator=torch.Generator().manual_seed(seed))
    side = torch.randint(6, (3000,), generator=torch.Generator().manual_seed(seed + 1))
    points[torch.arange(3000), side % 3] = (side > 2).float()
    return torch.tensor(low) + points * (torch.tensor(high) - torch.tensor(low))


TABLE = box((-0.45, -0.2, -0.1), (0.45, 0.2, 0.1), 0)
BACK = box((-0.45, 0.15, 0.1), (0.45, 0.2, 0.45), 2)


def turn(degrees: float) -> Tensor:
    a = math.radians(degrees)
    return torch.tensor(
        [[math.cos(a), math.sin(a), 0.0], [-math.sin(a), math.cos(a), 0.0], [0.0, 0.0, 1.0]]
    )


def test_symmetries_are_those_of_the_shape() -> None:
    assert len(rotational_symmetries(TABLE)) == 2
    assert torch.allclose(rotational_symmetries(TABLE)[1], turn(180), atol=1e-6)
    assert len(rotational_symmetries(torch.cat([TABLE, BACK]))) == 1
    bulky = torch.cat([box((-0.475, -0.475, -0.475), (0.475, 0.475, 0.475), n) for n in range(5)])
    assert len(rotational_symmetries(bulky)) == 4
    square = box((-0.4, -0.4, -0.1), (0.4, 0.4, 0.1), 4)
    assert len(rotational_symmetries(square)) == 4
    angle = 2 * math.pi * torch.rand(4000, generator=torch.Generator().manual_seed(5))
    height = torch.rand(4000, generator=torch.Generator().manual_seed(6)) - 0.5
    pipe = torch.stack([0.3 * angle.cos(), 0.3 * angle.sin(), height], dim=1)
    assert len(rotational_symmetries(pipe)) == ROTATIONS


@pytest.mark.parametrize(("degrees", "error"), [(0, 0), (20, 20), (180, 0), (165, 15), (90, 90)])
def test_symmetries_do_not_count_as_errors(degrees: float, error: float) -> None:
    tilted = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    truth = tilted * torch.det(tilted).sign()
    found = turn(degrees) @ truth
    own = symmetric_rotation_error(found, truth, rotational_symmetries(TABLE))
    assert own == pytest.approx(error, abs=0.1)
    none = symmetric_rotation_error(found, truth, torch.eye(3)[None])
    assert none == pytest.approx(degrees, abs=0.1)
