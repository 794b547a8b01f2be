from copy import deepcopy
from typing import cast

import pytest
import torch
from torch import nn

from loci.train.optim import Muon, MuonWithAdam, orthogonalised


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2)
    )


def optimizer(model: nn.Module) -> MuonWithAdam:
    return MuonWithAdam(model, ("2.",), lr=2e-2)


@pytest.mark.parametrize("shape", [(12, 12), (8, 30), (30, 8)])
def test_all_directions_of_a_step_are_equally_long(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert (
        nn.functional.cosine_similarity(orthogonalised(matrix).flatten(), (u @ v).flatten(), dim=0)
        > 0.98
    )


def test_it_forgives_the_narrow_type() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(24, 40)
    narrow = orthogonalised(matrix, torch.bfloat16)
    assert narrow.dtype is torch.float32
    wide = orthogonalised(matrix)
    cosine = nn.functional.cosine_similarity(narrow.flatten(), wide.flatten(), dim=0)
    assert cosine > 0.99
    assert not torch.equal(narrow, wide)


def test_it_learns_and_the_matrix_inside_moves_by_the_rate() -> None:
    model = network()
    steps = optimizer(model)
    inputs = torch.randn(64, 6)
    targets = torch.stack([inputs.sum(dim=1), inputs[:, 0] * inputs[:, 1]], dim=1)
    losses = []
    for number in range(60):
        middle = cast(nn.Linear, model[2])
        inner, bias = middle.weight.detach().clone(), middle.bias.detach().clone()
        loss = (model(inputs) - targets).square().mean()
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
        if number == 0:
            moved = (middle.weight - inner).square().mean().sqrt().item()
            assert moved == pytest.approx(0.2 * 2e-2, rel=0.3), "as long as a step of AdamW"
            assert not torch.equal(middle.bias, bias), "biases are AdamW's"
    assert losses[-1] < 0.2 * losses[0]


def test_a_schedule_reaches_both_and_a_state_comes_back() -> None:
    first, second = network(), network()
    whole, resumed = optimizer(first), optimizer(second)

    def step(model: nn.Module, steps: MuonWithAdam, number: int) -> None:
        for group in steps.param_groups:
            group["lr"] = 1e-2 / (number + 1)
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(number))
        steps.zero_grad()
        model(inputs).square().mean().backward()
        steps.step()

    for number in range(3):
        step(first, whole, number)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(deepcopy(whole.state_dict()))
    for number in range(3, 6):
        step(first, whole, number)
        step(second, resumed, number)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    frozen = [p.detach().clone() for p in first.parameters()]
    for group in whole.param_groups:
        group["lr"] = 0.0
    first(torch.randn(2, 6)).sum().backward()
    whole.step()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), frozen, strict=True))


def test_what_it_cannot_take() -> None:
    with pytest.raises(ValueError, match="names 0 of 6"):
        MuonWithAdam(network(), ("blocks.",), lr=1.0)
    adam = torch.optim.AdamW(network().parameters())
    with pytest.raises(ValueError, match="not the state"):
        optimizer(network()).load_state_dict(adam.state_dict())


def test_a_step_looks_ahead_along_the_momentum() -> None:
    """Nesterov: of the gradient and the momentum after it, not of the momentum alone."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(8, 8))
    muon = Muon([weight], lr=1.0, weight_decay=0.0)
    first, second = torch.randn(2, 8, 8)
    momentum = 0.05 * first
    for gradient in (first, second):
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        muon.step()
        step = (weight.detach() - before) / (-0.2 * 8**0.5)
    momentum = 0.95 * momentum + 0.05 * second
    torch.testing.assert_close(step, orthogonalised(0.05 * second + 0.95 * momentum))
    assert not torch.allclose(step, orthogonalised(momentum), atol=1e-2)


def test_weights_decay_by_the_rate() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    muon = Muon([weight], lr=0.1, weight_decay=0.5)
    weight.grad = torch.zeros(4, 4)
    muon.step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 1 - 0.1 * 0.5))
