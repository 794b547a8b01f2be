"""Angles between rotations."""

import math

import pytest
import torch

from loci.geometry.rotations import degrees_apart, quaternion_to_matrix


@pytest.mark.parametrize("degrees", [0.0, 30.0, 180.0])
def test_degrees_between_rotations(degrees: float) -> None:
    half = math.radians(degrees) / 2
    turn = quaternion_to_matrix(torch.tensor([[math.cos(half), 0.0, math.sin(half), 0.0]]))
    first = quaternion_to_matrix(torch.tensor([[0.5, 0.1, -0.7, 0.2]]))
    assert float(degrees_apart(first, first @ turn)) == pytest.approx(degrees, abs=0.1)
