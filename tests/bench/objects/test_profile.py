"""`loci bench speed-parts` on tiny parts."""

from pathlib import Path

import pytest
import torch

from loci.bench.objects.profile import GUIDED, describe, part_seconds, read_shares, shell, whole_run
from loci.bench.report import write_json
from loci.errors import LociError
from loci.objects.config import LifterConfig
from loci.objects.sampling import SlatSampling, StructureSampling
from tests.objects.lifters import small_config, small_parts

EXACT = {"structure": 1.0, "slat": 1.0, "tokens": 1.0, "voxels": 1.0}


@pytest.fixture(scope="module")
def seconds() -> dict[str, float]:
    cpu = torch.device("cpu")
    return part_seconds(small_parts(), small_config(), 20, cpu, torch.float32, 1)


def test_every_part_is_measured(seconds: dict[str, float]) -> None:
    assert list(seconds) == [
        *("pictures of structure", "structure", "structure uncond", "voxels"),
        *("pictures of slat", "slat", "slat uncond", "gaussians", "mesh"),
    ]
    assert all(s > 0 for s in seconds.values())


def test_whole_runs_follow_from_shares(tmp_path: Path, seconds: dict[str, float]) -> None:
    one = dict.fromkeys(seconds, 1.0)
    exact = whole_run(one, EXACT)
    assert exact["structure"] == sum(GUIDED["structure"]) == 44
    assert exact["slat"] == sum(GUIDED["slat"]) == 38
    assert exact["all"] == 44 + 38 + 2 + 1 + 2
    some = {"structure": 0.25, "slat": 0.5, "tokens": 0.5, "voxels": 0.5}
    assert whole_run(one, some)["all"] == 44 / 4 + 38 / 8 + 2 + 1 + 1
    rows = {"exact": {"shares": EXACT}, "fast": {"shares": some}}
    write_json(tmp_path / "speed.json", {"rows": rows})
    shares = read_shares(tmp_path / "speed.json")
    assert shares == {"exact": EXACT, "fast": some}
    measured = {"seconds": seconds, "voxels": 20, "dtype": "float32", "device": "cpu"}
    estimated = {name: whole_run(seconds, share) for name, share in shares.items()}
    printed = describe({"measured": measured, "estimated": estimated, "notes": []})
    assert "structure uncond" in printed
    assert "speed-up" in printed


def test_the_published_run_has_these_evaluations() -> None:
    from loci.flow import rescaled_times

    for name, settings in (("structure", StructureSampling()), ("slat", SlatSampling())):
        times = 1000 * rescaled_times(settings.steps, settings.rescale)[:-1]
        low, high = settings.interval
        guided = int(((times >= low) & (times <= high)).sum())
        assert (settings.steps, guided) == GUIDED[name]
    assert LifterConfig().structure == StructureSampling()


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    for name in ("a.json", "nowhere.json"):
        with pytest.raises(LociError, match=f"{name}: expected the results of loci bench speed"):
            read_shares(tmp_path / name)


def test_a_shell_has_the_voxels_it_is_asked_for() -> None:
    coords = shell(1000, 32)
    assert coords.shape == (1000, 4)
    assert coords.unique(dim=0).equal(coords)
    apart = (coords[:, 1:] + 0.5 - 16).norm(dim=1)
    assert (apart - 32 / 3).abs().max() < 1
