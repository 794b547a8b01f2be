"""Latents made by many processes are those that training makes itself."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loci import cli
from loci.codecs.frame import FrameCodec, FrameCodecConfig
from loci.data import latents
from loci.data.films import assemble
from loci.data.latents import latent_walks
from loci.data.recordings import load_recordings
from tests.data.test_films import add_film

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs ray (the extra [ray])")


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("codec")
    FrameCodec(FrameCodecConfig(widths=(8,), norm_groups=4)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    add_film(folder, "one")
    assemble(folder, 16)
    return folder


def check_kept(labels: Path, codec: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training finds all of them, and they are right."""
    model = FrameCodec.from_pretrained(codec)
    sets = [load_recordings(labels / name) for name in ("train", "test")]
    for recordings in sets:
        count = len(recordings.frames)
        expected = latent_walks(recordings, model, cache.parent / "fresh", count).latents
        with monkeypatch.context() as patch:
            patch.setattr(latents, "encode_walk", lambda *_: pytest.fail("encoded again"))
            found = latent_walks(recordings, model, cache, count).latents
        torch.testing.assert_close(found.float(), expected.float(), atol=2e-3, rtol=2e-3)
        assert found.any()


def test_training_finds_what_was_encoded(
    labels: Path, codec: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    cache = tmp_path / "latents"
    argv = ["data", "encode", "--data", str(labels), "--codec", str(codec), "--cache", str(cache)]
    assert cli.main([*argv, "--workers", "2"]) == 0
    assert "80 frames encoded" in capsys.readouterr().out
    check_kept(labels, codec, cache, monkeypatch)
    assert cli.main(argv) == 0
    assert "all encoded already" in capsys.readouterr().out


def test_lost_walks_are_named_and_encoded_next_time(
    labels: Path, codec: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    argv = ["data", "encode", "--data", str(labels), "--codec", str(codec)]
    argv += ["--cache", str(tmp_path)]

    def unlucky(jobs, work, _workers):
        return ((job, work(job) if job.number != 1 else None) for job in jobs)

    with monkeypatch.context() as patch:
        patch.setattr("loci.data.encode.finished", unlucky)
        assert cli.main(argv) == 2
    assert "1 walks: its process was ended from outside" in capsys.readouterr().err
    done = [np.load(path).tolist() for path in tmp_path.glob("*/encoded.npy")]
    assert sorted(map(sum, done)) == [1, 3]
    assert cli.main([*argv, "--workers", "1"]) == 0
    assert "16 frames encoded" in capsys.readouterr().out


def test_nothing_to_encode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "encode", "--data", str(tmp_path)]) == 2
    assert "neither train nor test in it, expected labels" in capsys.readouterr().err


@needs_ray
def test_walks_are_encoded_on_a_cluster(
    cluster: Any, labels: Path, codec: Path, tmp_path: Path, monkeypatch
) -> None:
    cache = tmp_path / "latents"
    argv = ["data", "encode", "--data", str(labels), "--codec", str(codec), "--cache", str(cache)]
    assert cli.main([*argv, "--ray", cluster.address]) == 0
    check_kept(labels, codec, cache, monkeypatch)
