"""Processes are killed, and nothing but their own work is lost. Ray: on a cluster of two nodes."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from loci import cli
from loci.data.workers import finished, finished_on_ray
from loci.errors import LociError
from tests.data.conftest import NODE
from tests.data.killed import refuse, slow, survive

NAMES = ("a", "b", "heavy", "c", "unlucky", "d")
ROOT = Path(__file__).parents[2]
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs ray (the extra [ray])")


def test_a_killed_process_costs_its_own_work_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)  # for the workers
    jobs = [tmp_path / name for name in NAMES if name != "unlucky"]
    done = dict(finished(jobs, survive, 2))
    assert done == {j: None if j.name == "heavy" else len(j.name) for j in jobs}


@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_extra_is_named() -> None:
    with pytest.raises(LociError, match=r"--ray needs Ray: pip install 'genius-loci\[ray\]'"):
        next(finished_on_ray([1], slow, "auto"))


@needs_ray
def test_ray_gives_work_of_a_killed_process_to_another(cluster: Any, tmp_path: Path) -> None:
    jobs = [tmp_path / name for name in NAMES]
    done = dict(finished_on_ray(jobs, survive, cluster.address))
    assert done == {j: None if j.name == "heavy" else len(j.name) for j in jobs}
    assert (tmp_path / "unlucky").exists(), "killed once"
    with pytest.raises(ValueError, match="no 1"):
        list(finished_on_ray([1], refuse, cluster.address))


@needs_ray
def test_ray_gives_work_of_a_lost_machine_to_the_others(cluster: Any) -> None:
    third = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    done = finished_on_ray(range(12), slow, cluster.address)
    results = [next(done)]
    cluster.remove_node(third, allow_graceful=False)
    results += done
    assert sorted(job for job, _ in results) == list(range(12))
    assert all(result is not None for _, result in results)


@needs_ray
def test_films_are_labelled_on_a_cluster(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.labels.room import FOV, picture, walk, write_film

    monkeypatch.chdir(tmp_path)  # where the workers are not
    (folder := Path("films")).mkdir()
    for name in ("one", "two"):
        write_film(folder / f"{name}.mp4", [picture(pose) for pose in walk(["w"] * 40)])
    (folder / "text.mp4").write_text("not a film")
    argv = ["label", "films", "--out", "out", "--fov", str(FOV), "--ray", cluster.address]
    assert cli.main(argv) == 0
    assert sorted(p.name for p in Path("out/clips").iterdir()) == ["one", "two"]


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:99999"])
def test_no_cluster_there(address: str) -> None:
    with pytest.raises(LociError, match=f"--ray {address}: no cluster .* expected HOST:PORT"):
        next(finished_on_ray([1], slow, address))
