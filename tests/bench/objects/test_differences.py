"""Differences of two measurements are taken object by object."""

from typing import Any

import numpy as np
import pytest

from loci.bench.objects.differences import (
    describe_differences,
    differences,
    plain_differences,
    rows_of,
)
from loci.bench.objects.metrics import METRICS
from loci.errors import LociError


def results(shift: float, noise: float, count: int = 40) -> list[dict[str, Any]]:
    """Objects that differ much from each other, and by `shift` from what they were."""
    rng = np.random.default_rng(1)
    level, jitter = rng.normal(0, 10, count), rng.normal(0, noise, count)
    return [
        {"name": f"o{i}", "view": 0, "alone": dict.fromkeys(METRICS, level[i] + shift + jitter[i])}
        for i in range(count)
    ]


def test_pairs_tell_a_difference_that_is_small_beside_the_spread() -> None:
    found = differences(results(0.5, 0.1), results(0, 0), "alone")
    assert found["psnr"].value == pytest.approx(0.5, abs=0.06)
    assert 0.4 < found["psnr"].low < found["psnr"].value < found["psnr"].high < 0.6
    none = differences(results(0, 0.1), results(0, 0), "alone")["f_score"]
    assert none.low < 0 < none.high
    assert "+0.5" in describe_differences({"alone": found})
    assert plain_differences({"alone": found})["alone"]["psnr"] == list(found["psnr"])


def test_order_does_not_matter_and_missing_scores_are_left_out() -> None:
    new, old = results(0.5, 0), results(0, 0)[::-1]
    new[3]["alone"]["chamfer"] = None
    found = differences(new, old, "alone")
    assert found["psnr"] == pytest.approx((0.5, 0.5, 0.5))
    assert np.isfinite(found["chamfer"]).all()


def test_other_objects_are_refused() -> None:
    with pytest.raises(LociError, match="20 of 40 objects are the same, expected all"):
        differences(results(0, 0), results(0, 0)[:20], "alone")
    with pytest.raises(LociError, match="no placed, expected the results"):
        differences(results(0, 0), results(0, 0), "placed")
    with pytest.raises(LociError, match="r.json: no objects, expected results of loci bench"):
        rows_of({"by_object": [1]}, "r.json")
    assert len(rows_of({"by_object": results(0, 0)}, "r.json")) == 40
