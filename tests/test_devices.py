"""Everything walks, lifts and learns on a device other than the CPU."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from loci.acceleration.presets import Preset
from loci.acceleration.published.token_baselines import random_drop
from loci.acceleration.token_cache import TokenCacheConfig
from loci.app.lift.lift_views import object_preview, scene_preview
from loci.geometry.io import write_glb, write_obj
from loci.geometry.mesh.bake import BakeConfig, bake_texture
from loci.geometry.mesh.hidden_faces import HiddenFacesConfig, remove_hidden_faces
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.render import render_mesh
from loci.geometry.mesh.simplify import decimate, fill_holes
from loci.memory.hierarchical import MemoryConfig
from loci.memory.schedule import MergeConfig
from loci.objects.lifter import Lifter
from loci.objects.parts import LoadedParts
from loci.objects.placement.refinement import RefinementConfig
from loci.train.world.batches import HistorySpec
from loci.train.world.config import TrainingStage
from loci.world.walk_file import load_walk, save_walk
from loci.world.world import World
from tests.objects.lifters import (
    example,
    example_pointmap,
    save_small_lifter,
    small_config,
    small_modules,
)
from tests.pretend_device import pretend as pretend
from tests.train import test_codec
from tests.train.slat import test_flow as test_slat_flow
from tests.train.slat import test_vae as test_slat_vae
from tests.train.structure import test_flow as test_structure_flow
from tests.train.structure import test_vae as test_structure_vae
from tests.train.toy_objects import toy_set
from tests.train.world import test_train as test_world
from tests.train.world.test_memory_tokens import wandering
from tests.world.models import small_world

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
PIXELS, INSIDE = example()


def test_devices_do_not_mix(pretend: torch.device) -> None:
    here, there = torch.ones(3), torch.ones(3, device=pretend)
    assert (there + there).device == pretend
    assert (there * here.sum()).sum().item() == 9, "a CPU scalar may meet a tensor on the device"
    assert there[torch.tensor([0, 2])].device == pretend, "rows may be given on the CPU"
    assert here.to(pretend).cpu().numpy().tolist() == [1, 1, 1]
    for mixed in (
        lambda: here + there,
        lambda: here * there.sum(),
        lambda: torch.cat([here, there]),
        lambda: here[torch.tensor([0], device=pretend)],
        lambda: there.index_add(0, torch.tensor([0]), there[:1]),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(there)
    with pytest.raises(TypeError, match="float64"):
        there.double()


def test_generators_belong_to_a_device(pretend: torch.device) -> None:
    here, there = torch.Generator(), torch.Generator(device=pretend)
    assert torch.randn(3, generator=there, device=pretend).device == pretend
    assert torch.randn(3, generator=here).device.type == "cpu"
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, generator=here, device=pretend)
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, generator=there)


def test_gradients_and_updates_stay_on_the_device(pretend: torch.device) -> None:
    torch.manual_seed(0)
    here = torch.nn.Linear(3, 2)
    there = torch.nn.Linear(3, 2).to(pretend)
    there.load_state_dict(here.state_dict())
    for model in (here, there):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        model(torch.ones(4, 3, device=model.weight.device)).square().mean().backward()
        optimizer.step()
    assert there.weight.device == pretend
    torch.testing.assert_close(there.weight.cpu(), here.weight)


WALK = [(1, 3), (1, 0), (0, 4), (0, 4)]


def walked(world: World, chunks: int, folder: Path) -> np.ndarray:
    """Frames of a walk that is saved, loaded and resumed halfway."""
    state, made = world.start(PICTURE, seed=3), []
    for chunk in range(chunks):
        if chunk == chunks // 2:
            save_walk(folder / "walk.loci", state, world)
            state = load_walk(folder / "walk.loci", world)
        frames, state = world.step(state, WALK)
        made.append(frames)
    return np.concatenate(made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_world_walks_on_the_device(
    pretend: torch.device, tmp_path: Path, dtype: torch.dtype
) -> None:
    """Long enough for memory tokens of two levels, through a saved walk."""
    world = small_world()
    memory = MemoryConfig(MergeConfig(budget=7, merge_by="views"))
    config = replace(world.config, memory=memory)
    World(config, world.transformer, world.codec).save_pretrained(tmp_path / "world")
    here = World.from_pretrained(tmp_path / "world", dtype=dtype)
    there = World.from_pretrained(tmp_path / "world", pretend, dtype)
    assert {p.device for p in there.transformer.parameters()} == {pretend}
    (tmp_path / "here").mkdir()
    frames = walked(there, 12, tmp_path).astype(int)
    rounding = 1 if dtype is torch.float32 else 8
    assert np.abs(frames - walked(here, 12, tmp_path / "here")).max() <= rounding


@pytest.mark.parametrize("name", ["fast", "faster", "paper", "tokens"])
def test_presets_walk_on_the_device(pretend: torch.device, tmp_path: Path, name: str) -> None:
    small_world().save_pretrained(tmp_path / "world")
    world = World.from_pretrained(tmp_path / "world", pretend)
    tokens = Preset("tokens", walk=TokenCacheConfig(tolerance=0.4))
    world = world.at_speed(tokens if name == "tokens" else name, verify=True)
    frames = walked(world, 4, tmp_path)
    assert frames.std() > 0


def test_an_object_is_lifted_on_the_device(pretend: torch.device, tmp_path: Path) -> None:
    folder = save_small_lifter(tmp_path / "model")
    here = Lifter.from_pretrained(folder)(PIXELS, INSIDE, example_pointmap(), seed=3)
    asset = Lifter.from_pretrained(folder, pretend)(PIXELS, INSIDE, example_pointmap(), seed=3)
    assert here.gaussians is not None
    assert here.mesh is not None
    assert asset.gaussians is not None
    assert asset.mesh is not None
    tensors = [*asset.pose, *vars(asset.gaussians).values(), asset.mesh.vertices, asset.voxels]
    assert {tensor.device for tensor in tensors} == {pretend}
    assert torch.equal(asset.voxels.cpu(), here.voxels)
    for name, expected in vars(here.gaussians).items():
        there = getattr(asset.gaussians, name).cpu()
        torch.testing.assert_close(there, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(asset.mesh.vertices.cpu(), here.mesh.vertices, atol=1e-4, rtol=1e-4)


def test_a_scene_on_the_device_is_shown_and_written(pretend: torch.device, tmp_path: Path) -> None:
    lifter = Lifter.from_pretrained(save_small_lifter(tmp_path / "model"), pretend)
    scene = lifter.scene(PIXELS, [INSIDE, INSIDE], example_pointmap())
    assert {path.suffix for path in scene.export(tmp_path / "scene")} == {".ply", ".glb", ".json"}
    object_preview(scene.objects[0], PIXELS, INSIDE)
    scene_preview(scene, PIXELS, [INSIDE, INSIDE])
    lifter.save_pretrained(tmp_path / "again")


def test_a_mesh_on_the_device_is_finished_and_written(
    pretend: torch.device, tmp_path: Path
) -> None:
    solid = trimesh.creation.icosphere(2, 0.4)
    vertices = torch.tensor(solid.vertices, dtype=torch.float32, device=pretend)
    mesh = Mesh(vertices, torch.tensor(solid.faces, device=pretend), vertices + 0.5)
    mesh = fill_holes(decimate(replace(mesh, faces=mesh.faces[5:]), 200))
    mesh = remove_hidden_faces(mesh, HiddenFacesConfig(views=3, pixels=32))
    baking = BakeConfig(side=32, views=3, pixels=32)
    mesh = bake_texture(mesh, lambda camera, size: render_mesh(mesh, camera, size), baking)
    assert mesh.vertices.device == pretend
    assert mesh.texture is not None
    write_glb(tmp_path / "mesh.glb", {"object": mesh})
    write_obj(tmp_path / "mesh.obj", mesh)


@pytest.mark.parametrize("name", ["fast", "faster", "released", "paper", "tokens", "dropped"])
def test_presets_lift_on_the_device(pretend: torch.device, tmp_path: Path, name: str) -> None:
    tokens = Preset("tokens", slat=TokenCacheConfig(tolerance=0.4))
    dropped = Preset("dropped", drop_voxels=lambda voxels, rng: random_drop(voxels, 0.3, rng))
    speed = {"tokens": tokens, "dropped": dropped}.get(name, name)
    lifter = Lifter.from_pretrained(save_small_lifter(tmp_path / "model"), pretend)
    asset = lifter(PIXELS, INSIDE, speed=speed)
    assert asset.voxels.device == pretend


@pytest.mark.parametrize(
    "changed", [{"refinement": RefinementConfig()}, {"voxel_limit": 10}, {"prune_depth": 1}]
)
def test_options_of_a_lifter_run_on_the_device(pretend: torch.device, changed: dict) -> None:
    lifter = Lifter(small_config(**changed), LoadedParts(small_modules()), pretend)
    asset = lifter(PIXELS, INSIDE, example_pointmap(), guesses=2)
    assert asset.voxels.device == pretend


@pytest.fixture
def training_device(pretend: torch.device) -> Iterator[torch.device]:
    """Where accelerate puts what is trained."""
    accelerate = pytest.importorskip("accelerate", reason="the extra `train` is not installed")
    state = accelerate.state
    state.AcceleratorState._reset_state(reset_partial_state=True)
    state.PartialState().device = pretend
    yield pretend
    state.AcceleratorState._reset_state(reset_partial_state=True)


def test_a_world_is_trained_on_the_device(training_device: torch.device, tmp_path: Path) -> None:
    """All stages: short histories, frozen windows, rollouts of its own."""
    spec = HistorySpec((1, 1, 0))
    stages = (
        TrainingStage(0.5, (spec,)),
        TrainingStage(1.0, (spec, HistorySpec(budget=12)), freeze_windows=True, self_forcing=0.5),
    )
    config = replace(test_world.CONFIG, out=tmp_path, stages=stages, steps=4)
    trained = test_world.fit_world(wandering(), None, config)
    assert on_device(trained, training_device)


def test_a_codec_is_trained_on_the_device(training_device: torch.device, tmp_path: Path) -> None:
    frames = test_codec.frames(16, 0)
    config = replace(test_codec.TINY, out=tmp_path, steps=2)
    trained = test_codec.fit_codec(frames, frames[:8], config)
    assert on_device(trained, training_device)


def test_a_structure_vae_is_trained_on_the_device(
    training_device: torch.device, tmp_path: Path
) -> None:
    shapes = test_structure_vae.boxes()
    config = replace(test_structure_vae.TINY, out=tmp_path, steps=2)
    trained = test_structure_vae.fit_structure_vae(shapes, shapes, config)
    assert on_device(trained, training_device)


def test_a_structure_flow_is_trained_on_the_device(
    training_device: torch.device, tmp_path: Path
) -> None:
    objects = test_structure_flow.OBJECTS[:2]
    config = replace(test_structure_flow.TINY, out=tmp_path, steps=2)
    trained = test_structure_flow.fit_structure(
        objects, objects, test_structure_flow.codec(), config
    )
    assert on_device(trained, training_device)


def test_a_slat_vae_and_its_flow_are_trained_on_the_device(
    training_device: torch.device, tmp_path: Path
) -> None:
    toys = toy_set(2)
    config = replace(test_slat_vae.TINY, out=tmp_path / "vae", steps=2)
    vae = test_slat_vae.fit_slat_vae(toys, toys, config)
    assert on_device(vae, training_device)
    config = replace(test_slat_flow.TINY, out=tmp_path / "flow", steps=2)
    trained = test_slat_flow.fit_slat_flow(toys, toys, vae, config)
    assert on_device(trained, training_device)


def on_device(model: torch.nn.Module, device: torch.device) -> bool:
    return {p.device for p in model.parameters()} == {device}
