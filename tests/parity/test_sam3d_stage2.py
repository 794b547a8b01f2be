"""Our sparse layers, SLAT flow, decoders and FlexiCubes against the published implementation.

Limits are those stated with the fixtures: 1e-4 for networks, 2e-4 for samplers, 1e-5 for closed
formulas, each times max(1, max|reference|); integers are equal.
"""

from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from loci.flow import rescaled_times
from loci.geometry.io import gaussian_columns
from loci.geometry.mesh.flexicubes import Cubes, activated, deviation, extract_isosurface
from loci.geometry.mesh.from_features import features_to_mesh
from loci.geometry.mesh.mesh import Mesh
from loci.io.weights import load_strict
from loci.nn.sparse.conv import SparseConv1, SparseConv3
from loci.nn.sparse.voxels import SparseGroupNorm, Voxels, downsample, subdivide, upsample
from loci.objects.models.slat_decoders import (
    GaussianDecoder,
    GaussianDecoderConfig,
    MeshDecoder,
    MeshDecoderConfig,
    SubdivideBlock,
    TorsoConfig,
    WindowBlock,
    perturbation,
)
from loci.objects.models.slat_flow import (
    SlatFlow,
    SlatFlowConfig,
    SlatStatistics,
    SparseResidualBlock,
)
from loci.objects.sampling import SlatSampling, sample_slat
from tests.parity.conftest import Fixture

NETWORK, SAMPLER, FORMULA = 1e-4, 2e-4, 1e-5

M = TypeVar("M", bound=nn.Module)


def error(ours: Tensor, reference: Tensor) -> float:
    """max |a - b| / max(1, max |b|); the shapes must agree."""
    assert ours.shape == reference.shape, f"{list(ours.shape)} != {list(reference.shape)}"
    return ((ours - reference).abs().max() / reference.abs().max().clamp(min=1)).item()


def loaded(module: M, fixture: Fixture, prefix: str = "") -> M:
    weights = {
        k.removeprefix(prefix): v for k, v in fixture.weights.items() if k.startswith(prefix)
    }
    load_strict(module, weights, fixture.name)
    return module.eval()


def same_coords(voxels: Voxels, reference: Tensor) -> bool:
    return torch.equal(voxels.coords, reference.long())


@pytest.mark.kind("sparse_ops")
def test_sparse_ops(fixture: Fixture) -> None:
    c, given, expected = fixture.sidecar["config"], fixture.inputs, fixture.outputs
    voxels, feats = Voxels(given["coords"]), given["feats"]
    sizes = c["conv"]["in_channels"], c["conv"]["out_channels"]
    conv3 = loaded(SparseConv3(*sizes), fixture, "conv3.")
    assert error(conv3(feats, voxels), expected["conv3"]) < NETWORK
    conv1 = loaded(SparseConv1(*sizes), fixture, "conv1.")
    assert error(conv1(feats), expected["conv1"]) < NETWORK

    down = downsample(feats, voxels)
    assert same_coords(voxels.coarser.voxels, expected["down_coords"])
    assert error(down, expected["down_feats"]) < FORMULA
    assert same_coords(voxels, expected["up_coords"])
    assert error(upsample(down, voxels), expected["up_feats"]) < FORMULA
    assert same_coords(voxels.finer, expected["sub_coords"])
    assert torch.equal(subdivide(feats), expected["sub_feats"])

    g = c["groupnorm"]
    norm = loaded(
        SparseGroupNorm(g["num_groups"], g["num_channels"], g["eps"]), fixture, "groupnorm."
    )
    assert error(norm(given["feats8"], voxels), expected["groupnorm"]) < FORMULA


def residual_block(fixture: Fixture, resample: int) -> SparseResidualBlock:
    c = fixture.sidecar["config"]
    block = SparseResidualBlock(c["channels"], c["out_channels"], c["emb_channels"], resample)
    return loaded(block, fixture)


@pytest.mark.kind("sparse_res_plain")
def test_residual_block(fixture: Fixture) -> None:
    given, voxels = fixture.inputs, Voxels(fixture.inputs["coords"])
    ours = residual_block(fixture, 0)(given["feats"], given["emb"], voxels)
    assert same_coords(voxels, fixture.outputs["coords"])
    assert error(ours, fixture.outputs["feats"]) < NETWORK


@pytest.mark.kind("sparse_res_down")
def test_residual_block_down(fixture: Fixture) -> None:
    given, voxels = fixture.inputs, Voxels(fixture.inputs["coords"])
    ours = residual_block(fixture, -1)(given["feats"], given["emb"], voxels)
    assert same_coords(voxels.coarser.voxels, fixture.outputs["coords"])
    assert error(ours, fixture.outputs["feats"]) < NETWORK


