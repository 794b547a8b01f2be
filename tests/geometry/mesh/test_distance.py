"""Distances between sampled surfaces."""

import math

import pytest
import torch

from loci.geometry.mesh.distance import mesh_points, nearest_distances, surface_distance
from loci.geometry.mesh.mesh import Mesh

SQUARE = Mesh(
    torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 3, 0], [0, 3, 0]]),
    torch.tensor([[0, 1, 2], [0, 2, 3]]),
)


def test_points_are_uniform_over_a_mesh() -> None:
    points = mesh_points(SQUARE, 20000, torch.Generator().manual_seed(0))
    assert points.shape == (20000, 3)
    torch.testing.assert_close(points.mean(0), torch.tensor([0.5, 1.5, 0]), atol=0.02, rtol=0)
    deviation = torch.tensor([1, 3, 0]) / math.sqrt(12)
    torch.testing.assert_close(points.std(0), deviation, atol=0.02, rtol=0)


def test_a_mesh_without_area_has_no_points() -> None:
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    assert len(mesh_points(empty, 10)) == 0
    assert surface_distance(mesh_points(empty, 10), torch.zeros(1, 3)) == (math.inf, 0.0)


def test_the_distance_of_parallel_squares_is_their_gap() -> None:
    points = mesh_points(SQUARE, 3000, torch.Generator().manual_seed(0))
    near = surface_distance(points + torch.tensor([0, 0, 0.04]), points)
    assert near.chamfer == pytest.approx(0.04, rel=1e-3)
    assert near.f_score == 1
    far = surface_distance(points + torch.tensor([0, 0, 0.06]), points)
    assert far.f_score == 0


def test_precision_and_recall_are_both_wanted() -> None:
    truth = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    assert surface_distance(truth[:1], truth).f_score == pytest.approx(2 * 0.5 / 1.5)
    assert nearest_distances(truth, truth[:1]).tolist() == [0, 1]
