"""Muon for the matrices inside a network, AdamW for everything else, as one optimiser.

torch has a Muon of its own, which orthogonalises in bfloat16: two orders of magnitude slower on a
processor that has to emulate it. Here the type is the caller's to say.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that Muon iterates (Jordan et al., 2024)."""
ITERATIONS = 5
MOMENTUM = 0.95
ADAM_BETAS = (0.9, 0.98)


@torch.no_grad()
def orthogonalised(
    matrix: Float[Tensor, "m n"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "m n"]:
    """The matrix with singular values near 1 (0.7 to 1.2), by Newton and Schulz's iteration.

    Args:
        matrix: any, in float32.
        dtype: of matrix products; the iteration tolerates bfloat16.
    """
    a, b, c = COEFFICIENTS
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T, dtype).T
    x = (matrix / matrix.norm().clamp(min=1e-7)).to(dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; of weights with two or more dimensions.

    Steps are scaled by 0.2 sqrt(max(m, n)), so that learning rate and decay are those of AdamW
    (Liu et al., "Muon is scalable for LLM training", 2025). Convolutions are taken as matrices of
    one row per output channel. `dtype` is that of matrix products.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.01,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; parameters without a gradient stay as they are."""
        assert closure is None, "this optimiser does not evaluate its loss"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                momentum = state.setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                step = self._direction(weight.grad.lerp(momentum, MOMENTUM))
                longer = max(len(weight), weight.numel() // len(weight))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(step, alpha=-0.2 * group["lr"] * longer**0.5)

    def _direction(self, nesterov: Tensor) -> Tensor:
        """The orthogonalised step of a weight. Of one that is sharded every process makes all rows,
        which are not orthogonalised one by one, and keeps its share."""
        if not isinstance(nesterov, DTensor):
            return orthogonalised(nesterov.flatten(1), self.dtype).view_as(nesterov)
        whole = nesterov.full_tensor()
        step = orthogonalised(whole.flatten(1), self.dtype).view_as(whole)
        return distribute_tensor(
            step, nesterov.device_mesh, nesterov.placements, src_data_rank=None
        )


class MuonWithAdam(torch.optim.Optimizer):
    """Muon for the weights of a model whose names contain one of `hidden`, AdamW for the rest.

    First and last layers, embeddings, biases and gains are no maps between hidden states and
    belong to AdamW.
    """

    def __init__(
        self,
        model: nn.Module,
        hidden: tuple[str, ...],
        lr: float,
        weight_decay: float = 0.01,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if is_matrix(name, p) and any(h in name for h in hidden)]
        chosen = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in chosen]
        if not matrices or not rest:
            raise ValueError(f"{hidden} names {len(matrices)} of {len(named)} parameters")
        self.parts = (
            Muon(matrices, lr, weight_decay, dtype),
            torch.optim.AdamW(rest, lr=lr, betas=ADAM_BETAS, weight_decay=weight_decay),
        )
        super().__init__([*matrices, *rest], {"lr": lr})
        self.param_groups = list(chain.from_iterable(part.param_groups for part in self.parts))

    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for part in self.parts:
            part.step(closure)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError where the state is another optimiser's."""
        states = state_dict.get("parts", [])
        if len(states) != len(self.parts):
            raise ValueError("not the state of Muon beside AdamW")
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
        # Loading replaces the groups; a schedule must reach those that step.
        self.param_groups = list(chain.from_iterable(part.param_groups for part in self.parts))


def is_matrix(name: str, parameter: Tensor) -> bool:
    """A weight with rows and columns."""
    return name.endswith("weight") and parameter.ndim >= 2
