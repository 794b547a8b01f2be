"""A pretend accelerator: tensors on `pretend:0` compute on the CPU, but refuse what a GPU would.

Refused are operations over tensors on two devices, random numbers from the other device's
generator, `numpy()` of a tensor on the device, and float64 (MPS has none). So errors that only an
accelerator shows are found without one.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "pretend"
BETWEEN_DEVICES = {"aten::copy_", "aten::_to_copy", "aten::lift_fresh"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}

_new_tensor, _Generator = torch.tensor, torch.Generator


class PretendGenerator(_Generator):
    """A generator that may be one of the device; torch hands on its address only."""

    on_device: "ClassVar[dict[int, PretendGenerator]]" = {}

    def __new__(cls, device: Any = "cpu") -> "PretendGenerator":
        generator = super().__new__(cls)
        if is_pretend(device):
            cls.on_device[address(generator)] = generator
        return generator

    def __init__(self, device: Any = "cpu") -> None:
        pass


class PretendTensor(torch.Tensor):
    """A tensor on the device; `on_cpu` holds its numbers."""

    on_cpu: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    @staticmethod
    def __new__(cls, on_cpu: torch.Tensor) -> "PretendTensor":
        if on_cpu.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{NAME}: {on_cpu.dtype} is not supported")
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            on_cpu.shape,
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            device=torch.device(NAME, 0),
        )
        tensor.on_cpu = on_cpu
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})

    def __repr__(self, **options: Any) -> str:
        return f"{self.on_cpu!r} on {self.device}"

    def tolist(self) -> Any:
        return self.on_cpu.tolist()

    def new_tensor(self, data: Any, dtype: Any = None, device: Any = None) -> torch.Tensor:
        return _new_tensor(data, dtype=dtype or self.dtype).to(device or self.device)

    def __getitem__(self, rows: Any) -> torch.Tensor:
        return torch.Tensor.__getitem__(self, _indices(rows))

    def __setitem__(self, rows: Any, values: Any) -> None:
        torch.Tensor.__setitem__(self, _indices(rows), values)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.on_cpu.__reduce_ex__(protocol)

    def numpy(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy")

    __array__ = numpy


def address(generator: Any) -> int:
    return generator._cdata


def is_pretend(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs an operation on the CPU, on the numbers of the tensors, and says where its result is."""
    name = func._schema.name
    given = tree_flatten((args, kwargs))[0]
    tensors = [value for value in given if isinstance(value, torch.Tensor)]
    on_device = any(isinstance(tensor, PretendTensor) for tensor in tensors)
    if on_device and name not in BETWEEN_DEVICES:
        _refuse_mixed(func, args, tensors)
    if name == "aten::copy_":
        on_device = isinstance(args[0], PretendTensor)
    elif kwargs.get("device") is not None:
        on_device = is_pretend(kwargs["device"])
    for value in given:
        generator = isinstance(value, _Generator)
        if generator and (address(value) in PretendGenerator.on_device) != on_device:
            raise RuntimeError(f"{name}: expected a generator on the device of the tensor")
    result = func(*tree_map(_on_cpu, args), **tree_map(_on_cpu, kwargs))
    first = args[0] if args else None
    if func._schema.is_mutable and isinstance(first, torch.Tensor) and result is _on_cpu(first):
        return first
    for value in kwargs.values():  # out=
        if isinstance(value, PretendTensor) and result is value.on_cpu:
            return value
    return tree_map(_on_device, result) if on_device else result


def _refuse_mixed(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    name = func._schema.name
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor)]
    if name in INDEXING:  # rows may lie on the CPU when what they index is on the device
        values = args[2:3]
        elsewhere = [t for t in (args[0], *values) if not isinstance(t, PretendTensor)]
        if isinstance(args[0], PretendTensor):
            elsewhere = [tensor for tensor in elsewhere if tensor.dim() > 0]
    elif torch.Tag.pointwise in func.tags:  # a CPU scalar may meet tensors of the device
        sized = [tensor for tensor in tensors if tensor.dim() > 0]
        if not sized or all(isinstance(tensor, PretendTensor) for tensor in sized):
            elsewhere = []
    if elsewhere:
        shapes = ", ".join(f"{list(t.shape)} on {t.device}" for t in tensors)
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, got {shapes}")


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == NAME else value
    return value.on_cpu if isinstance(value, PretendTensor) else value


def _on_device(value: Any) -> Any:
    plain = isinstance(value, torch.Tensor) and not isinstance(value, PretendTensor)
    return PretendTensor(value) if plain else value


def _indices(rows: Any) -> Any:
    """Lists among indices as tensors: torch would make them on the device by itself."""
    if isinstance(rows, tuple):
        return tuple(map(_indices, rows))
    return torch.as_tensor(rows) if isinstance(rows, list) else rows


class _Dispatch(TorchDispatchMode):
    """Also sees what makes tensors out of nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


def _tensor(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
    made = _new_tensor(data, device=None if is_pretend(device) else device, **options)
    return made.to(device) if is_pretend(device) else made


class _Backend(backend_registration._DummyBackendModule):
    """What torch asks about the device; other tests of the process must not find it."""

    available = False

    def is_available(self) -> bool:
        return self.available

    def device_count(self) -> int:
        return int(self.available)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float32]


def _register() -> None:
    """Once a process: a backend cannot be taken back."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend())


def prepare() -> None:
    """Before the first backward pass of a process: autograd counts its devices only once."""
    _register()
    _Backend.available = True
    torch.zeros(1, requires_grad=True).sum().backward()
    _Backend.available = False


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The pretend accelerator, there until the test ends."""
    _register()
    monkeypatch.setattr(_Backend, "available", True)
    monkeypatch.setattr(torch, "tensor", _tensor)
    monkeypatch.setattr(torch, "Generator", PretendGenerator)
    with _Dispatch():
        yield torch.device(NAME, 0)
    PretendGenerator.on_device.clear()
