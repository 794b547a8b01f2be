import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from loci.errors import LociError
from loci.io.weight_checks import current_names
from loci.memory.hpmc import published_memory
from loci.world.block import Block
from loci.world.conditioning import Actions, ChunkPoses, Prompt
from loci.world.config import doom_transformer
from loci.world.transformer import TransformerConfig, WorldTransformer
from tests.world.models import pose_rotary_config, published_like, randomised

MANIFEST = Path(__file__).parent / "infinite-world.manifest.json.gz"


def published_inputs(batch: int = 2, frames: int = 5) -> dict:
    g = torch.Generator().manual_seed(1)
    return {
        "memory": torch.randn(batch, 16, 3, 4, 6, generator=g),
        "local": torch.randn(batch, 16, 1, 4, 6, generator=g),
        "actions": Actions(*torch.randint(0, 10, (2, batch, 4 * frames - 3), generator=g)),
        "prompt": Prompt(
            torch.randn(batch, 12, 24, generator=g), (torch.arange(12) < 7).expand(batch, 12)
        ),
    }


def reckoned_inputs(batch: int = 2, frames: int = 4) -> dict:
    g = torch.Generator().manual_seed(1)
    poses = ChunkPoses(
        torch.randn(batch, 5, 3, generator=g).double(),
        torch.arange(5).expand(batch, 5).double(),
        torch.randn(batch, 3, generator=g).double(),
        torch.randn(batch, frames, 3, generator=g).double(),
    )
    return {
        "memory": torch.randn(batch, 32, 5, 2, 2, generator=g),
        "local": torch.randn(batch, 16, 1, 4, 4, generator=g),
        "actions": Actions(*torch.randint(0, 10, (2, batch, frames), generator=g)),
        "poses": poses,
    }


def noise_for(inputs: dict, frames: int) -> Tensor:
    shape = list(inputs["local"].shape)
    shape[2] = frames
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def test_names_and_shapes_equal_the_published_manifest() -> None:
    manifest = json.loads(gzip.decompress(MANIFEST.read_bytes()))["dit"]
    with torch.device("meta"):
        model = WorldTransformer(TransformerConfig())
    published = {new: old for old, new in model.FORMER_TENSORS.items()}
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    ours = current_names(shapes, published)
    assert len(ours) == 905
    assert ours == manifest


@pytest.mark.parametrize(
    ("config", "inputs", "frames"),
    [
        (published_like(), published_inputs(), 5),
        (replace(published_like(), memory_stream="fixed"), published_inputs(), 5),
        (pose_rotary_config("fixed"), reckoned_inputs(), 4),
        (pose_rotary_config("evolving"), reckoned_inputs(), 4),
    ],
    ids=["released", "released-fixed", "reckoned", "reckoned-evolving"],
)
def test_a_context_made_once_serves_every_step_exactly(config, inputs, frames) -> None:
    model = randomised(config)
    noisy = noise_for(inputs, frames)
    context = model.context(**inputs)
    for t in (1000.0, 700.0, 10.0):
        timestep = torch.full((2,), t)
        plain = model(noisy, timestep, **inputs)
        assert torch.equal(model.velocity(noisy, timestep, context), plain)


