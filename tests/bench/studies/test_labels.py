"""The study of labels as a command: it goes on after a stop, and compares seed by seed."""

import json
from pathlib import Path

import numpy as np
import pytest

from loci import cli
from loci.bench.studies import labels
from loci.bench.studies.label_arms import ARMS
from loci.bench.studies.labels import NAIVE, RESULTS, SCORES, summarize
from loci.bench.world.control import MOTIONS

TINY = {"films": 3, "held-out": 1, "frames": 30, "base-steps": 1, "steps": 1, "batch-size": 2}
TINY |= {"width": 64, "blocks": 1, "starts": 1, "examples": 2}


def run(arm: str, seed: int, value: float) -> dict:
    scores = dict.fromkeys((*SCORES, *MOTIONS), value)
    return {"arm": arm, "seed": seed, "both_wrong": 0.1, **scores}


def test_gains_are_of_the_same_seed() -> None:
    runs = [run(NAIVE, seed, seed) for seed in range(3)]
    runs += [run("ours", seed, seed + 0.5) for seed in range(3)]
    runs[0]["left"], runs[0]["right"] = 0.5, 1.0
    arms = summarize(runs, dict.fromkeys(MOTIONS, 1.0), {})["arms"]
    assert arms[NAIVE]["mean"]["sideways"] == pytest.approx((0.75 + 1 + 2) / 3)
    assert list(arms) == [NAIVE, "ours"]
    assert arms["ours"]["mean"]["psnr"] == 1.5
    low, high = arms["ours"]["interval"]["psnr"]
    assert high - low == pytest.approx(2 * 4.303 / np.sqrt(3), rel=1e-3)
    assert arms["ours"]["gain"]["psnr"] == 0.5
    assert arms["ours"]["gain_interval"]["psnr"] == (0.5, 0.5)
    assert arms[NAIVE]["gain"]["psnr"] == 0


def test_a_study_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["bench", "study-labels", "--json", str(tmp_path / "s.json"), "--seeds", "1"]
    argv += ["--work", str(tmp_path / "work"), "--plot", str(tmp_path / "s.png")]
    for name, value in TINY.items():
        argv += [f"--plan.{name}", str(value)]
    train, calls = labels.train_chunks, []

    def stops(*args, **options):
        calls.append(args[2].name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return train(*args, **options)

    monkeypatch.setattr(labels, "train_chunks", stops)
    assert cli.main(argv) != 0
    assert calls == ["base", "oracle-0", "per frame-0", "one threshold-0"]
    monkeypatch.setattr(labels, "train_chunks", lambda *a: calls.append(a[2].name) or train(*a))
    assert cli.main(argv) == 0
    assert calls[4:] == [f"{arm}-0" for arm in ARMS[2:]], "what was done is not done again"
    results = json.loads((tmp_path / "s.json").read_text())
    assert list(results["arms"]) == list(ARMS)
    assert results["engine"]["obedience"] > 0.8
    assert results["arms"]["oracle"]["mean"]["both_wrong"] == 0
    assert (tmp_path / "s.png").stat().st_size > 1000
    assert len((tmp_path / "work" / RESULTS).read_text().splitlines()) == len(ARMS)
    argv[-1] = "3"
    assert cli.main(argv) != 0
    assert "another plan" in capsys.readouterr().err
