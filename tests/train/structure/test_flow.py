"""Training of stage 1 at toy size."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from loci.errors import LociError
from loci.objects.models.condition import EmbedderFuser, FuserConfig, PointmapEmbedderConfig
from loci.objects.models.dinov2 import DinoConfig, DinoEmbedderConfig
from loci.objects.models.structure_flow import StructureFlow, StructureFlowConfig
from loci.objects.models.structure_vae import (
    StructureDecoder,
    StructureDecoderConfig,
    StructureEncoder,
    StructureEncoderConfig,
)
from loci.objects.placement.pose import encode_pose
from loci.objects.sampling import StructureSampling
from loci.train.structure.data import random_pairs, structure_batch
from loci.train.structure.evaluate import (
    StructureLatents,
    fscore,
    pose_scores,
)
from loci.train.structure.flow import StructureTraining, fit_structure, load_start, shape_latents
from loci.train.structure.objective import StructureLoss, StructureObjective
from loci.train.structure.scenes import CLEAN, SceneAugmentation
from tests.train.killing import killed
from tests.train.toy_views import toy_viewed

pytest.importorskip("accelerate", reason="the extra `train` is not installed")

OBJECTS = [toy_viewed(seed) for seed in range(3)]
TINY = StructureTraining(
    fuser=FuserConfig(
        DinoEmbedderConfig(DinoConfig(14, 32, 1, 2, registers=1, grid=2), 28),
        None,
        PointmapEmbedderConfig(input_size=16, patch=8, dim=16, heads=2),
        dim=32,
        full_frame=("rgb_image_mask",),
    ),
    flow=StructureFlowConfig(
        dim=32, condition_dim=32, blocks=2, heads=2, resolution=2, shape_channels=4
    ),
    loss=StructureLoss(),
    sampling=StructureSampling(steps=3, guidance_strength=1.0),
    steps=5,
    learning_rate=3e-3,
    warmup_steps=5,
    hold_fraction=0.0,
    final_fraction=0.01,
    batch_size=4,
    evaluation_objects=2,
    precision="float32",
    log_seconds=0,
    evaluate_seconds=1e9,
    checkpoint_seconds=1e9,
)
# Parts of the published networks that take no part in what is trained here: DINO's own mask token,
# and the third group, which no input belongs to.
UNUSED = ("mask_token", "idx_emb")


def codec() -> StructureLatents:
    torch.manual_seed(0)
    encoder = StructureEncoder(StructureEncoderConfig(4, (8, 4)))
    decoder = StructureDecoder(StructureDecoderConfig(4, (8, 4, 4, 4), 1, 1))
    return StructureLatents(encoder.eval(), decoder.eval())


def model() -> StructureObjective:
    torch.manual_seed(0)
    return StructureObjective(TINY.fuser, TINY.flow, TINY.loss)


def weights(trained: nn.Module) -> torch.Tensor:
    return torch.cat([p.flatten() for p in trained.parameters()])


def test_every_weight_gets_a_gradient() -> None:
    trained = model()
    with torch.no_grad():
        for p in trained.flow.parameters():  # Some begin at 0 and would let nothing through
            p.add_(0.02 * torch.randn_like(p))
    rng = torch.Generator().manual_seed(0)
    pairs = random_pairs(OBJECTS, 4, rng)
    batch = structure_batch(OBJECTS, pairs, 2, 28, SceneAugmentation(), rng)
    data = {"shape": torch.randn(4, 8, 4), **batch.layout}
    trained.total(trained(batch, data, rng)).backward()
    assert trained.fuser.idx_emb.grad is not None
    assert trained.fuser.idx_emb.grad[:2].any(dim=1).all()
    without = [
        name
        for name, p in trained.named_parameters()
        if name.split(".")[-1] not in UNUSED and (p.grad is None or not p.grad.any())
    ]
    assert without == []


def test_it_learns_what_it_sees(tmp_path: Path) -> None:
    trained = fit_structure(OBJECTS, OBJECTS, codec(), replace(TINY, out=tmp_path, steps=40))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line) for line in lines if '"shape"' in line]
    early, late = (sum(line["shape"] for line in part) for part in (losses[:10], losses[-10:]))
    assert late < 0.9 * early
    assert '"shape"' not in lines[0]  # It begins with object coordinates
    assert '"known_rotation"' in lines[-1]
    assert '"alone_fscore"' in lines[-1]
    assert (tmp_path / "samples.png").exists()
    fuser = EmbedderFuser.from_pretrained(tmp_path / "final" / "structure_fuser")
    flow = StructureFlow.from_pretrained(tmp_path / "final" / "structure_flow")
    pairs = ((fuser, trained.fuser), (flow, trained.flow))
    for saved, learned in pairs:
        assert torch.equal(weights(saved), weights(learned))


def test_a_killed_run_goes_on_as_if_never_killed(tmp_path: Path) -> None:
    whole = fit_structure(OBJECTS, [], codec(), replace(TINY, out=tmp_path / "whole"))
    with killed(after=3):
        fit_structure(OBJECTS, [], codec(), replace(TINY, out=tmp_path / "killed"))
    resumed = fit_structure(OBJECTS, [], codec(), replace(TINY, out=tmp_path / "killed"))
    assert torch.equal(weights(resumed), weights(whole))


def test_a_training_goes_on_from_a_model_folder(tmp_path: Path) -> None:
    first = fit_structure(OBJECTS, [], codec(), replace(TINY, out=tmp_path / "first"))
    folder = tmp_path / "first" / "final"
    start = load_start(folder, TINY)
    still = replace(TINY, out=tmp_path / "second", learning_rate=0.0, steps=1, init_from=folder)
    second = fit_structure(OBJECTS, [], codec(), still, start)
    for one, other in ((first.fuser, second.fuser), (first.flow, second.flow)):
        assert torch.equal(weights(one), weights(other))
    other_size = replace(TINY, flow=replace(TINY.flow, blocks=1))
    with pytest.raises(LociError, match=r"final: StructureFlowConfig\(.*expected"):
        load_start(folder, other_size)


def test_a_sample_without_condition_is_the_unconditional_branch() -> None:
    trained = model().eval()
    rng = torch.Generator().manual_seed(0)
    batch = structure_batch(OBJECTS, [(0, 0), (1, 0)], 1, 28, CLEAN, rng)
    with torch.no_grad():
        nothing = trained.flow.context(0 * trained.condition(batch))
        state, time = trained.flow.noise(2, rng), torch.full((2,), 300.0)
        dropped = trained.flow.velocity(state, time, nothing)
        alone = trained.flow.velocity(state, time, None)
    for name, value in alone.items():
        torch.testing.assert_close(dropped[name], value, atol=1e-5, rtol=0)


def test_the_mirror_image_has_latents_of_its_own() -> None:
    halves = codec()
    latents = shape_latents(OBJECTS, halves)
    assert latents.shape == (3, 2, 8, 4)
    flipped = halves.latents(OBJECTS[1].occupancy.flip(0)[None])[0]
    torch.testing.assert_close(latents[1, 1], flipped, atol=1e-5, rtol=1e-5)


def test_the_true_pose_has_no_error() -> None:
    rng = torch.Generator().manual_seed(0)
    batch = structure_batch(OBJECTS, [(0, 0), (1, 0), (2, 1)], 3, 28, CLEAN, rng)
    scores = pose_scores(dict(batch.layout), batch)
    assert scores["rotation"] < 0.1
    assert abs(scores["size_factor"] - 1) < 1e-4
    assert scores["place"] < 1e-4
    r, t, s = batch.placement
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    wrong = encode_pose(turn @ r, t, 2 * s[:, None].expand(-1, 3), *batch.normalizer)
    scores = pose_scores(wrong, batch)
    assert abs(scores["rotation"] - 90) < 0.1
    assert abs(scores["size_factor"] - 2) < 1e-4


def test_fscore_of_known_shapes() -> None:
    shape = torch.zeros(32, 32, 32, dtype=torch.bool)
    shape[4:20, 10] = True
    assert fscore(shape, shape) == 1
    assert fscore(shape, shape.roll(1, 1)) == 1  # 1/32 is nearer than 0.05
    assert fscore(shape, shape.roll(4, 1)) == 0
    assert fscore(shape, torch.zeros_like(shape)) == 0
