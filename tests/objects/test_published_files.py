"""Published pickles, at small sizes: found, read weights-only, loaded strictly, converted."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from loci.errors import LociError
from loci.objects.config import LIFTER_NAME, LifterConfig
from loci.objects.lifter import Lifter
from loci.objects.models.condition import EmbedderFuser, FuserConfig, PointmapEmbedderConfig
from loci.objects.models.dinov2 import DinoConfig, DinoEmbedder, DinoEmbedderConfig
from loci.objects.models.slat_decoders import (
    GaussianDecoder,
    GaussianDecoderConfig,
    MeshDecoder,
    MeshDecoderConfig,
    TorsoConfig,
)
from loci.objects.models.slat_flow import SlatFlow, SlatFlowConfig
from loci.objects.models.structure_flow import StructureFlow, StructureFlowConfig
from loci.objects.models.structure_vae import StructureDecoder, StructureDecoderConfig
from loci.objects.parts import PARTS, LoadedParts, PartConfigs
from loci.objects.published_files import (
    CONDITION,
    GENERATOR,
    PUBLISHED_FILES,
    PublishedFile,
    Sam3dCheckpoint,
    convert,
)
from tests.objects.lifters import example, small_config, small_modules, small_parts

FILES = {
    "ss_generator": {"structure_fuser": CONDITION, "structure_flow": GENERATOR},
    "slat_generator": {"slat_fuser": CONDITION, "slat_flow": GENERATOR},
    "ss_decoder": {"structure_decoder": ""},
    "slat_decoder_gs": {"gaussian_decoder": ""},
    "slat_decoder_mesh": {"mesh_decoder": ""},
}


def published(stem: str) -> dict[str, Any]:
    """What a file holds: generators Lightning's way, with more than is needed."""
    modules = small_modules()
    tensors = {
        f"{prefix}{name}": tensor
        for part, prefix in FILES[stem].items()
        for name, tensor in modules[part].state_dict().items()
    }
    if "generator" not in stem:
        return {name: tensor.half() for name, tensor in tensors.items()}
    tensors["_base_models.depth.weight"] = torch.ones(3)
    return {"state_dict": tensors, "epoch": 7, "callbacks": {"best": 0.5}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for stem in FILES:
        torch.save(published(stem), folder / f"{stem}.ckpt")
    (folder / "pipeline.yaml").write_text("dtype: float16\n")
    return folder


def small(folder: Path) -> Sam3dCheckpoint:
    return Sam3dCheckpoint(folder, small_parts())


def test_every_part_is_found_under_its_prefix(folder: Path) -> None:
    expected = small_modules()
    for name in PARTS:
        part = small(folder).load(name)
        assert not part.training
        weights = part.state_dict()
        half = "decoder" in name
        for key, tensor in expected[name].state_dict().items():
            assert torch.equal(weights[key], tensor.half() if half else tensor), (name, key)


def test_the_folder_above_will_do_and_others_are_no_checkpoints(folder: Path) -> None:
    assert (
        Sam3dCheckpoint.find(folder.parent)
        == Sam3dCheckpoint.find(folder)
        == Sam3dCheckpoint(folder)
    )
    assert Sam3dCheckpoint.find(folder.parent.parent) is None
    assert Sam3dCheckpoint(folder).configs == PartConfigs()


def test_the_lifter_takes_the_published_folder(folder: Path) -> None:
    lifter = Lifter.from_pretrained(folder.parent)
    assert lifter.config == LifterConfig()
    # The files here are small ones: the first part that a run needs says so.
    with pytest.raises(LociError, match=r"ss_generator.ckpt \(structure_fuser\): weights do not"):
        lifter(*example())


def test_published_parts_run(folder: Path) -> None:
    lifter = Lifter(small_config(), small(folder))
    expected = Lifter(small_config(), LoadedParts(small_modules()))(*example())
    asset = lifter(*example())
    assert torch.allclose(asset.pose.translation, expected.pose.translation, atol=1e-3)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "ss_decoder.ckpt").unlink()
    (folder / "slat_decoder_gs.ckpt").unlink()
    for source in (folder, folder.parent):
        with pytest.raises(LociError, match="missing slat_decoder_gs.ckpt, ss_decoder.ckpt, expec"):
            Lifter.from_pretrained(source)