@pytest.mark.kind("sparse_res_up")
def test_residual_block_up(fixture: Fixture) -> None:
    given, fine = fixture.inputs, Voxels(fixture.inputs["fine_coords"])
    assert same_coords(fine.coarser.voxels, given["coarse_coords"])
    ours = residual_block(fixture, 1)(given["feats"], given["emb"], fine)
    assert same_coords(fine, fixture.outputs["coords"])
    assert error(ours, fixture.outputs["feats"]) < NETWORK


@pytest.mark.kind("window_block")
def test_window_block(fixture: Fixture) -> None:
    c, given = fixture.sidecar["config"], fixture.inputs
    block = loaded(WindowBlock(c["channels"], c["num_heads"], c["mlp_ratio"]), fixture)
    voxels = Voxels(given["coords"])
    for name, shift in zip(("shift0", "shift_half"), c["shifts"], strict=True):
        ours = block(given["feats"], voxels.windows(c["window_size"], shift))
        assert error(ours, fixture.outputs[name]) < NETWORK


def slat_flow(fixture: Fixture, c: dict) -> SlatFlow:
    config = SlatFlowConfig(
        channels=c["in_channels"],
        dim=c["model_channels"],
        condition_dim=c["cond_channels"],
        blocks=c["num_blocks"],
        heads=c["num_heads"],
        mlp_ratio=c["mlp_ratio"],
        io_channels=tuple(c["io_block_channels"]),
        io_blocks=c["num_io_res_blocks"],
    )
    return loaded(SlatFlow(config), fixture)


