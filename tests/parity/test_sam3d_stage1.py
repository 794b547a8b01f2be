"""Stage 1 of SAM 3D Objects against the published implementation."""

from collections.abc import Mapping
from typing import TypeVar, get_args

import pytest
import torch
from torch import Tensor, nn

from loci.flow import TIMESTEPS, EvaluateAll, State, rescaled_times
from loci.io.weights import load_strict
from loci.objects.inputs.preprocess import slat_inputs, structure_inputs
from loci.objects.models.condition import (
    CROPPED,
    FULL,
    POINTMAPS,
    EmbedderFuser,
    PointmapEmbedder,
    PointmapEmbedderConfig,
    Source,
)
from loci.objects.models.dinov2 import DinoConfig, DinoEmbedder, DinoEmbedderConfig
from loci.objects.models.structure_flow import (
    STREAMS,
    StructureFlow,
    StructureFlowConfig,
    TwoStreamBlock,
)
from loci.objects.models.structure_vae import (
    StructureDecoder,
    StructureDecoderConfig,
    latent_cube,
    occupied,
)
from loci.objects.placement.pose import Convention, decode_pose
from loci.objects.placement.voxels import downsample_voxels, prune_interior
from loci.objects.sampling import StructureSampling, sample_structure
from tests.parity.conftest import Fixture

NETWORK, SAMPLER, FORMULA = 1e-4, 2e-4, 1e-5

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def close(ours: Tensor, reference: Tensor, limit: float, what: str = "") -> None:
    """max |a - b| <= limit * max(1, max |b|), and not a number at the same places."""
    assert ours.shape == reference.shape, f"{what}: {list(ours.shape)} != {list(reference.shape)}"
    assert torch.equal(ours.isnan(), reference.isnan()), f"{what}: invalid points differ"
    error = (ours - reference).nan_to_num().abs().max().item()
    bound = limit * max(1.0, reference.nan_to_num().abs().max().item())
    print(f"{what}: error {error:.1e}, limit {bound:.1e}")
    assert error <= bound, what


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def all_close(ours: Mapping[str, Tensor], reference: Mapping[str, Tensor], limit: float) -> None:
    assert ours.keys() == reference.keys()
    for name in reference:
        close(ours[name], reference[name], limit, name)


def loaded(module: ModuleT, fixture: Fixture) -> ModuleT:
    load_strict(module, fixture.weights, fixture.name)
    return module.eval()


def dino_backbone(fixture: Fixture) -> DinoConfig:
    c = fixture.sidecar["config"]
    return DinoConfig(
        patch=c["patch_size"],
        dim=c["embed_dim"],
        depth=c["depth"],
        heads=c["num_heads"],
        mlp_ratio=c["mlp_ratio"],
        registers=c["num_register_tokens"],
        grid=round((fixture.weights["backbone.pos_embed"].shape[1] - 1) ** 0.5),
    )


@pytest.mark.kind("dino")
def test_dino(fixture: Fixture) -> None:
    backbone, size = dino_backbone(fixture), fixture.sidecar["config"]["input_size"]
    normal = DinoEmbedderConfig(backbone, size, "normal")
    prenorm = DinoEmbedderConfig(backbone, size, "prenorm")
    for config, prefix in ((normal, "norm_"), (prenorm, "prenorm_")):
        embedder = loaded(DinoEmbedder(config), fixture)
        for name, expected in under(fixture.outputs, prefix).items():
            close(embedder(fixture.inputs[name]), expected, NETWORK, prefix + name)
            assert expected.shape[1] == embedder.token_count


@pytest.mark.kind("pointmap_embed")
def test_pointmap_embedder(fixture: Fixture) -> None:
    c = fixture.sidecar["config"]
    assert c["remap"] == "linear"
    config = PointmapEmbedderConfig(
        c["input_size"], c["patch_size"], c["embed_dim"], c["num_heads"], c["mlp_ratio"]
    )
    embedder = loaded(PointmapEmbedder(config), fixture)
    close(embedder(fixture.inputs["pointmap"]), fixture.outputs["tokens"], NETWORK, "tokens")


