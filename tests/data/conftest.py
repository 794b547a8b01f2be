"""A Ray cluster on this machine, for tests that spread work."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each; workers find the tests."""
    from ray.cluster_utils import Cluster  # type: ignore

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **NODE})
        found.add_node(**NODE)
        found.wait_for_nodes()
        yield found
        found.shutdown()
