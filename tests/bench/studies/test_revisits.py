"""The study of revisits: which views count, which sequences an arm has, the whole at small size."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loci import cli
from loci.bench.studies import recall_by_age, revisits
from loci.bench.studies.recall_by_age import FRAMES, choose_trials
from loci.bench.studies.revisits import Arm, Pools, cut
from loci.bench.studies.revisits_plot import draw_revisits
from loci.data.latents import LatentWalks
from loci.data.record_doom import record_walks
from loci.errors import LociError
from loci.memory.hierarchical import MemoryConfig
from loci.memory.schedule import MergeConfig


def turning(*parts: tuple[int, float]) -> np.ndarray:
    """Poses of a camera on one spot: (frames, degrees a frame), from heading 0."""
    steps = np.concatenate([np.full(frames, degrees) for frames, degrees in parts])
    headings = np.radians(np.concatenate([[0.0], np.cumsum(steps)]))
    return np.stack([headings, np.zeros_like(headings), np.zeros_like(headings)], axis=1)


def test_views_count_that_were_seen_long_ago_and_not_since() -> None:
    # Looks to the left and back at once, waits, and looks to the left again.
    path = turning((12, 7.5), (12, -7.5), (40, 0.0), (FRAMES, 7.5), (8, 0.0))
    (trial,) = choose_trials(path[None], 64, 10, np.random.default_rng(0))
    assert trial.now == 64
    expected = np.degrees(path[65 : 65 + FRAMES, 0])
    assert (trial.seen == ((expected > 40) & (expected < 110))).all()
    assert (trial.new == (expected >= 110)).all(), "beyond what the first look reached"
    late = turning((40, 0.0), (12, 7.5), (12, -7.5), (FRAMES, 7.5), (8, 0.0))
    assert choose_trials(late[None], 64, 10, np.random.default_rng(0)) == []


def walks(count: int, length: int) -> LatentWalks:
    number = torch.arange(count * length).view(count, length)
    latents = number[..., None, None, None].expand(-1, -1, 1, 1, 1).float()
    return LatentWalks(
        latents,
        number[..., None].expand(-1, -1, 2),
        number[..., None].expand(-1, -1, 3).double(),
        number[..., None].expand(-1, -1, 3).double(),
    )


def test_sequences_leave_out_the_first_frames_and_stay_in_their_walk() -> None:
    parts = cut(walks(4, 400), np.array([1, 3]))
    assert parts.latents.shape[:2] == (4, 128)
    firsts = parts.latents[:, 0].flatten().tolist()
    assert firsts == [528, 656, 1328, 1456]
    assert (parts.latents[:, :, 0, 0, 0] == parts.actions[..., 0]).all()
    assert (parts.latents[:, :, 0, 0, 0] == parts.poses[..., 0]).all()


def test_arms_of_a_seed_are_nested_and_those_of_two_differ() -> None:
    pools = Pools(walks(2, 8), walks(50, 8), walks(50, 8))

    def drawn(count: int, seed: int) -> list[float]:
        arm = Arm("time", "revisit", count, seed)
        return pools.drawn(arm).latents[:, 0].flatten().tolist()

    assert drawn(30, 1)[:10] == drawn(10, 1)
    assert drawn(10, 1) != drawn(10, 2)
    with pytest.raises(LociError, match="50 wandering sequences"):
        pools.check(51)


def test_the_study_at_small_size_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("vizdoom")
    record_walks(tmp_path / "data/train", 5, 400, 1, "train")
    record_walks(tmp_path / "data/test", 5, 320, 1, "test")
    full = revisits.small_transformer
    monkeypatch.setattr(revisits, "SPAN", 80)
    monkeypatch.setattr(recall_by_age, "HISTORIES", (64,))
    monkeypatch.setattr(recall_by_age, "MAX_VIEWS", 8)
    monkeypatch.setattr(revisits, "small_transformer", lambda a: replace(full(a), blocks=1))
    argv = ["bench", "study-revisits", "--json", str(tmp_path / "r.json")]
    argv += ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "runs"), "--trials", "2"]
    argv += ["--time-counts", "3", "--pose-counts", "2", "--seeds", "2"]
    argv += ["--base-steps", "2", "--steps", "1", "--plot", str(tmp_path / "r.png")]
    assert cli.main(argv) == 0
    results = json.loads((tmp_path / "r.json").read_text())
    assert len(results["runs"]) == 2 + 4 + 4
    assert {run["addressing"] for run in results["runs"]} == {"time", "poses"}
    assert all(run["seen_64"] > 5 and 0 <= run["found_64"] <= 1 for run in results["runs"])
    tuned = [m for m in results["means"] if m["source"] == "revisit" and m["sequences"] == 3]
    assert len(tuned) == 1
    assert tuned[0]["intervals"]["seen_64"][0] <= tuned[0]["seen_64"]
    assert (tmp_path / "r.png").stat().st_size > 10_000

    monkeypatch.setattr(revisits, "fit_world", None)  # nothing is trained again
    (tmp_path / "r.json").unlink()
    assert cli.main(argv) == 0
    assert json.loads((tmp_path / "r.json").read_text()) == results
    (gain,) = [d for d in results["differences"] if d["addressing"] == "time"]
    pairs = {(r["source"], r["seed"]): r["seen_64"] for r in results["runs"] if r["sequences"] == 3}
    each = [pairs["revisit", seed] - pairs["wander", seed] for seed in (0, 1)]
    assert gain["seen_64"] == pytest.approx(sum(each) / 2)
    assert cli.main([*argv, "--seeds", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
    assert cli.main([*argv, "--steps", "7"]) == 2
    assert "holds a study of" in capsys.readouterr().err


def test_memory_of_the_study_holds_what_its_batches_hold() -> None:
    config = revisits.study_world().memory
    assert config == MemoryConfig(MergeConfig(8, revisits.BUDGET))
    assert config.merging.merge_by == "age"


def test_a_plot_needs_no_interval(tmp_path: Path) -> None:
    row = {"addressing": "poses", "source": "none", "sequences": 0, "seen_128": 17.0}
    tuned = [
        row | {"source": source, "sequences": 10, "intervals": {}}
        for source in ("wander", "revisit")
    ]
    means = [row | {"intervals": {}}, *tuned, row | {"addressing": "time", "intervals": {}}]
    draw_revisits({"means": means, "span": 128}, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000