class ToyEmbedder(nn.Module):
    """The fixture's stand-in for DINO: patches through one convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.token_count = dim, 9
        self.p = nn.Conv2d(3, dim, 8, stride=8)

    def forward(self, x: Tensor) -> Tensor:
        return self.p(x.expand(-1, 3, -1, -1)).flatten(2).transpose(1, 2)


@pytest.mark.kind("embedder_fuser")
def test_fuser(fixture: Fixture) -> None:
    embedders, sources = [], []
    for e in fixture.sidecar["config"]["embedders"]:
        if e["type"] == "pointmap":
            # The sidecar does not give the heads: they are the published 16 there too.
            config = PointmapEmbedderConfig(e["input_size"], e["patch_size"], e["dim"])
            embedders.append(PointmapEmbedder(config))
        else:
            embedders.append(ToyEmbedder(e["dim"]))
        groups = {"cropped": CROPPED, "full": FULL}
        sources.append([Source(name, groups[group]) for name, group in e["inputs"]])
    fuser = EmbedderFuser(embedders, sources, fixture.weights["idx_emb"].shape[1])
    loaded(fuser, fixture)
    close(fuser(fixture.inputs), fixture.outputs["tokens"], NETWORK, "tokens")
    dropped = fuser(fixture.inputs, dropped=POINTMAPS)
    close(dropped, fixture.outputs["tokens_pointmap_dropped"], NETWORK, "dropped")


@pytest.mark.kind("preprocess")
def test_preprocess(fixture: Fixture) -> None:
    c, given = fixture.sidecar["config"], fixture.inputs
    assert (c["box_size_factor"], c["padding_factor"]) == (1.2, 0)
    ours = structure_inputs(given["rgb"], given["mask"], given["pointmap"], c["size"])
    tensors = {name: tensor[0] for name, tensor in ours.tensors.items()}
    for prefix in ("pointmap", "rgb_pointmap"):
        tensors |= {f"{prefix}_{k}": v for k, v in ours.normalizer._asdict().items()}
    all_close(tensors, under(fixture.outputs, "stage1/"), FORMULA)
    second = slat_inputs(given["rgb"], given["mask"], c["size"])
    all_close({k: v[0] for k, v in second.items()}, under(fixture.outputs, "stage2/"), FORMULA)


@pytest.mark.kind("mot_block")
def test_block(fixture: Fixture) -> None:
    c, given = fixture.sidecar["config"], fixture.inputs
    assert (c["qk_rms_norm"], c["qk_rms_norm_cross"]) == (True, False)
    block = TwoStreamBlock(c["channels"], c["ctx_channels"], c["num_heads"], c["mlp_ratio"])
    loaded(block, fixture)
    x = {stream: given[f"x/{stream}"] for stream in STREAMS}
    all_close(block.self_attn(x), under(fixture.outputs, "self_attn/"), NETWORK)
    out = block(x, given["mod"], block.condition_keys(given["context"]))
    all_close(out, under(fixture.outputs, "y/"), NETWORK)


def structure_flow(fixture: Fixture, c: dict) -> StructureFlow:
    channels = fixture.weights["latent_mapping.shape.input_layer.weight"].shape[1]
    config = StructureFlowConfig(
        dim=c["model_channels"],
        condition_dim=c["cond_channels"],
        blocks=c["num_blocks"],
        heads=c["num_heads"],
        mlp_ratio=c["mlp_ratio"],
        resolution=c["resolution"],
        shape_channels=channels,
    )
    flow = StructureFlow(config)
    own_positions = flow.state_dict()["latent_mapping.shape.pos_emb"].clone()
    loaded(flow, fixture)
    stored = fixture.weights["latent_mapping.shape.pos_emb"]
    close(own_positions, stored, FORMULA, "positions")
    return flow


@pytest.mark.kind("ss_flow")
def test_structure_flow(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    flow = structure_flow(fixture, fixture.sidecar["config"])
    x, t, zero, cond = under(given, "x/"), given["t"], given["d_zero"], given["cond"]
    close(flow.embed_time(t, None), expected["t_emb"], NETWORK, "t_emb")
    close(flow.d_embedder(given["d_step"]), expected["d_emb_step"], NETWORK, "d_emb_step")
    all_close(flow.project(x), under(expected, "projected/"), NETWORK)
    all_close(flow(x, t, cond), under(expected, "d_zero/"), NETWORK)
    all_close(flow(x, t, cond, zero), under(expected, "d_zero/"), NETWORK)
    all_close(flow(x, t, cond, given["d_step"]), under(expected, "d_step/"), NETWORK)
    unconditional = under(expected, "d_zero_cfg/")
    all_close(flow(x, t, None), unconditional, NETWORK)
    all_close(flow(x, t, torch.zeros_like(cond)), unconditional, NETWORK)


class Witness(EvaluateAll):
    """Writes down what every evaluation returned."""

    def __init__(self) -> None:
        self.velocities: list[State] = []

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        self.velocities.append(velocity)


@pytest.mark.kind("ss_sampler")
def test_structure_sampler(fixture: Fixture) -> None:
    c, given = fixture.sidecar["config"], fixture.inputs
    assert c["solver"] == "euler"
    assert c["time_scale"] == TIMESTEPS
    flow = structure_flow(fixture, c["model"])
    for run, r in c["runs"].items():
        settings = StructureSampling(
            r["steps"], r["rescale_t"], r["cfg_strength"], r["cfg_interval"], not r["no_shortcut"]
        )
        expected = under(fixture.outputs, f"{run}/")
        times = rescaled_times(settings.steps, settings.rescale, torch.float64)
        close(times, expected["t_seq"], FORMULA, "t_seq")
        states: list[State] = []
        witness = Witness()
        result = sample_structure(
            flow,
            given["cond"],
            under(given, "noise/"),
            settings,
            witness,
            on_step=lambda step, state, states=states: states.append(state),
        )
        for kind, ours in (
            ("x_steps/", [*states[1:], result]),
            ("v_steps/", witness.velocities),
        ):
            for name, reference in under(expected, kind).items():
                close(torch.stack([s[name] for s in ours]), reference, SAMPLER, kind + name)


@pytest.mark.kind("ss_decoder")
def test_structure_decoder(fixture: Fixture) -> None:
    c, given = fixture.sidecar["config"], fixture.inputs
    assert (c["out_channels"], c["norm_type"]) == (1, "layer")
    config = StructureDecoderConfig(
        c["latent_channels"], tuple(c["channels"]), c["num_res_blocks"], c["num_res_blocks_middle"]
    )
    decoder = loaded(StructureDecoder(config), fixture)
    assert torch.equal(latent_cube(given["latent_tokens"]), given["latent_cube"])
    logits = decoder(given["latent_tokens"])
    close(logits, fixture.outputs["logits"], NETWORK, "logits")
    # A logit nearer to 0 than the limit may fall on either side.
    assert torch.equal(occupied(fixture.outputs["logits"]), fixture.outputs["coords"])
    doubtful = fixture.outputs["logits"].abs() < NETWORK
    assert ((logits > 0) == (fixture.outputs["logits"] > 0))[~doubtful].all()


@pytest.mark.kind("coords_ops")
def test_voxel_lists(fixture: Fixture) -> None:
    c, coords = fixture.sidecar["config"], fixture.inputs["coords"]
    for distance in c["max_neighbor_axes_dist"]:
        expected = fixture.outputs[f"pruned_dist{distance}"]
        assert torch.equal(prune_interior(coords, distance), expected)
    coarse, factor = downsample_voxels(coords, c["max_coords_for_downsample"])
    assert factor == fixture.outputs["downsample_factor"]
    assert torch.equal(coarse, fixture.outputs["downsampled"])
    same, factor = downsample_voxels(coords)
    assert factor == fixture.outputs["no_downsample_factor"]
    assert same is coords


@pytest.mark.kind("pose_decoder")
def test_pose(fixture: Fixture) -> None:
    given = fixture.inputs
    names = {
        "r": "6drotation_normalized",
        "t": "translation",
        "s": "scale",
        "ts": "translation_scale",
    }
    latents = {name: given[short] for short, name in names.items()}
    tested = 0
    for convention in get_args(Convention):
        expected = under(fixture.outputs, f"{convention}/")
        if not expected:
            continue
        pose = decode_pose(
            latents, given["scene_scale"], given["scene_shift"], convention=convention
        )
        for name in ("translation", "scale"):
            close(getattr(pose, name)[:, None], expected[name], FORMULA, f"{convention} {name}")
        rotation = expected["rotation"][:, 0]
        same = torch.where((rotation * pose.rotation).sum(-1, keepdim=True) < 0, -1, 1)
        close(pose.rotation * same, rotation, FORMULA, f"{convention} rotation")
        tested += 1
    assert tested == len({name.split("/")[0] for name in fixture.outputs})