@pytest.mark.parametrize("stream", ["fixed", "evolving"])
def test_memory_tokens_change_from_block_to_block_and_not_after_the_last(
    stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evolved = []
    forward_memory = Block.forward_conditioning

    def noted(block: Block, *given):
        evolved.append(block)
        return forward_memory(block, *given)

    monkeypatch.setattr(Block, "forward_conditioning", noted)
    model = randomised(replace(pose_rotary_config(stream), blocks=3))
    model.context(**reckoned_inputs())
    assert evolved == (list(model.blocks)[:-1] if stream == "evolving" else [])


def test_each_sample_of_a_batch_has_its_own_actions_and_addresses() -> None:
    for config, inputs, frames in (
        (published_like(), published_inputs(), 5),
        (pose_rotary_config(), reckoned_inputs(), 4),
    ):
        model = randomised(config)
        noisy, timestep = noise_for(inputs, frames), torch.tensor([900.0, 200.0])
        both = model(noisy, timestep, **inputs)
        assert both.shape == noisy.shape
        for row in range(2):
            alone = model(
                noisy[row : row + 1],
                timestep[row : row + 1],
                **{name: _row(value, row) for name, value in inputs.items()},
            )
            assert torch.allclose(alone[0], both[row], atol=1e-5)


def _row(value, row: int):
    if isinstance(value, Tensor):
        return value[row : row + 1]
    return type(value)(*(part[row : row + 1] for part in value))


def test_actions_memory_and_poses_all_matter() -> None:
    model, inputs = randomised(pose_rotary_config()), reckoned_inputs()
    noisy, timestep = noise_for(inputs, 4), torch.tensor([900.0, 200.0])
    base = model(noisy, timestep, **inputs)
    poses = inputs["poses"]
    changes = {
        "memory": inputs["memory"] + 1,
        "local": inputs["local"] + 1,
        "actions": Actions(inputs["actions"].move, (inputs["actions"].view + 1) % 10),
        "poses": poses._replace(target=poses.target + 0.5),
    }
    for name, changed in changes.items():
        assert not torch.allclose(base, model(noisy, timestep, **{**inputs, name: changed}))


def test_reckoned_addressing_knows_only_relative_poses() -> None:
    """Moving and turning the whole world changes nothing; turning one memory does."""
    model, inputs = randomised(pose_rotary_config()), reckoned_inputs()
    noisy, timestep = noise_for(inputs, 4), torch.tensor([900.0, 200.0])
    base = model(noisy, timestep, **inputs)
    poses = inputs["poses"]

    def moved(poses: Tensor) -> Tensor:
        turn = torch.tensor(1.3, dtype=torch.float64)
        heading, x, y = poses.unbind(-1)
        x, y = x * turn.cos() - y * turn.sin() + 7, x * turn.sin() + y * turn.cos() - 2
        return torch.stack([heading + turn, x, y], dim=-1)

    together = ChunkPoses(
        moved(poses.memory), poses.memory_ages, moved(poses.local), moved(poses.target)
    )
    ours = model(noisy, timestep, **{**inputs, "poses": together})
    assert torch.allclose(ours, base, atol=1e-4)
    turned = poses._replace(memory=poses.memory + torch.tensor([1.0, 0, 0]))
    assert not torch.allclose(model(noisy, timestep, **{**inputs, "poses": turned}), base)


def test_blind_addressing_ignores_poses() -> None:
    config = pose_rotary_config()
    assert config.pose_rotary is not None
    model = randomised(replace(config, pose_rotary=replace(config.pose_rotary, time_only=True)))
    inputs = reckoned_inputs()
    noisy, timestep = noise_for(inputs, 4), torch.tensor([900.0, 200.0])
    poses = inputs["poses"]
    elsewhere = poses._replace(target=poses.target + 1, memory=poses.memory * 2)
    ours = model(noisy, timestep, **{**inputs, "poses": elsewhere})
    assert torch.equal(ours, model(noisy, timestep, **inputs))


def test_an_empty_memory_is_legal() -> None:
    model, inputs = randomised(pose_rotary_config()), reckoned_inputs()
    poses = inputs["poses"]
    empty = {
        **inputs,
        "memory": None,
        "poses": poses._replace(memory=poses.memory[:, :0], memory_ages=poses.memory_ages[:, :0]),
    }
    out = model(noise_for(inputs, 4), torch.tensor([900.0, 200.0]), **empty)
    assert out.shape == (2, 16, 4, 4, 4)


def test_wrong_conditions_are_named() -> None:
    model, inputs = randomised(published_like()), published_inputs()
    odd = {**inputs, "local": torch.randn(2, 16, 1, 5, 6)}
    with pytest.raises(ValueError, match="even, got 5x6"):
        model.context(**odd)
    with pytest.raises(ValueError, match="needs a prompt"):
        model.context(**{**inputs, "prompt": None})
    with pytest.raises(ValueError, match="takes no poses"):
        model.context(**inputs, poses=reckoned_inputs()["poses"])
    with pytest.raises(ValueError, match="4 noisy latents need as many action latents, got 5"):
        model.velocity(noise_for(inputs, 4), torch.zeros(2), model.context(**inputs))
    textless = randomised(published_like(text_width=None))
    with pytest.raises(ValueError, match="trained without text"):
        textless.context(**inputs)


def test_nothing_is_written_onto_the_module() -> None:
    model, inputs = randomised(published_like()), published_inputs()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    model(noise_for(inputs, 5), torch.tensor([900.0, 200.0]), **inputs)
    assert before == {name: set(vars(module)) for name, module in model.named_modules()}


def test_bfloat16_keeps_to_its_type_and_rounds_the_timestep_only_when_asked() -> None:
    inputs = published_inputs()
    noisy = noise_for(inputs, 5)
    exact = randomised(replace(published_like(), round_timestep=False)).bfloat16()
    rounded = randomised(published_like()).bfloat16()
    rounded.load_state_dict(exact.state_dict())
    on_grid, off_grid = torch.full((2,), 984.0), torch.full((2,), 983.0)
    assert torch.equal(exact(noisy, on_grid, **inputs), rounded(noisy, off_grid, **inputs))
    assert not torch.equal(exact(noisy, off_grid, **inputs), rounded(noisy, off_grid, **inputs))
    full = randomised(published_like())(noisy, on_grid, **inputs)
    low = exact(noisy, on_grid, **inputs)
    assert low.dtype == torch.float32
    assert (low - full).abs().max() < 0.1 * full.abs().max()


def test_saved_and_loaded_a_model_is_the_same(tmp_path: Path) -> None:
    model, inputs = randomised(pose_rotary_config()), reckoned_inputs()
    model.save_pretrained(tmp_path / "m")
    # Weights that require gradients are multiplied by other kernels.
    loaded = WorldTransformer.from_pretrained(tmp_path / "m").requires_grad_(False)
    assert loaded.config == model.config
    noisy, timestep = noise_for(inputs, 4), torch.tensor([900.0, 200.0])
    assert torch.equal(loaded(noisy, timestep, **inputs), model(noisy, timestep, **inputs))


def test_models_saved_under_former_names_are_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = randomised(pose_rotary_config())
    model.save_pretrained(tmp_path)
    weights, path = load_file(tmp_path / "model.safetensors"), tmp_path / "config.json"
    former = {
        name.replace("memory_encoder.", "latent_encoder."): weight
        for name, weight in weights.items()
    }
    assert former.keys() != weights.keys()
    save_file(former, tmp_path / "model.safetensors")
    path.write_text(path.read_text().replace('"memory_encoder"', '"memory"'))
    loaded = WorldTransformer.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert all(torch.equal(loaded.state_dict()[name], weights[name]) for name in weights)
    resumed = torch.nn.ModuleDict({"world": randomised(pose_rotary_config(), seed=1)})
    resumed.load_state_dict({f"world.{name}": weight for name, weight in former.items()})
    assert all(torch.equal(resumed.state_dict()[f"world.{n}"], weights[n]) for n in weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_damaged(
    tmp_path: Path, dtype: torch.dtype, value: float
) -> None:
    model = randomised(pose_rotary_config())
    model.save_pretrained(tmp_path, dtype)
    WorldTransformer.from_pretrained(tmp_path)
    model.head.head.bias[3] = value
    model.save_pretrained(tmp_path, dtype)
    with pytest.raises(LociError, match=r"not finite: head\.head\.bias"):
        WorldTransformer.from_pretrained(tmp_path)


def test_missing_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    randomised(pose_rotary_config()).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["head.head.bias"]
    weights["blocks.0.self_attn.q.weight"] = torch.zeros(3, 3)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(LociError, match=r"missing: head\.head\.bias.*q\.weight \[3, 3\] instead"):
        WorldTransformer.from_pretrained(tmp_path)


def test_the_shipped_configuration_is_small_and_takes_no_text() -> None:
    with torch.device("meta"):
        model = WorldTransformer(doom_transformer())
    assert sum(p.numel() for p in model.parameters()) < 12e6
    assert not any("cross_attn" in name or "text" in name for name in model.state_dict())


def test_history_of_one_latent_through_the_published_path() -> None:
    model = randomised(published_like())
    memory = published_memory(model.memory_encoder, torch.randn(1, 16, 1, 4, 6))
    assert memory.shape == (1, 16, 1, 4, 6)


def test_tokens_are_contiguous_in_every_block() -> None:
    """Sums of tokens with strided channels took a tenth of an evaluation at full width."""
    model, inputs, seen = randomised(published_like()), published_inputs(), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].is_contiguous()))
    with torch.no_grad():
        context = model.context(**inputs)
        model.velocity(noise_for(inputs, 5), torch.full((2,), 500.0), context)
    assert seen == [True] * len(model.blocks)
    assert all(block.conditioning_tokens.is_contiguous() for block in context.blocks)


