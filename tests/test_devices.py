"""Everything walks, lifts and learns on a device other than the CPU."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loci.app.lift_views import object_preview, object_turntable, scene_preview
from loci.caching.presets import Preset
from loci.caching.token_cache import TokenCacheConfig
from loci.objects.lifter import Lifter
from loci.objects.parts import GivenParts
from loci.objects.placement.refinement import RefinementConfig
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
    """Long enough for memory tokens of all levels, through a saved walk."""
    small_world().save_pretrained(tmp_path / "world")
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


def test_an_asset_on_the_device_is_finished_shown_and_written(
    pretend: torch.device, tmp_path: Path
) -> None:
    lifter = Lifter.from_pretrained(save_small_lifter(tmp_path / "model"), pretend)
    asset = lifter(PIXELS, INSIDE, example_pointmap())
    scene = lifter.scene(PIXELS, [INSIDE, INSIDE], example_pointmap())
    assert {path.suffix for path in asset.export(tmp_path / "object")} >= {".ply", ".glb"}
    assert scene.export(tmp_path / "scene")
    object_preview(asset, PIXELS, INSIDE)
    scene_preview(scene, PIXELS, [INSIDE, INSIDE])
    mesh_only = replace(asset, gaussians=None)
    object_turntable(mesh_only, 16)
    finished = asset.simplified(300).cleaned().textured(32)
    assert finished.mesh is not None
    assert finished.mesh.vertices.device == pretend
    finished.export(tmp_path / "textured.glb")
    lifter.save_pretrained(tmp_path / "again")


@pytest.mark.parametrize("name", ["fast", "faster", "released", "paper", "tokens", "dropped"])
def test_presets_lift_on_the_device(pretend: torch.device, tmp_path: Path, name: str) -> None:
    tokens = Preset("tokens", latents=TokenCacheConfig(tolerance=0.4))
    speed = {"tokens": tokens, "dropped": Preset("dropped", dropped=0.3)}.get(name, name)
    lifter = Lifter.from_pretrained(save_small_lifter(tmp_path / "model"), pretend)
    asset = lifter(PIXELS, INSIDE, speed=speed)
    assert asset.voxels.device == pretend


@pytest.mark.parametrize(
    "changed", [{"refinement": RefinementConfig()}, {"voxel_limit": 10}, {"prune": 1}]
)
def test_options_of_a_lifter_run_on_the_device(pretend: torch.device, changed: dict) -> None:
    lifter = Lifter(small_config(**changed), GivenParts(small_modules()), pretend)
    asset = lifter(PIXELS, INSIDE, example_pointmap(), guesses=2)
    assert asset.voxels.device == pretend
