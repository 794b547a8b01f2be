"""The pipeline from end to end, on a tiny model with random weights."""

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from loci.errors import LociError
from loci.geometry.camera import Camera
from loci.objects import pipeline as lifting
from loci.objects.asset import Asset
from loci.objects.config import LIFTER_NAME
from loci.objects.costs import cost_table
from loci.objects.inputs.pixel_aligned import ALIGNED_CHANNELS
from loci.objects.lifter import Lifter
from loci.objects.models.slat_decoders import GaussianDecoder
from loci.objects.models.slat_flow import SlatFlow
from loci.objects.models.structure_flow import StructureFlow
from loci.objects.parts import FORMER_PARTS, PARTS, LoadedParts, PartLoader
from loci.objects.pipeline import LiftPipeline, Progress
from loci.objects.placement.pose import Pose
from loci.objects.placement.refinement import RefinedPose, RefinementConfig
from tests.objects.lifters import (
    example,
    example_pointmap,
    save_small_lifter,
    small_config,
    small_lifter,
    small_modules,
    small_parts,
)

PIXELS, INSIDE = example()


@pytest.fixture(scope="module")
def lifter() -> Lifter:
    return small_lifter()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_lifter(tmp_path_factory.mktemp("lifter") / "model")


@pytest.fixture(scope="module")
def asset(lifter: Lifter) -> Asset:
    return lifter(PIXELS, INSIDE, example_pointmap(), seed=3)


def same(first: Asset, second: Asset, atol: float = 0.0) -> bool:
    assert first.gaussians is not None
    assert second.gaussians is not None
    assert first.mesh is not None
    assert second.mesh is not None
    pairs = [
        *zip(first.pose, second.pose, strict=True),
        *zip(vars(first.gaussians).values(), vars(second.gaussians).values(), strict=True),
        (first.voxels, second.voxels),
        (first.mesh.vertices, second.mesh.vertices),
        (first.mesh.faces, second.mesh.faces),
    ]
    shapes = all(a.shape == b.shape for a, b in pairs)
    return shapes and all(torch.allclose(a, b, rtol=0, atol=atol) for a, b in pairs)


def test_an_object_comes_with_all_it_has(asset: Asset) -> None:
    assert asset.gaussians is not None
    assert asset.mesh is not None
    assert asset.resolution == 4
    assert len(asset.gaussians) == 2 * len(asset.voxels) > 0
    assert len(asset.mesh.faces) > 0
    assert asset.mesh.colors is not None
    assert (asset.centers().abs() < 0.5).all()
    assert asset.pose.translation.shape == asset.pose.scale.shape == (1, 3)


def test_fix_no_stage_asks_for_cuda(asset: Asset) -> None:
    """Published, some do whatever the device is: Gaussians, autocast, windowed attention."""
    assert asset.gaussians is not None
    assert asset.mesh is not None
    tensors = [*asset.pose, *vars(asset.gaussians).values(), asset.mesh.vertices, asset.voxels]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


def test_the_seed_alone_decides(lifter: Lifter, asset: Asset) -> None:
    assert same(asset, lifter(PIXELS, INSIDE, example_pointmap(), seed=3))
    assert not same(asset, lifter(PIXELS, INSIDE, example_pointmap(), seed=4))


