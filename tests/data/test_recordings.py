"""Recordings on disk: what is written is read, piece by piece; what is damaged is named."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from loci.data.recordings import (
    Clip,
    Recordings,
    load_recordings,
    read_meta,
    shard_path,
    write_meta,
    write_recordings,
    write_shard,
)
from loci.envs.base import EnvironmentInfo
from loci.errors import LociError

META = {
    "version": 2,
    "environment": "test",
    "episodes": 5,
    "frames": 3,
    "frame_size": [4, 4],
    "episodes_per_shard": 2,
    "poses": True,
    "labels": {"kinds": "uint8", "map_seeds": "int64"},
}


def arrays(count: int, first: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(first)
    return {
        "frames": rng.integers(0, 256, (count, 3, 4, 4, 3), np.uint8),
        "poses": rng.random((count, 3, 3), np.float32),
        "actions": rng.integers(0, 9, (count, 3, 2), np.uint8),
        "kinds": np.zeros(count, np.uint8),
        "map_seeds": np.arange(first, first + count, dtype=np.int64),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five walks in shards of two."""
    write_meta(tmp_path, META)
    for k, count in enumerate((2, 2, 1)):
        write_shard(shard_path(tmp_path, k), arrays(count, 2 * k))
    return tmp_path


def test_what_was_written_is_read(folder: Path) -> None:
    shards = load_recordings(folder)
    assert isinstance(shards, Recordings)
    assert shards.frames.shape == (5, 3, 4, 4, 3)
    assert shards.walk_attributes["map_seeds"].tolist() == [0, 1, 2, 3, 4]
    assert (shards.frames[2:4] == arrays(2, 2)["frames"]).all()
    assert shards.poses is not None
    assert (shards.poses[4:] == arrays(1, 4)["poses"]).all()
    assert shards.meta == META
    assert sorted(p.name for p in folder.iterdir())[0] == "meta.json", "drafts left behind"


def test_the_first_walks_can_be_read_alone(folder: Path) -> None:
    (shard_path(folder, 2) / "frames.npy").unlink()
    shards = load_recordings(folder, episodes=3)
    assert shards.walk_attributes["map_seeds"].tolist() == [0, 1, 2]
    for episodes in (0, 6):
        with pytest.raises(LociError, match="expected 1 to 5"):
            load_recordings(folder, episodes)


def test_damage_is_named(folder: Path) -> None:
    frames = shard_path(folder, 1) / "frames.npy"
    whole = frames.read_bytes()
    for damage, words in (
        (whole[:-20], "damaged"),
        (whole[:30], "damaged"),
        (b"", "damaged"),
        (b"x" * 500, "damaged"),
    ):
        frames.write_bytes(damage)
        with pytest.raises(LociError, match=words) as caught:
            load_recordings(folder)
        assert str(frames) in str(caught.value)
    for wrong in (np.zeros((2, 3, 4, 4), np.uint8), np.zeros((2, 3, 4, 4, 3), np.float32)):
        np.save(frames, wrong)
        with pytest.raises(LociError, match=r"expected uint8 \[2, 3, 4, 4, 3\]"):
            load_recordings(folder)
    frames.unlink()
    with pytest.raises(LociError, match="missing"):
        load_recordings(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "expected a JSON"),
        ("[]", "version"),
        ("{}", "version"),
        (json.dumps({**META, "version": 99}), "version"),
        (json.dumps({**META, "frames": "many"}), "frames many"),
        (json.dumps({**META, "episodes": 0}), "episodes 0"),
        (json.dumps({**META, "frame_size": 4}), "frame_size"),
        (json.dumps({**META, "move_units": "far"}), "move_units"),
    ],
)
def test_a_strange_description_is_refused(folder: Path, text: str, words: str) -> None:
    (folder / "meta.json").write_text(text)
    with pytest.raises(LociError, match=words):
        load_recordings(folder)


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(LociError, match="loci data doom"):
            load_recordings(folder)


def test_a_data_set_is_not_mixed_with_another(folder: Path) -> None:
    write_meta(folder, META)
    with pytest.raises(LociError, match="frames 3, expected 7"):
        write_meta(folder, {**META, "frames": 7})
    file = folder / "file"
    file.touch()
    with pytest.raises(LociError, match="cannot be written"):
        write_meta(file, META)


