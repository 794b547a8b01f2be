"""Our transformer, compressor, sampler and loss against the published implementation."""

from itertools import pairwise

import pytest
import torch

from loci.flow import TIMESTEPS, add_noise, batched_guidance, euler_timesteps, flow_loss, sample
from loci.io.weight_checks import current_names
from loci.io.weights import load_strict
from loci.memory.hpmc import HPMCConfig, HPMCEncoder, WindowPlan, published_memory
from loci.nn.embeddings import grid_rotary_embedding
from loci.nn.norms import gated_residual
from loci.world.block import Block
from loci.world.conditioning import ActionEncoder, ActionEncoderConfig, Actions, Prompt
from loci.world.transformer import TransformerConfig, WorldTransformer
from tests.parity.conftest import Fixture, relative_error

LIMIT = 5e-6


def transformer_config(config: dict) -> TransformerConfig:
    """The sidecar's names to ours."""
    return TransformerConfig(
        dim=config["dim"],
        ffn_dim=config["ffn_dim"],
        blocks=config["num_layers"],
        heads=config["num_heads"],
        frequencies=config["freq_dim"],
        text_width=config["caption_channels"],
        actions=ActionEncoderConfig(
            embedding=config["action_embed_dim"], hidden=config["action_hidden_dim"]
        ),
        memory_encoder=HPMCConfig(hidden=config["hpmc_hidden_dim"], heads=config["hpmc_num_heads"]),
    )


def transformer(fixture: Fixture, prefix: str = "") -> WorldTransformer:
    model = WorldTransformer(transformer_config(fixture.sidecar["config"]))
    weights = {
        k.removeprefix(prefix): v for k, v in fixture.weights.items() if k.startswith(prefix)
    }
    load_strict(model, weights, fixture.name)
    return model.eval()


def memory_encoder(fixture: Fixture, prefix: str = "") -> HPMCEncoder:
    sidecar = fixture.sidecar
    config = HPMCConfig(
        in_channels=sidecar["in_channels"],
        hidden=sidecar["hidden_dim"],
        heads=sidecar["num_heads"],
    )
    encoder = HPMCEncoder(config)
    weights = {name.removeprefix(prefix): tensor for name, tensor in fixture.weights.items()}
    load_strict(encoder, weights, fixture.name)
    return encoder.eval()


def conditions(inputs: dict, history: torch.Tensor, model: WorldTransformer) -> dict:
    return {
        "memory": published_memory(model.memory_encoder, history),
        "local": history[:, :, -1:],
        "actions": Actions(inputs["move"], inputs["view"]),
        "prompt": Prompt(inputs["text"][:, 0], inputs["text_mask"]),
    }


def case_numbers(tensors: dict) -> list[str]:
    return sorted({name.split("/")[0] for name in tensors})


def of_case(tensors: dict, number: str) -> dict:
    prefix = number + "/"
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@pytest.mark.kind("action_encoder")
def test_action_encoder(fixture: Fixture) -> None:
    s = fixture.sidecar
    config = ActionEncoderConfig(s["vocab_size"], s["embed_dim"], s["hidden_dim"], s["groups"])
    encoder = ActionEncoder(config, s["out_dim"])
    load_strict(encoder, fixture.weights, fixture.name)
    for length in s["lengths"]:
        ours = encoder(fixture.inputs[f"move_{length}"], fixture.inputs[f"view_{length}"])
        assert relative_error(ours, fixture.outputs[f"action_{length}"]) < LIMIT


@pytest.mark.kind("hpmc_encoder")
def test_memory_encoder(fixture: Fixture) -> None:
    encoder = memory_encoder(fixture)
    for i in range(len(fixture.sidecar["cases"])):
        ours = encoder(fixture.inputs[f"latents_{i}"])
        assert relative_error(ours, fixture.outputs[f"encoded_{i}"]) < LIMIT


@pytest.mark.kind("hpmc_memory")
def test_published_memory(fixture: Fixture) -> None:
    encoder = memory_encoder(fixture, "latent_encoder.")
    s = fixture.sidecar
    plan = WindowPlan(s["direct_limit"], s["window"], s["num_windows"])
    for name, history in fixture.inputs.items():
        length = name.removeprefix("history_")
        ours = published_memory(encoder, history, plan)
        assert ours.shape[2] <= s["max_memory"]
        assert relative_error(ours, fixture.outputs[f"memory_{length}"]) < LIMIT
        assert relative_error(history[:, :, -1:], fixture.outputs[f"local_{length}"]) == 0