def without(state: dict[str, torch.Tensor]) -> None:
    del state[f"{GENERATOR}latent_mapping.scale.out_layer.bias"]


def reshaped(state: dict[str, torch.Tensor]) -> None:
    state[f"{GENERATOR}latent_mapping.scale.out_layer.bias"] = torch.zeros(9)


def enlarged(state: dict[str, torch.Tensor]) -> None:
    state[f"{GENERATOR}latent_mapping.scale.more"] = torch.zeros(9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, "1 missing: latent_mapping.scale.out_layer.bias"),
        (reshaped, r"1 misshapen: latent_mapping.scale.out_layer.bias \[9\] instead of \[3\]"),
        (enlarged, "1 unexpected: latent_mapping.scale.more"),
    ],
)
def test_what_does_not_fit_is_named(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    content = published("ss_generator")
    change(content["state_dict"])
    torch.save(content, folder / "ss_generator.ckpt")
    with pytest.raises(LociError, match=message) as caught:
        small(folder).load("structure_flow")
    assert "\n" not in str(caught.value)
    small(folder).load("structure_fuser")  # only what begins with a part's prefix is its own


class Trap:
    """Unpickling this would call a function."""

    def __reduce__(self) -> Any:
        return print, ("called",)


def test_pickles_are_read_weights_only(folder: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(published("ss_decoder") | {"trap": Trap()}, folder / "ss_decoder.ckpt")
    with pytest.raises(LociError, match="holds builtins.print, which could run code"):
        small(folder).load("structure_decoder")
    assert "called" not in capsys.readouterr().out


def test_a_truncated_file_is_named(folder: Path) -> None:
    path = folder / "slat_decoder_mesh.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(LociError, match="slat_decoder_mesh.ckpt: expected safetensors or a weigh"):
        small(folder).load("mesh_decoder")


def test_safetensors_are_preferred(folder: Path) -> None:
    changed = {name: tensor + 1 for name, tensor in published("ss_decoder").items()}
    save_file(changed, folder / "ss_decoder.safetensors")
    bias = small(folder).load("structure_decoder").state_dict()["input_layer.bias"]
    assert torch.equal(bias, changed["input_layer.bias"])


def test_converted_parts_are_a_model_folder(folder: Path, tmp_path: Path) -> None:
    convert(small(folder), tmp_path / "new" / "model")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["model"]
    names = {p.name for p in (tmp_path / "new" / "model").iterdir()}
    assert names == {*PARTS, LIFTER_NAME}
    assert not small(folder).has("gaussian_decoder_4")
    lifter = Lifter.from_pretrained(tmp_path / "new" / "model")
    assert lifter.config == LifterConfig()
    for name in PARTS:
        first, second = (parts.load(name) for parts in (small(folder), lifter.loader.parts))
        pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def test_the_second_gaussian_decoder_comes_along_if_it_is_there(
    folder: Path, tmp_path: Path
) -> None:
    light = GaussianDecoder(replace(small_parts().gaussian_decoder, gaussians=1))
    torch.save(light.state_dict(), folder / "slat_decoder_gs_4.ckpt")
    parts = Sam3dCheckpoint(folder, replace(small_parts(), gaussian_decoder_4=light.config))
    assert parts.has("gaussian_decoder_4")
    convert(parts, tmp_path / "model")
    lifter = Lifter.from_pretrained(tmp_path / "model")
    assert lifter.config == LifterConfig()
    found = lifter.loader.parts.load("gaussian_decoder_4").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in light.state_dict().items())


def test_a_conversion_that_fails_leaves_no_model(folder: Path, tmp_path: Path) -> None:
    (folder / "slat_decoder_mesh.ckpt").write_bytes(b"")
    with pytest.raises(LociError, match="slat_decoder_mesh"):
        convert(small(folder), tmp_path / "new" / "model")
    assert not (tmp_path / "new" / "model").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").touch()
    with pytest.raises(LociError, match="full: holds kept already, expected the name of a new"):
        convert(small(folder), tmp_path / "full")


def test_fix_nothing_is_downloaded_to_build_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published code fetches DINO from a hub when it is constructed."""
    import socket

    def refused(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    with torch.device("meta"):
        for name in PARTS:
            PartConfigs().build(name)


MANIFEST = Path(__file__).parent / "sam3d.manifest.json.gz"
PARAMETERS = {
    "structure_fuser": 634_485_760,
    "structure_flow": 959_962_133,
    "structure_decoder": 73_671_201,
    "slat_fuser": 626_054_144,
    "slat_flow": 600_432_520,
    "gaussian_decoder": 85_369_024,
    "mesh_decoder": 90_926_693,
    "gaussian_decoder_4": 85_067_576,
}


def check(module: nn.Module, origin: PublishedFile, parameters: int) -> None:
    manifest = json.loads(gzip.decompress(MANIFEST.read_bytes()))[origin.stem]
    published = {
        name.removeprefix(origin.prefix): shape
        for name, (shape,) in manifest.items()
        if name.startswith(origin.prefix)
    }
    ours = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    assert ours == published
    assert sum(p.numel() for p in module.parameters()) == parameters


@pytest.mark.parametrize("name", PARAMETERS)
def test_names_and_shapes_equal_the_published_manifest(name: str) -> None:
    with torch.device("meta"):
        module = PartConfigs().build(name)
    check(module, PUBLISHED_FILES[name], PARAMETERS[name])


PICTURE = DinoEmbedderConfig(DinoConfig(patch=4, dim=16, depth=2, heads=2, grid=3), 12)
MASK = DinoEmbedderConfig(DinoConfig(patch=4, dim=8, depth=1, heads=1, grid=3), 12)
POINTS = PointmapEmbedderConfig(input_size=16, dim=16, heads=2)
TORSO = TorsoConfig(channels=4, dim=24, blocks=2, heads=2, window=4, resolution=8)


def parts() -> list[nn.Module]:
    return [
        EmbedderFuser.from_config(FuserConfig(PICTURE, MASK, POINTS, dim=16)),
        EmbedderFuser.from_config(FuserConfig(PICTURE, dim=16)),
        StructureFlow(StructureFlowConfig(16, 16, blocks=1, heads=2, resolution=2)),
        StructureDecoder(StructureDecoderConfig(8, (16, 8))),
        SlatFlow(SlatFlowConfig(4, 16, 16, blocks=1, heads=2, io_channels=(8,))),
        GaussianDecoder(GaussianDecoderConfig(TORSO, gaussians=2)),
        MeshDecoder(MeshDecoderConfig(TORSO, narrowing=(2,), norm_groups=4)),
    ]


@pytest.mark.parametrize("index", range(7))
def test_a_saved_part_comes_back_the_same(index: int, tmp_path: Path) -> None:
    part: Any = parts()[index]
    part.save_pretrained(tmp_path / "part")
    again = type(part).from_pretrained(tmp_path / "part")
    assert again.config == part.config
    assert not again.training
    weights = again.state_dict()
    assert weights.keys() == part.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in part.state_dict().items())


def test_a_part_can_be_saved_in_half_the_bytes(tmp_path: Path) -> None:
    part = parts()[2]
    assert isinstance(part, StructureFlow)
    part.save_pretrained(tmp_path, torch.bfloat16)
    assert StructureFlow.from_pretrained(tmp_path).t_embedder.mlp[0].weight.dtype == torch.bfloat16


def test_another_part_in_the_folder_is_named(tmp_path: Path) -> None:
    part = parts()[3]
    assert isinstance(part, StructureDecoder)
    part.save_pretrained(tmp_path)
    with pytest.raises(LociError, match=r"config\.json: expected a StructureFlowConfig"):
        StructureFlow.from_pretrained(tmp_path)


def test_a_fuser_without_a_configuration_cannot_be_saved(tmp_path: Path) -> None:
    fuser = EmbedderFuser(
        [DinoEmbedder(PICTURE)],
        [EmbedderFuser.from_config(FuserConfig(PICTURE, dim=16)).sources[0]],
        16,
    )
    with pytest.raises(ValueError, match="without a configuration"):
        fuser.save_pretrained(tmp_path)