def test_a_shard_that_cannot_be_written_leaves_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(LociError, match="cannot be written"):
        write_shard(shard_path(folder, 0), arrays(2, 0))  # there is one already
    assert sorted(folder.iterdir()) == before


def test_any_part_of_the_frames_can_be_indexed_without_reading_the_rest(folder: Path) -> None:
    frames = load_recordings(folder).frames
    whole = np.concatenate([arrays(n, 2 * k)["frames"] for k, n in enumerate((2, 2, 1))])
    assert all(isinstance(part, np.memmap) for part in frames.parts)
    rows, columns = np.array([[4, 0], [3, 2]]), np.array([[2, 0], [1, 1]])
    for index in (
        0,
        -1,
        (3, 1),
        (2, slice(1, 3)),
        slice(1, 4),
        rows,
        (rows, columns),
        (rows, 2),
        (slice(0, 5, 2), slice(0, 2)),
        (4, 2, 0, 1),
    ):
        assert np.array_equal(frames[index], whole[index]), index
    flat, chosen = whole.reshape(15, 4, 4, 3), np.array([14, 0, 7])
    assert np.array_equal(frames.reshape(-1, 4, 4, 3)[chosen], flat[chosen])
    with pytest.raises(IndexError):
        frames[5]


def test_other_processes_map_the_same_files(folder: Path) -> None:
    frames = load_recordings(folder, episodes=3).frames
    sent = pickle.dumps(frames)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert np.array_equal(again, frames)
    assert all(isinstance(part, np.memmap) for part in again.parts)


INFO = EnvironmentInfo("a camera", (6, 8), fps=24)


def clips(count: int) -> list[Clip]:
    rng = np.random.default_rng(count)
    frames = rng.integers(0, 256, (count, 5, 6, 8, 3), np.uint8)
    return [Clip(video, np.full((5, 2), k)) for k, video in enumerate(frames)]


def test_clips_of_any_video_are_recordings(tmp_path: Path) -> None:
    assert write_recordings(tmp_path, iter(clips(5)), INFO, shard=2) == 5
    found = load_recordings(tmp_path)
    assert found.info == INFO
    assert found.poses is None
    assert found.info.action_scale is None
    assert np.array_equal(found.frames, np.stack([clip.frames for clip in clips(5)]))
    with pytest.raises(LociError, match="holds recordings already"):
        write_recordings(tmp_path, clips(1), INFO)
    with pytest.raises(LociError, match="no clips"):
        write_recordings(tmp_path / "none", [], INFO)
    odd = clips(2)[1]._replace(actions=np.zeros((4, 2)))
    with pytest.raises(LociError, match="clip 1"):
        write_recordings(tmp_path / "odd", [clips(2)[0], odd], INFO)


def test_recordings_of_the_first_version_say_what_they_had(folder: Path) -> None:
    """They were of Doom, and with 64 pixels a frame spanned less than they said."""
    first = {"version": 1, "episodes": 5, "frames": 3, "episodes_per_shard": 2}
    stated = {"step_units": 12.0, "turn_degrees": 7.5, "cell_units": 128, "fov_degrees": 88.7}
    (folder / "meta.json").write_text(json.dumps({**first, **stated, "frame_size": 4}))
    found = load_recordings(folder)
    assert found.info == EnvironmentInfo("doom", (4, 4), 15.0, 88.7, 12.0, 7.5, 128.0)
    assert found.walk_attributes["map_seeds"].tolist() == [0, 1, 2, 3, 4]
    (folder / "meta.json").write_text(json.dumps({**first, **stated, "frame_size": 64}))
    assert read_meta(folder)["fov_degrees"] == pytest.approx(73.74, abs=0.01)


def test_the_digest_is_of_the_content(folder: Path) -> None:
    digest = load_recordings(folder).digest
    assert load_recordings(folder, 3).digest != digest
    (shard_path(folder, 1) / "sha256.txt").unlink()  # computed anew
    assert load_recordings(folder).digest == digest
    frames = np.load(shard_path(folder, 1) / "frames.npy")
    frames[1, 2, 3, 3, 2] ^= 1
    np.save(shard_path(folder, 1) / "frames.npy", frames)
    assert load_recordings(folder).digest != digest
