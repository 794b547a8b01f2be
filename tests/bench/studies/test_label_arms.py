"""Labels of the same noisy films by several rules."""

import numpy as np
import pytest

from loci.actions import UNCERTAIN
from loci.bench.studies import label_arms
from loci.bench.studies.label_arms import ARMS, ArmThresholds, label_films, oracle, quality
from loci.bench.studies.pose_noise import PoseNoise, Spectrum

FPS = 15.0
NONE = PoseNoise(Spectrum(0, 0, 1), Spectrum(0, 0, 1))


def films(count: int = 6, frames: int = 240) -> np.ndarray:
    """Each stands, goes ahead, turns left, goes to the right, by turns; with some sway."""
    rng = np.random.default_rng(3)
    kinds = np.array([[0, 0, 0], [7, 0, 0], [0, 0, 4], [0, -7, 0]], float)
    poses = []
    for _ in range(count):
        steps = kinds[rng.integers(4, size=frames // 15)].repeat(15, axis=0)
        steps += 0.1 * rng.standard_normal(steps.shape)
        heading = np.cumsum(steps[:, 2])
        cos, sin = np.cos(np.radians(heading)), np.sin(np.radians(heading))
        x = np.cumsum(steps[:, 0] * cos - steps[:, 1] * sin)
        y = np.cumsum(steps[:, 0] * sin + steps[:, 1] * cos)
        poses.append(np.column_stack([x, y, heading]))
    return np.stack(poses)


def test_thresholds_are_half_of_what_a_moving_step_does() -> None:
    thresholds = ArmThresholds.of(films(), FPS)
    assert thresholds.unit.stride == pytest.approx(21, rel=0.05)
    assert thresholds.unit.turn == pytest.approx(12, rel=0.05)
    assert thresholds.move == pytest.approx(thresholds.unit.stride / 2)


def test_the_oracle_names_what_is_done() -> None:
    poses = films()
    true = oracle(poses, ArmThresholds.of(poses, FPS), FPS)
    middle = true[:, 7::15]  # of every run; steps lead from a frame to the next
    assert {tuple(ids) for ids in middle.reshape(-1, 2).tolist()} == {
        (0, 0),
        (1, 0),
        (0, 3),
        (4, 0),
    }


def test_without_noise_all_but_single_frames_are_right() -> None:
    poses = films()
    thresholds = ArmThresholds.of(poses, FPS)
    true = oracle(poses, thresholds, FPS)
    arms = label_films(poses, thresholds, FPS, seed=0, noise=NONE)
    assert quality(arms["one threshold"], true)["both_wrong"] == 0
    assert quality(arms["ours"], true)["both_wrong"] < 0.02
    assert quality(arms["per frame"], true)["both_wrong"] > 0, "where a motion begins and ends"


def test_rules_differ_as_the_noise_has_it() -> None:
    poses = films(12)
    thresholds = ArmThresholds.of(poses, FPS)
    true = oracle(poses, thresholds, FPS)
    arms = label_films(poses, thresholds, FPS, seed=0)
    assert tuple(arms) == ARMS
    found = {arm: quality(labels, true) for arm, labels in arms.items()}
    wrong = [
        found[arm]["both_wrong"] for arm in ("per frame", "one threshold", "two fixed", "ours")
    ]
    assert wrong == sorted(wrong, reverse=True)
    assert wrong[0] > 0.15
    assert wrong[-1] < 0.01
    for channel in ("move", "view"):
        assert found["two fixed"][f"{channel}_kept"] == pytest.approx(
            found["ours"][f"{channel}_kept"], abs=0.005
        )
    assert found["one threshold"]["both_kept"] == 1
    certain = (arms["ours"].ids != UNCERTAIN).all(axis=-1)
    assert np.array_equal(arms["ours, dropped"].used, certain)
    assert arms["ours"].used.all()


def test_films_have_different_noise_and_seeds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    poses = films()
    thresholds = ArmThresholds.of(poses, FPS)
    first, other = (label_films(poses, thresholds, FPS, seed)["per frame"].ids for seed in (0, 1))
    assert (first != other).any()
    true = oracle(poses, thresholds, FPS)
    wrong = (first != true).any(axis=-1).mean(axis=1)
    assert wrong[2::3].mean() > 2 * wrong[0::3].mean()
    monkeypatch.setattr(label_arms, "FACTORS", (0.0,))
    calm = label_films(poses, thresholds, FPS, seed=0)
    assert quality(calm["one threshold"], true)["both_wrong"] == 0