def rotary_table(sidecar: dict, positions: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Row p: the angles of position p on each axis: time, then rows, then columns."""
    time, vertical, horizontal = sidecar["rope_pairs"]
    lengths = ((positions, 1, 1), (1, positions, 1), (1, 1, positions))
    ends = (0, time, time + vertical, time + vertical + horizontal)
    ranges = [slice(*pair) for pair in pairwise(ends)]
    axes = [grid_rotary_embedding(*length, sidecar["head_dim"]) for length in lengths]
    cos = torch.cat([axis.cos[:, r] for axis, r in zip(axes, ranges, strict=True)], dim=1)
    sin = torch.cat([axis.sin[:, r] for axis, r in zip(axes, ranges, strict=True)], dim=1)
    return cos, sin


@pytest.mark.kind("dit_block")
def test_block(fixture: Fixture) -> None:
    s, given, expected = fixture.sidecar, fixture.inputs, fixture.outputs
    block = Block(s["dim"], s["ffn_dim"], s["num_heads"], text=True, eps=s["eps"])
    load_strict(block, fixture.weights, fixture.name)
    height, width = s["grid"]
    at = grid_rotary_embedding(s["memory_frames"] + s["noisy_frames"], height, width, s["head_dim"])
    for name, ours in zip(("cos", "sin"), rotary_table(s), strict=True):
        assert relative_error(ours, expected[f"rope_{name}"]) < LIMIT

    m = s["memory_tokens"]
    memory, noisy = given["tokens"][:, :m], given["tokens"][:, m:]
    memory_at, noisy_at = at.slice(None, m), at.slice(m, None)
    now, still = (
        block.modulation_at(given["modulation_t"]),
        block.modulation_at(given["modulation_0"]),
    )
    text = block.text_keys_values(given["context"])

    attended = block.attend_conditioning(memory, still, memory_at)
    assert relative_error(attended, expected["attn_memory"]) < LIMIT
    after = gated_residual(memory, attended, still.gate1)
    assert relative_error(after, expected["after_self_attn_memory"]) < LIMIT
    keys = block.conditioning_keys_values(block.norm(memory), memory_at, now)
    assert relative_error(block.attend(noisy, now, noisy_at, keys), expected["attn_noisy"]) < LIMIT
    advanced = block.forward_conditioning(memory, still, memory_at, text)
    ours = torch.cat([advanced, block(noisy, now, noisy_at, keys, text)], dim=1)
    assert relative_error(ours, expected["tokens"]) < LIMIT


@pytest.mark.kind("dit_forward")
def test_forward(fixture: Fixture) -> None:
    model = transformer(fixture)
    for number in case_numbers(fixture.inputs):
        given, expected = of_case(fixture.inputs, number), of_case(fixture.outputs, number)
        given_conditions = conditions(given, given["history"], model)
        conditioning = torch.cat([given_conditions["memory"], given_conditions["local"]], dim=2)
        sequence = torch.cat(
            [
                model.add_mask_channels(conditioning, 1.0),
                model.add_mask_channels(given["noisy"], 0.0),
            ],
            dim=2,
        )
        assert relative_error(sequence, expected["sequence"]) < LIMIT
        ours = model(given["noisy"], given["timestep"], **given_conditions)
        assert relative_error(ours, expected["velocity"]) < LIMIT


@pytest.mark.kind("sampler")
def test_sampler(fixture: Fixture) -> None:
    s, given, expected = fixture.sidecar, fixture.inputs, fixture.outputs
    model = transformer(fixture)
    timesteps = euler_timesteps(s["steps"], s["shift"])
    assert relative_error(timesteps, expected["timesteps"]) < 1e-6
    history = given["history"].repeat(2, 1, 1, 1, 1)
    context = model.context(**conditions(given, history, model))
    states = []
    result = sample(
        batched_guidance(
            lambda x, t: {"video": model.velocity(x["video"], t, context)}, s["guidance_scale"]
        ),
        {"video": given["noise"]},
        timesteps,
        on_step=lambda step, state: states.append(state["video"]),
    )
    assert relative_error(torch.cat(states), expected["states"]) < 2e-5
    assert relative_error(result["video"], expected["latents"]) < 2e-5


@pytest.mark.kind("training_loss")
def test_training_loss(fixture: Fixture) -> None:
    model = transformer(fixture)
    for number in case_numbers(fixture.inputs):
        given, expected = of_case(fixture.inputs, number), of_case(fixture.outputs, number)
        data, noise, timestep = (given[k] for k in ("target_latents", "noise", "timestep"))
        model.zero_grad()
        with torch.enable_grad():
            noisy = add_noise(data, noise, timestep / TIMESTEPS)
            velocity = model(noisy, timestep, **conditions(given, given["history"], model))
            loss = flow_loss(velocity, data, noise)
            loss.sum().backward()
        assert relative_error(loss.detach(), expected["loss"]) < 1e-5
        published = {new: old for old, new in model.FORMER_TENSORS.items()}
        gradients = current_names({n: p.grad for n, p in model.named_parameters()}, published)
        checked = [name for name in expected if name.startswith("grad/")]
        assert checked
        for name in checked:
            ours = gradients[name.removeprefix("grad/")]
            assert ours is not None, name
            assert relative_error(ours, expected[name]) < 1e-4, name