def test_of_several_guesses_the_best_one_is_gone_on_with(
    lifter: Lifter, asset: Asset, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Lifter(replace(small_config(), refinement=RefinementConfig()), lifter.loader.parts)
    tried: list[torch.Tensor] = []

    def marked(pose: Pose, voxels: torch.Tensor, *rest: Any) -> RefinedPose:
        tried.append(voxels)
        return RefinedPose(pose, (0.1, 0.9, 0.4)[len(tried) - 1])

    monkeypatch.setattr(lifting, "refine_pose", marked)
    found = told(PIXELS, INSIDE, example_pointmap(), seed=3, guesses=3)
    assert len(tried) == 3
    assert tried[0].tolist() != tried[1].tolist()
    assert found.voxels.equal(tried[1].long())
    # The first guess is the only one of a run that makes no more.
    assert asset.voxels.equal(tried[0].long())


def test_a_guess_without_voxels_is_passed_over(
    lifter: Lifter, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Lifter(replace(small_config(), refinement=RefinementConfig()), lifter.loader.parts)
    found, asked = lifting.occupied, []

    def none_at_first(logits: torch.Tensor) -> torch.Tensor:
        asked.append(logits)
        return found(logits)[:0] if len(asked) == 1 else found(logits)

    monkeypatch.setattr(lifting, "occupied", none_at_first)
    asset = told(PIXELS, INSIDE, example_pointmap(), seed=3, guesses=2)
    assert len(asked) == 2
    assert len(asset.voxels) == len(found(asked[1]))


def test_a_mask_at_the_edge_gets_one_guess(lifter: Lifter, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Lifter(replace(small_config(), refinement=RefinementConfig()), lifter.loader.parts)
    rows: list[int] = []
    sampled = StructureFlow.velocity

    def counted(self: StructureFlow, latents: Any, *rest: Any) -> Any:
        rows.append(len(latents["shape"]))
        return sampled(self, latents, *rest)

    monkeypatch.setattr(StructureFlow, "velocity", counted)
    told(PIXELS, INSIDE, seed=3, guesses=3)
    assert set(rows) == {3}
    rows.clear()
    cut = INSIDE.copy()
    cut[:, : np.nonzero(INSIDE)[1].max()] |= np.asarray(INSIDE.any(axis=1))[:, None]
    told(PIXELS, cut, seed=3, guesses=3)
    assert set(rows) == {1}


def test_where_nothing_tells_guesses_apart_the_first_is_taken(lifter: Lifter, asset: Asset) -> None:
    found = lifter(PIXELS, INSIDE, example_pointmap(), seed=3, guesses=2)
    assert same(found, asset, atol=1e-4)
    with pytest.raises(LociError, match="guesses: 0, expected at least 1"):
        lifter(PIXELS, INSIDE, guesses=0)


def test_a_saved_model_is_the_same_model(folder: Path, asset: Asset) -> None:
    again = Lifter.from_pretrained(folder)
    assert again.config == small_config()
    # Weights in a file lie at other addresses, which other kernels are chosen by.
    assert same(asset, again(PIXELS, INSIDE, example_pointmap(), seed=3), atol=1e-4)


def test_gain_the_picture_is_embedded_once_for_all_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    modules, seen = small_modules(), []
    fuser = cast(Any, modules["structure_fuser"])
    embed = fuser.embed
    monkeypatch.setattr(fuser, "embed", lambda name, x: (seen.append(name), embed(name, x))[1])
    masks = [INSIDE, np.roll(INSIDE, -12, axis=1), np.roll(INSIDE, 5, axis=0)]
    lifter = Lifter(small_config(), LoadedParts(modules))
    scene = lifter.scene(PIXELS, masks, example_pointmap(), seed=3)
    assert seen.count("rgb_image") == 1
    assert seen.count("image") == seen.count("rgb_image_mask") == seen.count("rgb_pointmap") == 3
    for mask, together in zip(masks, scene.objects, strict=True):
        assert same(together, lifter(PIXELS, mask, example_pointmap(), seed=3))


class Watching:
    """Parts that are counted while they live."""

    def __init__(self) -> None:
        self.alive: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.loaded: list[str] = []
        self.most = 0

    def load(self, name: str) -> nn.Module:
        part = small_modules()[name]
        gc.collect()
        self.loaded.append(name)
        self.alive.add(part)
        self.most = max(self.most, len(self.alive))
        return part

    def has(self, name: str) -> bool:
        return name in PARTS


def test_gain_one_part_at_a_time_is_in_memory() -> None:
    parts = Watching()
    lifter = Lifter(small_config(), parts)
    assert parts.loaded == []
    lifter.scene(PIXELS, [INSIDE, INSIDE])
    assert parts.loaded == list(PARTS)
    gc.collect()
    assert (parts.most, len(parts.alive)) == (1, 0)


def test_kept_parts_are_loaded_once() -> None:
    parts = Watching()
    lifter = Lifter(small_config(), parts, keep=True)
    first, second = lifter(PIXELS, INSIDE), lifter(PIXELS, INSIDE)
    assert same(first, second)
    assert parts.loaded == list(PARTS) == list(lifter.loader.loaded)
    lifter.loader.free()
    gc.collect()
    assert len(parts.alive) == 0


def test_every_stage_tells_what_it_cost(asset: Asset) -> None:
    assert [cost.stage for cost in asset.costs] == list(PARTS)
    assert all(cost.seconds > 0 for cost in asset.costs)
    table = cost_table(asset.costs).splitlines()
    assert table[0].startswith("structure_fuser")
    assert table[-1].startswith("all")
    assert all(cost.peak_bytes is None or cost.peak_bytes > 2**20 for cost in asset.costs)


def test_progress_is_told_before_every_step(lifter: Lifter) -> None:
    told: list[Progress] = []
    lifter.scene(PIXELS, [INSIDE, INSIDE], progress=told.append)
    steps = [(t.number, t.step) for t in told if t.stage == "structure_flow"]
    assert steps == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert list(dict.fromkeys(t.stage for t in told)) == list(PARTS)
    assert {t.objects for t in told} == {2}


def test_preserved_the_noise_of_stage_two_follows_that_of_stage_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[torch.Tensor] = []
    modules = small_modules()
    flow = cast(Any, modules["slat_flow"])
    velocity = flow.velocity
    monkeypatch.setattr(flow, "velocity", lambda x, *rest: (drawn.append(x), velocity(x, *rest))[1])
    Lifter(small_config(), LoadedParts(modules))(PIXELS, INSIDE, seed=11)
    rng = torch.Generator().manual_seed(11)
    for _, shape in sorted(cast(Any, modules["structure_flow"]).latent_shapes().items()):
        torch.randn(1, *shape, generator=rng)
    assert torch.equal(drawn[0], torch.randn(drawn[0].shape, generator=rng))


def test_decoders_can_be_left_out(lifter: Lifter, tmp_path: Path) -> None:
    asset = lifter(PIXELS, INSIDE, decoders=["mesh_decoder"])
    assert asset.gaussians is None
    assert asset.mesh is not None
    assert {path.name for path in asset.export(tmp_path)} == {"mesh.glb", "pose.json"}
    with pytest.raises(LociError, match="decoders: texture, expected gaussian_decoder or mesh"):
        lifter(PIXELS, INSIDE, decoders=["texture"])
    with pytest.raises(LociError, match="gaussian_decoder_4, expected gaussian_decoder or mesh"):
        lifter(PIXELS, INSIDE, decoders=["gaussian_decoder_4"])


def test_fewer_splats_come_from_a_decoder_of_their_own(tmp_path: Path) -> None:
    """SAM 3D Objects, 1: `gaussian_4`, when it is asked for."""
    torch.manual_seed(1)
    light = replace(small_parts().gaussian_decoder, gaussians=1)
    modules = {**small_modules(), "gaussian_decoder_4": GaussianDecoder(light)}
    lifter = Lifter(small_config(), LoadedParts(modules))
    lifter.save_pretrained(tmp_path)
    saved = Lifter.from_pretrained(tmp_path)
    chosen = ["gaussian_decoder_4", "mesh_decoder"]
    few, many = saved(PIXELS, INSIDE, decoders=chosen), saved(PIXELS, INSIDE)
    assert few.gaussians is not None
    assert many.gaussians is not None
    assert 2 * len(few.gaussians.positions) == len(many.gaussians.positions)
    assert few.mesh is not None
    assert many.mesh is not None
    assert torch.equal(few.mesh.vertices, many.mesh.vertices)
    assert [cost.stage for cost in few.costs][-2:] == chosen
    with pytest.raises(LociError, match="expected one of the two"):
        saved(PIXELS, INSIDE, decoders=["gaussian_decoder", "gaussian_decoder_4"])


def aligned_lifter(**changes: Any) -> Lifter:
    """One whose second stage sees the pixels of each voxel."""
    modules, parts = small_modules(), small_parts()
    torch.manual_seed(2)
    flow = SlatFlow(replace(parts.slat_flow, aligned=ALIGNED_CHANNELS))
    flow.load_state_dict(modules["slat_flow"].state_dict(), strict=False)
    config = small_config(refinement=RefinementConfig(turns=4, halvings=0), **changes)
    return Lifter(config, LoadedParts({**modules, "slat_flow": flow.eval()}))


def test_colors_follow_the_pixels_of_their_voxels() -> None:
    """The second stage of a model that sees them gets the pixels at which a fitted pose puts each
    voxel, also where fewer voxels stand for them, and none where there is no such pose."""
    given: list[torch.Tensor | None] = []
    lifter = aligned_lifter()
    flow = cast(Any, lifter.loader.parts.load("slat_flow"))
    context = flow.context
    flow.context = lambda condition, aligned=None: (
        given.append(aligned),
        context(condition, aligned),
    )[1]
    height, width = INSIDE.shape
    rows, columns = np.mgrid[:height, :width]
    ramps = [255 * columns / width, 255 * rows / height, 0 * rows]  # Red to the right, green down
    picture = np.stack(ramps, axis=2).astype(np.uint8)
    whole = lifter(picture, INSIDE)
    fewer = replace(lifter.config, voxel_limit=len(whole.voxels) - 1)
    coarse = Lifter(fewer, lifter.loader.parts)(picture, INSIDE)
    assert coarse.downsample_factor == 2
    for asset, aligned in zip((whole, coarse), given, strict=True):
        assert aligned is not None
        assert len(aligned) == len(asset.voxels)
        covered, color = aligned.view(-1, 8, 5)[..., 0], aligned.view(-1, 8, 5)[..., 1:4]
        assert covered.mean() > 0.5  # The pose was fitted to the mask
        # Where the voxels that were found stand under the pose that was found.
        pose = whole.pose
        found = pose.place(whole.centers()[None])[0]
        pixels = Camera.identity(whole.fov).project(found, (height, width))
        seen = covered.mean(dim=1) > 0.8
        color = color.mean(dim=1) / covered.mean(dim=1, keepdim=True)
        assert seen.sum() >= 3
        expected = 2 * pixels[:, :2] / torch.tensor([width, height]) - 1
        if asset is whole:
            assert torch.allclose(color[seen, :2], expected[seen], atol=0.1)
        else:
            reach = torch.cdist(color[seen, :2], expected).amin(dim=1)
            assert reach.max() < 0.25  # In the middle of some of them
        assert (color[seen, 2] < -0.9).all()
    cut_off = np.zeros_like(INSIDE)
    cut_off[:20, :30] = True
    given.clear()
    lifter(picture, cut_off)
    assert given == [None]


def test_a_coarsened_object_is_placed_at_its_true_size() -> None:
    whole = small_lifter(prune_depth=0)(PIXELS, INSIDE, seed=3)
    small = small_lifter(prune_depth=0, voxel_limit=len(whole.voxels) - 1)(PIXELS, INSIDE, seed=3)
    assert (whole.downsample_factor, small.downsample_factor) == (1, 2)
    assert torch.equal(small.pose.scale, 2 * whole.pose.scale)
    assert len(small.voxels) < len(whole.voxels)


def test_pruning_can_be_switched_off(lifter: Lifter) -> None:
    whole = small_lifter(prune_depth=0)(PIXELS, INSIDE)
    pruned = lifter(PIXELS, INSIDE)
    assert {*map(tuple, pruned.voxels.tolist())} <= {*map(tuple, whole.voxels.tolist())}


def test_bfloat16_runs_through() -> None:
    lifter = Lifter(small_config(), LoadedParts(small_modules()), dtype=torch.bfloat16)
    asset = lifter(PIXELS, INSIDE, example_pointmap())
    assert asset.gaussians is not None
    assert asset.gaussians.positions.isfinite().all()


def test_a_lone_picture_is_placed_where_it_shows_the_object(
    lifter: Lifter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout latents of a perfect model are those of an object on the canonical ray."""
    structures = LiftPipeline._sample_structures

    def perfect(self: LiftPipeline, conditions: Any) -> Any:
        found = structures(self, conditions)
        zeros = {"translation": torch.zeros(1, 1, 3), "scale": torch.full((1, 1, 3), -1.0)}
        return [{**latents, **zeros} for latents in found]

    monkeypatch.setattr(LiftPipeline, "_sample_structures", perfect)
    rows, columns = np.nonzero(INSIDE)
    middle = [(v.min() + v.max() + 1) / 2 for v in (columns, rows)]
    for fov in (None, 30.0, 80.0):
        asset = lifter(PIXELS, INSIDE, fov=fov)
        assert asset.distance_assumed
        assert asset.fov == (fov or 50.0)
        x, y, z = asset.pose.translation[0].tolist()
        focal = 30 / np.tan(np.radians(asset.fov) / 2)
        assert [30 - focal * x / z, 20 - focal * y / z] == pytest.approx(middle, abs=1e-3)
        assert z == pytest.approx(1)
        # As large in the picture, however wide the camera sees.
        across = focal * asset.pose.scale[0, 0].item() / z
        assert across == pytest.approx(30 / np.tan(np.radians(25)) * np.exp(-1), rel=1e-4)


def test_a_pointmap_brings_its_units_and_its_camera(asset: Asset, lifter: Lifter) -> None:
    assert not asset.distance_assumed
    assert asset.fov == pytest.approx(40, abs=0.1)
    larger = lifter(PIXELS, INSIDE, example_pointmap() * 100, seed=3)
    assert torch.allclose(larger.pose.translation, 100 * asset.pose.translation, rtol=1e-3)
    assert torch.allclose(larger.pose.scale, 100 * asset.pose.scale, rtol=1e-3)


def test_no_voxel_above_threshold_is_said(tmp_path: Path) -> None:
    modules = small_modules()
    head = cast(Any, modules["structure_decoder"]).out_layer[-1]
    nn.init.constant_(head.bias, -1e4)
    lifter = Lifter(small_config(), LoadedParts(modules))
    with pytest.raises(LociError, match="^mask: no voxel above threshold, expected a mask around"):
        lifter(PIXELS, INSIDE)
    with pytest.raises(LociError, match="^mask 1: no voxel above threshold"):
        lifter.scene(PIXELS, [INSIDE, INSIDE])


def test_missing_parts_are_named_before_any_work(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LociError, match="no such model folder"):
        Lifter.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(LociError, match=r"lifter\.json: expected a JSON configuration"):
        Lifter.from_pretrained(tmp_path)
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name not in ("slat_flow", "mesh_decoder"):
            copy = tmp_path / path.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    with pytest.raises(LociError, match="missing slat_flow, mesh_decoder, expected for each"):
        Lifter.from_pretrained(tmp_path)
    settings = json.loads((tmp_path / LIFTER_NAME).read_text())
    (tmp_path / LIFTER_NAME).write_text(json.dumps(settings | {"decoders": ["texture"]}))
    with pytest.raises(LociError, match="decoders, expected gaussian_decoder or gauss"):
        Lifter.from_pretrained(tmp_path)


def test_a_part_of_another_size_is_named_when_it_is_loaded(folder: Path) -> None:
    lifter = Lifter.from_pretrained(folder)
    weights = folder / "structure_decoder" / "model.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes((folder / "structure_flow" / "model.safetensors").read_bytes())
        with pytest.raises(LociError, match="structure_decoder: weights do not fit the model"):
            lifter(PIXELS, INSIDE)
        weights.write_bytes(kept[:100])
        with pytest.raises(LociError, match="structure_decoder/model.safetensors: no safet"):
            lifter(PIXELS, INSIDE)
    finally:
        weights.write_bytes(kept)


def test_a_run_leaves_no_graph_and_no_gradients(asset: Asset, lifter: Lifter) -> None:
    assert asset.gaussians is not None
    assert not asset.gaussians.positions.requires_grad
    positions = asset.gaussians.positions.clone().requires_grad_()
    positions.sum().backward()  # no inference tensors: what comes out can be optimised


def test_stages_say_where_they_compute() -> None:
    stages = PartLoader(LoadedParts(small_modules()), torch.device("cpu"), torch.bfloat16)
    with stages.use("slat_flow", nn.Module, []) as part:
        assert {p.dtype for p in part.parameters()} == {torch.bfloat16}


def test_a_model_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    class Failing(LoadedParts):
        def load(self, name: str) -> nn.Module:
            if name == "mesh_decoder":
                raise LociError("mesh_decoder: weights do not fit the model")
            return super().load(name)

    folder = save_small_lifter(tmp_path / "model")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    failing = Lifter(small_config(prune_depth=0), Failing(small_modules()))
    for target in (folder, tmp_path / "new"):
        with pytest.raises(LociError, match="mesh_decoder"):
            failing.save_pretrained(target)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    save_small_lifter(folder)  # an older model is replaced
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(LociError, match="holds notes.txt already"):
        save_small_lifter(folder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": "gpu"}, "device: 'gpu', expected cpu, cuda or mps"),
        ({"device": "mps"}, "device: there is no mps on this machine"),
        ({"dtype": "bfloat16"}, "dtype: 'bfloat16', expected torch.float32 or torch.bfloat16"),
        ({"dtype": torch.int8}, "dtype: torch.int8, expected"),
        ({"source": None}, "model: None, expected a name, a folder or a hub id"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(LociError, match=message):
        Lifter.from_pretrained(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed: -1, expected a whole number from 0 to"),
        ({"pointmap_frame": "colmap"}, "frame: 'colmap', expected pytorch3d or opencv"),
        ({"guesses": 0.5}, "guesses: 0.5, expected at least 1"),
        ({"decoders": "texture"}, "decoders: texture, expected gaussian_decoder or mesh"),
        ({"decoders": []}, "decoders: none, expected"),
        ({"fov": float("nan")}, "field of view: nan degrees"),
    ],
)
def test_wrong_arguments_are_named(lifter: Lifter, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(LociError, match=message):
        lifter(PIXELS, INSIDE, **wrong)


def test_auto_is_float32_on_the_cpu(folder: Path) -> None:
    assert Lifter.from_pretrained(folder, dtype="auto").loader.dtype == torch.float32
    assert Lifter.from_pretrained("home", dtype="auto").loader.dtype == torch.float32


def test_former_names_of_settings_are_read(folder: Path, tmp_path: Path) -> None:
    config = small_config(refinement=RefinementConfig(halvings=1, min_gain=0.5, depth_weight=2.0))
    lifter = Lifter(config, LoadedParts(small_modules()))
    lifter.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / LIFTER_NAME
    text = path.read_text()
    for former, name in RefinementConfig.FORMER_FIELDS.items():
        assert f'"{name}"' in text
        text = text.replace(f'"{name}"', f'"{former}"')
    path.write_text(text)
    fuser = tmp_path / "model" / "structure_fuser" / "config.json"
    text = fuser.read_text().replace('"mask_background": false', '"cutout": true')
    fuser.write_text(text.replace('"normalize_tokens": false', '"even": true'))
    again = Lifter.from_pretrained(tmp_path / "model")
    assert again.config == config
    read = cast(Any, again.loader.parts.load("structure_fuser")).config
    assert (read.mask_background, read.normalize_tokens) == (True, True)


def test_models_saved_under_former_names_load(tmp_path: Path, lifter: Lifter) -> None:
    lifter.save_pretrained(tmp_path / "model")
    for now, former in FORMER_PARTS.items():
        (tmp_path / "model" / now).rename(tmp_path / "model" / former)
    settings = tmp_path / "model" / LIFTER_NAME
    settings.write_text(settings.read_text().replace('"slat": {', '"latents": {'))
    old = Lifter.from_pretrained(tmp_path / "model")
    assert old.config == lifter.config
    assert all(old.loader.parts.has(name) for name in lifter.config.parts)
    lifter.save_pretrained(tmp_path / "model")
    assert not any((tmp_path / "model" / former).exists() for former in FORMER_PARTS.values())
