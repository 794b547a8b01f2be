"""Recorded walks as a model sees them: which action leads where, and what the cache keeps."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from loci.codecs.frame import FrameCodec, FrameCodecConfig
from loci.data.recordings import (
    Recordings,
    latent_walks,
    load_recordings,
    shard_path,
    write_meta,
    write_shard,
)
from loci.errors import LociError

LEFT, FORWARD = (0, 3), (1, 0)


def shards() -> Recordings:
    """Two walks that turn left, go forward, and end with an action that leads nowhere."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    turn, step = 7.5, 12.0
    place = [step * math.cos(math.radians(turn)), step * math.sin(math.radians(turn))]
    poses = np.array([[0, 0, 0], [0, 0, turn], [*place, turn]], np.float32)
    actions = np.array([LEFT, FORWARD, LEFT], np.uint8)
    none = np.zeros(2, np.uint8)
    return Recordings(
        frames, np.stack([poses] * 2), np.stack([actions] * 2), none, none.astype(np.int64), {}
    )


def codec() -> FrameCodec:
    torch.manual_seed(0)
    return FrameCodec(FrameCodecConfig(widths=(8,), norm_groups=4)).eval().requires_grad_(False)


def test_reckoning_agrees_with_the_engine(tmp_path: Path) -> None:
    """The action of frame t leads to frame t + 1, in radians and cells."""
    walks = latent_walks(shards(), codec(), tmp_path, 2)
    assert walks.latents.shape == (2, 3, 16, 1, 1)
    assert torch.allclose(walks.reckoned, walks.true, atol=1e-6)
    assert walks.true[0, 2].tolist() == pytest.approx(
        [math.radians(7.5), 12 / 128 * math.cos(math.radians(7.5)), 0.01224], abs=1e-5
    )


def test_what_is_encoded_once_is_kept(tmp_path: Path) -> None:
    first = latent_walks(shards(), codec(), tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"00000.npy", "owner.json"}
    both = latent_walks(shards(), codec(), tmp_path, 2)
    assert torch.equal(both.latents[:1], first.latents)
    with pytest.raises(LociError, match="3 walks asked for, but the shards hold 2"):
        latent_walks(shards(), codec(), tmp_path, 3)


def test_a_cache_of_another_codec_is_refused(tmp_path: Path) -> None:
    latent_walks(shards(), codec(), tmp_path, 1)
    other = codec()
    torch.nn.init.normal_(other.analysis.weight)
    with pytest.raises(LociError, match="latents of another codec"):
        latent_walks(shards(), other, tmp_path, 1)


META = {"version": 1, "episodes": 5, "frames": 3, "frame_size": 4, "episodes_per_shard": 2}


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
    assert shards.map_seeds.tolist() == [0, 1, 2, 3, 4]
    assert (shards.frames[2:4] == arrays(2, 2)["frames"]).all()
    assert (shards.poses[4:] == arrays(1, 4)["poses"]).all()
    assert shards.meta == META
    assert sorted(p.name for p in folder.iterdir())[0] == "meta.json", "drafts left behind"


def test_the_first_walks_can_be_read_alone(folder: Path) -> None:
    (shard_path(folder, 2) / "frames.npy").unlink()
    shards = load_recordings(folder, episodes=3)
    assert shards.map_seeds.tolist() == [0, 1, 2]
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
        ("{", "expected JSON"),
        ("[]", "version"),
        ("{}", "version"),
        (json.dumps({**META, "version": 99}), "version"),
        (json.dumps({**META, "frames": "many"}), "frames many"),
        (json.dumps({**META, "episodes": 0}), "episodes 0"),
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
