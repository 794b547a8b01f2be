"""The evidence of films: labels against the truth, and models on held-out walks."""

import json
from pathlib import Path

import numpy as np
import pytest

from loci import cli
from loci.bench.claims import drift
from tests.train.test_film import labels  # noqa: F401
from tests.world.models import small_world


def circle(turn: float, step: float, frames: int = 400) -> np.ndarray:
    heading = turn * np.arange(frames)
    angle = np.radians(heading)
    place = step * np.cumsum(np.column_stack([np.cos(angle), np.sin(angle)]), axis=0)
    return np.column_stack([place, heading])


def test_drift_is_of_headings_and_of_places_whatever_the_scale_and_axes() -> None:
    true = circle(1.0, 5.0)
    found = circle(1.0, 1.0)
    angle = np.radians(30)
    found[:, :2] = found[:, :2] @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    found[:, 2] += 30
    none = drift(found, true, 15)
    assert all(value is None or value < 1e-6 for value in none.values())
    assert none["heading_60s"] is None, "shorter than that"
    bent = drift(circle(1.01, 1.0), true, 15)
    assert bent["heading_10s"] == pytest.approx(1.5, abs=0.01)
    assert bent["place_10s"] == pytest.approx(0.0105, abs=0.004)


def test_a_model_is_measured_with_its_own_camera_and_with_the_film_s(
    labels: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    small_world().save_pretrained(tmp_path / "model")
    argv = ["bench", "claims", "--json", str(tmp_path / "c.json"), "--data", str(labels)]
    argv += ["--models", str(tmp_path / "model"), "--examples", "2", "--starts", "1"]
    assert cli.main(argv) == 0
    results = json.loads((tmp_path / "c.json").read_text())
    first, second = results["models"]
    assert second["model"] == f"{tmp_path / 'model'}, 51 degrees"
    assert first["next_true"] != second["next_true"]
    assert first["next_ceiling"] == second["next_ceiling"]
    assert 0 <= first["obedience"]["turn left"] <= 1
    assert results["film"]["obedience"]["turn left"] == 1.0
    assert results["film"]["obedience"]["forward"] is None, "no move of the film is certain"