def test_models_saved_under_former_names_load(tmp_path: Path) -> None:
    model = randomised(pose_rotary_config())
    assert model.config.skip_head
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    former = {name.replace("skip_head.", "detail."): x for name, x in tensors.items()}
    assert former.keys() != tensors.keys()
    save_file(former, tmp_path / "model.safetensors")
    config = (tmp_path / "config.json").read_text()
    assert '"skip_head"' in config
    (tmp_path / "config.json").write_text(config.replace('"skip_head"', '"detail"'))
    loaded = WorldTransformer.from_pretrained(tmp_path)
    assert loaded.config == model.config
    for name, x in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], x)


def test_modulation_is_the_learned_table_plus_the_projected_time() -> None:
    block = Block(dim=8, ffn_dim=16, heads=2, text=False, eps=1e-6)
    projected = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))
    given = block.modulation_at(projected)
    for k, vector in enumerate(given):
        assert torch.equal(vector, (block.modulation[:, k] + projected[:, k])[:, None])


def test_an_entry_of_a_context_is_the_context_of_that_entry() -> None:
    """With keys and values of memory and text, which are computed once."""
    model = randomised(replace(published_like(), memory_stream="fixed"))
    context = model.context(**published_inputs())
    for index in (0, 1):
        alone = context.entry(index)
        assert torch.equal(alone.frame_embedding, context.frame_embedding[index : index + 1])
        for one, both in zip(alone.blocks, context.blocks, strict=True):
            assert torch.equal(one.conditioning_tokens, both.conditioning_tokens[index : index + 1])
            for name in ("conditioning_keys_values", "text_keys_values"):
                part, whole = getattr(one, name), getattr(both, name)
                assert part is not None
                assert whole is not None
                assert torch.equal(part.keys, whole.keys[index : index + 1])
                assert torch.equal(part.values, whole.values[index : index + 1])