@pytest.mark.kind("slat_flow")
def test_slat_flow_fixture(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    flow = slat_flow(fixture, fixture.sidecar["config"])
    latents, time, voxels = given["x"][0], given["t"].view(1), Voxels(given["coords"])
    seen: dict[str, Tensor] = {}

    def watch(blocks: nn.ModuleList, name: str) -> None:
        for i, block in enumerate(blocks):
            block.register_forward_hook(
                lambda _, __, out, key=f"{name}{i}": seen.update({key: out})
            )

    watch(flow.input_blocks, "input_block")
    watch(flow.blocks, "block")
    watch(flow.out_blocks, "out_block")
    assert error(flow(latents, time, voxels, given["cond"])[None], expected["y"]) < NETWORK
    middle = {k.removeprefix("mid/"): v for k, v in expected.items() if k.startswith("mid/")}
    assert middle.keys() == seen.keys()
    for name, reference in middle.items():
        assert error(seen[name], reference) < NETWORK, name
    assert error(flow(latents, time, voxels, None)[None], expected["y_uncond"]) < NETWORK


@pytest.mark.kind("gaussian_perturbation")
def test_perturbation(fixture: Fixture) -> None:
    reach = fixture.sidecar["config"]["voxel_size"]
    for name, reference in fixture.outputs.items():
        count = int(name.rpartition("_")[2])
        assert error(perturbation(count, reach), reference) < FORMULA


def torso_config(c: dict) -> TorsoConfig:
    return TorsoConfig(
        channels=c["latent_channels"],
        dim=c["model_channels"],
        blocks=c["num_blocks"],
        heads=c["num_heads"],
        mlp_ratio=c["mlp_ratio"],
        window=c["window_size"],
        resolution=c["resolution"],
    )


@pytest.mark.kind("gaussian_decoder")
def test_gaussian_decoder(fixture: Fixture) -> None:
    c, given, expected = fixture.sidecar["config"], fixture.inputs, fixture.outputs
    r = c["representation_config"]
    config = GaussianDecoderConfig(
        torso_config(c),
        gaussians=r["num_gaussians"],
        reach=r["voxel_size"],
        scale_start=r["scaling_bias"],
        scale_floor=r["3d_filter_kernel_size"],
        opacity_start=r["opacity_bias"],
        rotation_rate=r["lr"]["_rotation"],
    )
    decoder, voxels = loaded(GaussianDecoder(config), fixture), Voxels(given["coords"])
    raw = decoder(given["feats"], voxels)
    assert error(raw, expected["raw_feats"]) < NETWORK
    split = decoder.split(expected["raw_feats"])
    assert error(split.scale.flatten(0, 1), expected["internal_scaling"]) < FORMULA
    assert error(split.opacity.flatten(0, 1), expected["internal_opacity"]) < FORMULA
    (gaussians,) = decoder.gaussians(raw, voxels)
    assert error(gaussians.positions, expected["xyz"]) < NETWORK
    assert error(gaussians.harmonics[:, None], expected["features_dc"]) < NETWORK
    assert error(gaussians.scales, expected["scaling"]) < NETWORK
    assert error(gaussians.rotations, expected["rotation"]) < NETWORK
    assert error(gaussians.opacities[:, None], expected["opacity"]) < NETWORK
    columns = gaussian_columns(gaussians)
    assert list(columns) == c["ply_columns"]
    assert error(torch.stack(list(columns.values()), dim=1), expected["ply"]) < NETWORK


@pytest.mark.kind("subdivide_block")
def test_subdivide_block(fixture: Fixture) -> None:
    c, given = fixture.sidecar["config"], fixture.inputs
    block = loaded(SubdivideBlock(c["channels"], c["out_channels"], c["num_groups"]), fixture)
    voxels = Voxels(given["coords"])
    ours = block(given["feats"], voxels)
    assert same_coords(voxels.finer, fixture.outputs["coords"])
    assert error(ours, fixture.outputs["feats"]) < NETWORK


def check_mesh(mesh: Mesh, expected: dict[str, Tensor], limit: float) -> None:
    """Vertex and face order are the published ones too."""
    assert mesh.colors is not None
    assert mesh.learned_normals is not None
    assert error(mesh.vertices, expected["vertices"]) < limit
    assert torch.equal(mesh.faces, expected["faces"])
    attributes = torch.cat([mesh.colors, mesh.learned_normals], dim=1)
    assert error(attributes, expected["vertex_attrs"]) < limit


@pytest.mark.kind("mesh_decoder")
def test_mesh_decoder(fixture: Fixture) -> None:
    c, given, expected = fixture.sidecar["config"], fixture.inputs, fixture.outputs
    config = MeshDecoderConfig(torso_config(c), norm_groups=c["groupnorm_groups"])
    assert config.resolution == c["flexicubes_resolution"]
    decoder = loaded(MeshDecoder(config), fixture)
    feats, voxels = decoder(given["feats"], Voxels(given["coords"]))
    assert same_coords(voxels, expected["sparse_coords"])
    assert error(feats, expected["sparse_feats"]) < NETWORK
    (mesh,) = decoder.meshes(feats, voxels)
    check_mesh(mesh, expected, NETWORK)


@pytest.mark.kind("features_to_mesh")
def test_features_to_mesh(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    coords = given["coords"][:, -3:]
    mesh = features_to_mesh(given["feats"], coords, fixture.sidecar["config"]["res"])
    check_mesh(mesh, expected, FORMULA)
    # A triangle of nearly no area has no direction to compare.
    a, b, c = expected["vertices"][expected["faces"]].unbind(1)
    wide = torch.linalg.cross(b - a, c - a).norm(dim=1) > 1e-5
    assert error(mesh.face_normals[wide], expected["face_normal_first"][wide]) < NETWORK


def check_flexicubes(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    side = fixture.sidecar["config"]["resolution"] + 1
    first = given["cubes"][:, 0]
    coords = torch.stack([first // side**2, first // side % side, first % side], dim=1)
    cubes = Cubes(given["cubes"], coords)
    plain = extract_isosurface(given["grid_vertices"], given["sdf"], cubes)
    assert error(plain.vertices, expected["plain_vertices"]) < FORMULA
    assert torch.equal(plain.faces, expected["plain_faces"])
    weights = activated(given["beta"], given["alpha"], given["gamma"])
    ours = extract_isosurface(given["grid_vertices"], given["sdf"], cubes, weights, given["colors"])
    assert ours.attributes is not None
    assert error(ours.vertices, expected["weighted_vertices"]) < FORMULA
    assert torch.equal(ours.faces, expected["weighted_faces"])
    assert error(ours.attributes, expected["weighted_colors"]) < FORMULA
    assert error(deviation(ours), expected["L_dev"]) < FORMULA


@pytest.mark.kind("flexicubes_sphere")
def test_flexicubes_sphere(fixture: Fixture) -> None:
    check_flexicubes(fixture)


@pytest.mark.kind("flexicubes_torus")
def test_flexicubes_torus(fixture: Fixture) -> None:
    check_flexicubes(fixture)


@pytest.mark.kind("flexicubes_random")
def test_flexicubes_random(fixture: Fixture) -> None:
    check_flexicubes(fixture)


@pytest.mark.kind("slat_sampler")
def test_sampler(fixture: Fixture) -> None:
    c, given, expected = fixture.sidecar["config"], fixture.inputs, fixture.outputs
    flow, voxels = slat_flow(fixture, c["model"]), Voxels(given["coords"])
    statistics = SlatStatistics(tuple(c["slat_mean"]), tuple(c["slat_std"]))
    for name, run in c["runs"].items():
        times = rescaled_times(run["steps"], run["rescale_t"])
        assert error(times, expected[f"{name}/t_seq"]) < FORMULA
        interval = tuple(run["cfg_interval"])
        settings = SlatSampling(
            run["steps"], run["rescale_t"], run["cfg_strength"], interval, statistics
        )
        states = []
        denormalized = sample_slat(
            flow,
            given["cond"],
            voxels,
            given["noise"][0],
            settings,
            on_step=lambda _, state, states=states: states.append(state["latents"]),
        )
        # Ours are the states before each step, theirs after each.
        after = expected[f"{name}/x_steps"][:-1, 0]
        assert error(torch.stack(states[1:]), after) < SAMPLER, name
        last = statistics.normalize(denormalized)
        assert error(last, expected[f"{name}/x_steps"][-1, 0]) < SAMPLER, name
        assert error(denormalized, expected[f"{name}/slat_denorm"]) < SAMPLER, name
