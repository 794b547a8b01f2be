"""The named object models: the published values, and a small model that fits together."""

import torch

from loci.io.config_files import config_from_dict
from loci.objects.config import LifterConfig, home, sam3d_objects
from loci.objects.parts import PARTS, PartConfigs


def parameters(parts: PartConfigs) -> dict[str, int]:
    with torch.device("meta"):
        return {name: sum(p.numel() for p in parts.build(name).parameters()) for name in PARTS}


def test_the_published_model_is_run_with_the_published_values() -> None:
    run = sam3d_objects().lifter
    structure, latents = run.structure, run.slat
    assert (structure.steps, structure.rescale, structure.guidance_strength) == (25, 3, 7)
    assert (latents.steps, latents.rescale, latents.guidance_strength) == (25, 1, 1)
    assert structure.interval == latents.interval == (0, 500)
    assert (run.input_size, run.prune_depth, run.voxel_limit) == (518, 1, 42000)
    assert run.convention == "ScaleShiftInvariant"
    counts = parameters(sam3d_objects().parts)
    assert counts["structure_fuser"] == 634_485_760
    assert counts["slat_flow"] == 600_432_520
    assert counts["gaussian_decoder"] == 85_369_024


def test_the_small_model_is_small_and_of_one_piece() -> None:
    parts, run = home()
    # bfloat16, in bytes: what may be shipped.
    assert 2 * sum(parameters(parts).values()) < 40e6
    for fuser, flow, size in (
        (parts.structure_fuser, parts.structure_flow, run.input_size),
        (parts.slat_fuser, parts.slat_flow, run.input_size),
    ):
        assert fuser.dim == flow.condition_dim
        assert fuser.picture.input_size == size
    grid = parts.structure_flow.resolution * 2 ** (len(parts.structure_decoder.channels) - 1)
    decoders = (parts.gaussian_decoder.torso, parts.mesh_decoder.torso)
    assert {torso.resolution for torso in decoders} == {grid}
    assert parts.structure_decoder.latent_channels == parts.structure_flow.shape_channels
    channels = parts.slat_flow.channels
    assert {torso.channels for torso in decoders} == {channels}
    assert len(run.slat.statistics.mean) == len(run.slat.statistics.std) == channels


def test_what_is_trained_is_the_preset() -> None:
    from loci.train.slat.flow import SlatFlowTraining as SlatFlowTraining
    from loci.train.slat.parts import SlatVAEConfig as CodecConfig
    from loci.train.structure.flow import StructureTraining
    from loci.train.structure.vae import StructureVAETraining as StructureVAETraining

    structure, latents, codec = StructureTraining(), SlatFlowTraining(), CodecConfig()
    trained = {
        "structure_fuser": structure.fuser,
        "structure_flow": structure.flow,
        "structure_decoder": StructureVAETraining().decoder,
        "slat_fuser": latents.fuser,
        "slat_flow": latents.flow,
        "gaussian_decoder": codec.gaussians,
        "mesh_decoder": codec.mesh,
    }
    parts = home().parts
    assert {name: getattr(parts, name) for name in PARTS} == trained
    assert home().lifter.structure == structure.sampling
    # What only training needs fits what is shipped.
    encoder = StructureVAETraining().encoder
    assert encoder.latent_channels == parts.structure_flow.shape_channels
    assert encoder.factor * parts.structure_flow.resolution == codec.encoder.torso.resolution
    assert codec.encoder.latent_channels == parts.slat_flow.channels


def test_settings_are_read_by_their_former_names() -> None:
    saved = {"structure": {"guidance": 3.0}, "latents": {"guidance": 0.5}}
    config = config_from_dict(LifterConfig, saved)
    assert (config.structure.guidance_strength, config.slat.guidance_strength) == (3.0, 0.5)
