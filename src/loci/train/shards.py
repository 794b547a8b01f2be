"""Weights, gradients, optimiser state and average of a training, each process holding a share.

torch shards a module in place (FSDP2): every parameter becomes a `DTensor`, of which a process
holds some rows. They are whole from the module's forward pass to the end of its backward pass, and
for a while where a model is used in another way (`whole`). Checkpoints hold whole tensors, so that
a training goes on with any number of processes, sharded or not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import AveragedModel

from loci.train.run_directory import Stateful


def shard(
    module: nn.Module, mesh: DeviceMesh, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Leave this process its share of the parameters of a module, which is changed in place.

    Args:
        module: equal on all processes.
        mesh: of the processes.
        optimizer: of these parameters, whose place the shares take; without state yet.
    """
    before = dict(module.named_parameters())
    for parameter in before.values():  # as `fully_shard` needs them; a codec's are channels last
        parameter.data = parameter.data.contiguous()
    fully_shard(module, mesh=mesh)
    if optimizer is None:
        return
    after = {id(before[name]): share for name, share in module.named_parameters()}
    for group in optimizer.param_groups:
        group["params"] = [after[id(parameter)] for parameter in group["params"]]


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Within the block every process holds the whole module, if it is sharded: for reading."""
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


def gathered(state: Any) -> Any:
    """The same dicts and lists with whole tensors on the CPU in place of shares. All processes call
    it."""
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, Mapping):
        return {name: gathered(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(gathered(value) for value in state)
    return state


class ShardedTraining:
    """A model, its optimiser and its average, sharded in place.

    Args:
        model: equal on all processes.
        optimizer: of its parameters, without state yet.
        average: of the model.
        device: of all of them.
        processes: that train.

    Attributes:
        whole: a module of its own that holds the whole average for as long as it is used.
        parts: of a checkpoint, with whole tensors.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: AveragedModel,
        device: torch.device,
        processes: int,
    ) -> None:
        mesh = init_device_mesh(device.type, (processes,))
        self.whole, self._average = WholeCopy(average.module), average
        shard(model, mesh, optimizer)
        shard(average.module, mesh)
        self.parts: dict[str, Stateful] = {
            "model": _Shares(model),
            "optimizer": _OptimizerShares(optimizer),
            "average": _Shares(average),
        }

    def whole_average(self, keep: bool = True) -> nn.Module:
        """The averaged model on processes that `keep` it, an empty one on others; all of them call
        this."""
        self.whole.fill(self._average.module, keep)
        return self.whole.module


class _Shares:
    """A sharded module, whose state are whole tensors."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def state_dict(self) -> dict[str, Any]:
        return gathered(self.module.state_dict())

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        own = self.module.state_dict()
        self.module.load_state_dict(
            {name: _share_like(value, own.get(name)) for name, value in state.items()}
        )


class _OptimizerShares:
    """The optimiser of a sharded module, whose state are whole tensors."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        return gathered(self.optimizer.state_dict())

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.optimizer.load_state_dict(state)
        for part in getattr(self.optimizer, "parts", (self.optimizer,)):
            for parameter, values in part.state.items():
                for name, value in values.items():
                    if value.shape == parameter.shape:
                        values[name] = _share_like(value, parameter)


def _share_like(value: Tensor, share: Tensor | None) -> Tensor:
    """This process's share of a whole tensor, where `share` is one."""
    if not isinstance(share, DTensor):
        return value
    value = value.to(share.device)
    return distribute_tensor(value, share.device_mesh, share.placements, src_data_rank=None)


class WholeCopy:
    """A module of its own, which holds the whole weights of a sharded one while it is used.

    Args:
        module: not sharded yet.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module)
        self.empty()

    def fill(self, source: nn.Module, keep: bool = True) -> None:
        """Take the weights of a sharded module; to be called by all processes, of which those
        without `keep` take none."""
        own = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        for name, value in source.state_dict().items():
            found = value.full_tensor() if isinstance(value, DTensor) else value
            if keep:
                own[name].data = found.detach().clone()

    def empty(self) -> None:
        """Let the weights go."""
        for parameter in self.module.parameters():
            parameter.data = parameter.data.new_empty(0)
