"""What accelerators ask of the published transformers: no graph breaks, no waiting, no masks."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

from loci.flow import interval_guidance, rescaled_times, sample
from loci.nn import attention
from loci.objects.models.structure_flow import StructureFlow, StructureFlowConfig
from loci.world import sampling as world_sampling
from loci.world.config import SamplingConfig
from loci.world.sampling import sample_latents
from loci.world.transformer import TransformerConfig
from tests import pretend_device
from tests.pretend_device import PretendTensor
from tests.pretend_device import pretend as pretend
from tests.world.models import published_like, randomised
from tests.world.test_two_processes import chunk

SMALL_FLOW = StructureFlowConfig(16, 16, 2, 2, resolution=2, frequencies=16)
READS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero"}


def structure() -> tuple[StructureFlow, dict[str, torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    flow = StructureFlow(SMALL_FLOW).eval().requires_grad_(False)
    return flow, flow.noise(1, torch.Generator().manual_seed(0)), torch.randn(1, 5, 16)


@pytest.fixture
def compiled() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@torch.no_grad()
def test_the_transformers_compile_without_graph_breaks(compiled: None) -> None:
    model = randomised(published_like())
    noise, context = chunk(model)
    noisy, timestep = noise.expand(2, -1, -1, -1, -1), torch.full((2,), 700.0)
    whole = torch.compile(model.velocity, fullgraph=True, backend="eager")
    expected = model.velocity(noisy, timestep, context)
    torch.testing.assert_close(whole(noisy, timestep, context), expected)
    flow, latents, condition = structure()
    keys, time = flow.context(condition), torch.full((1,), 250.0)
    whole = torch.compile(flow.velocity, fullgraph=True, backend="eager")
    found, expected = whole(latents, time, keys), flow.velocity(latents, time, keys)
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x)


class Waits:
    """Counts what makes the host wait for the device, while it is switched on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on, self.names = False, list[str]()
        plain = pretend_device.dispatched

        def noted(func: Any, args: Any, kwargs: Any) -> Any:
            name, first = func._schema.name, args[0] if args else None
            read = name in READS and isinstance(first, PretendTensor)
            result = plain(func, args, kwargs)
            here = isinstance(result, torch.Tensor) and not isinstance(result, PretendTensor)
            source = args[1] if name == "aten::copy_" else first
            brought = name in pretend_device.BETWEEN_DEVICES and here
            if self.on and (read or (brought and isinstance(source, PretendTensor))):
                self.names.append(name)
            return result

        monkeypatch.setattr(pretend_device, "dispatched", noted)


def test_waiting_is_counted(pretend: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch)
    x = torch.ones(3).to(pretend)
    x.sum().item()
    waits.on = True
    _ = x * 2 + x.to(torch.bfloat16)
    assert waits.names == []
    x.sum().item()
    assert len(waits.names) == 1
    bool(x.any())
    x.cpu()
    assert len(waits.names) == 3


@torch.no_grad()
def test_a_step_never_waits_for_the_device(
    pretend: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the beginning of the first step to that of the last, and within it."""
    model = randomised(published_like())
    noise, context = chunk(model)
    there = tree_map(lambda x: x.to(pretend) if isinstance(x, torch.Tensor) else x, context)
    model, waits = model.to(pretend), Waits(monkeypatch)
    sampling, steps = SamplingConfig(steps=3), []

    def report_step(step: int, count: int) -> None:
        waits.on = True
        steps.append(step)

    on_device = noise.to(pretend)
    for limit in (8192, 1):  # both prompts at once, and one after the other
        monkeypatch.setattr(world_sampling, "MAX_BATCHED_TOKENS", limit)
        sample_latents(model, on_device, there, sampling, report_step=report_step)
        waits.on = False
    assert steps == [0, 1, 2] * 2
    assert waits.names == []

    flow, latents, condition = structure()
    flow = flow.to(pretend)
    keys = flow.context(condition.to(pretend))
    guided = interval_guidance(
        lambda state, time: flow.velocity(state, time, keys),
        lambda state, time: flow.velocity(state, time, None),
        *(5.0, (0.0, 500.0)),
    )

    def begin(step: int, state: Any) -> None:
        waits.on = True

    latents = {name: x.to(pretend) for name, x in latents.items()}
    times = rescaled_times(4, 3.0)[:-1] * 1000
    sample(guided, latents, times, on_step=begin, end=1.0)
    assert waits.names == []


@torch.no_grad()
def test_attention_takes_the_fused_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """No masks, one element type, channels side by side; head sizes that the kernels know."""
    calls, fused = [], attention.F.scaled_dot_product_attention

    def noted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: Any = None) -> Any:
        calls.append((q, k, v, attn_mask))
        return fused(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", noted)
    model = randomised(published_like()).bfloat16()
    noise, context = chunk(model)
    model.velocity(noise.expand(2, -1, -1, -1, -1), torch.full((2,), 700.0), context)
    flow, latents, condition = structure()
    flow.bfloat16().velocity(latents, torch.full((1,), 250.0), flow.context(condition))
    assert len(calls) >= 2 * (2 + 1) + 2 * 2 * 2
    for q, k, v, mask in calls:
        assert mask is None
        assert q.dtype == k.dtype == v.dtype == torch.bfloat16
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    world, objects = TransformerConfig(), StructureFlowConfig()
    assert world.dim // world.heads == 128
    assert objects.dim // objects.heads == 64
