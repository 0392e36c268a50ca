"""A pretend accelerator on a machine without one: `pretend_device()` gives PyTorch a "pretend:0" while a test runs.

Its tensors hold their numbers on the host, out of reach: every operation passes through `PretendDevice`, which

- refuses an operation that mixes tensors of the device with tensors of the host, as CUDA does. Single numbers of the
  host are taken, as CUDA takes them; an index of the host, which CUDA would copy silently, is refused as well;
- refuses `.numpy()` and `.tolist()`, and counts what crosses the border: ``to_device`` and ``to_host`` (tensors), and
  ``reads`` (single numbers); ``waits`` are those of all these for which the host waits;
- leaves a copy to the host with ``non_blocking`` full of `UNREADY` until an event recorded after it is waited for;
- draws random numbers from generators of the device alone, by all 64 bits of their seed, and keeps the list ``draws``
  of their seeds, operations and shapes;
- runs out of memory, with CUDA's own class of error, at any tensor of more than ``largest`` bytes.

The device is PyTorch's own place for backends written in Python; autograd, indexing and linear algebra work on it. What
it cannot show: the numbers of CUDA's kernels, their speed, and what only a driver refuses. Tests marked ``cuda`` run on
a real device where there is one.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

KIND = "pretend"
DEVICE = f"{KIND}:0"
UNREADY = -77
aten = torch.ops.aten
RealGenerator = torch.Generator


class DeviceTensor(torch.Tensor):
    """A tensor of the device; ``held`` are its numbers, on the host."""

    held: torch.Tensor
    owner: PretendDevice

    @staticmethod
    def __new__(cls, held: torch.Tensor, owner: PretendDevice) -> DeviceTensor:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, device=DEVICE, **layout)
        made.held, made.owner = held, owner
        return made

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=DEVICE)

    def __repr__(self) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        owner = next(t.owner for t in _tensors(args, kwargs or {}) if isinstance(t, DeviceTensor))
        return owner.run(func, args, kwargs or {})


class DeviceGenerator(RealGenerator):
    """A generator of the device: its stream is a function of a 64-bit seed, by which the device finds it."""

    streams: dict[int, np.random.Philox] = {}  # noqa: RUF012 - of the whole process, emptied for each device

    def manual_seed(self, seed: int) -> DeviceGenerator:
        super().manual_seed(seed)
        self.streams[self.initial_seed()] = np.random.Philox(key=self.initial_seed() % 2**64)
        return self


class _OfEither(type(RealGenerator)):
    def __call__(cls, device: torch.device | str = "cpu") -> RealGenerator:
        return DeviceGenerator() if torch.device(device).type == KIND else RealGenerator(device=device)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, RealGenerator)


class AnyGenerator(RealGenerator, metaclass=_OfEither):
    """What stands for `torch.Generator`: makes generators of the device and of the host."""


def _tensors(args: Any, kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Yield the tensors among arguments and in lists of them; quickly, as every operation of the host comes by too."""
    for value in (*args, *kwargs.values()):
        for found in value if isinstance(value, list | tuple) else (value,):
            if isinstance(found, torch.Tensor):
                yield found


class PretendDevice(TorchDispatchMode):
    """The device and what has been done on it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or PyTorch loads its compiler, only to tell it to leave this class alone

    def __init__(self) -> None:
        super().__init__()
        self.to_device = self.to_host = self.reads = self.waits = self.operations = self.refused = 0
        self.draws: list[tuple[int, str, tuple[int, ...]]] = []
        self.largest = math.inf
        self.pending: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Evaluate one operation, on the host, on the device or from one to the other."""
        tensors = list(_tensors(args, kwargs))
        here = any(isinstance(t, DeviceTensor) for t in tensors)
        devices = [kwargs.get("device"), *(a for a in args if isinstance(a, torch.device))]
        asked = next((torch.device(device).type for device in devices if device is not None), None)
        if func is aten._to_copy.default:
            return self._copied(args[0], kwargs, asked)
        if func is aten.copy_.default:
            return self._copied_into(*args[:2])
        if not here and asked != KIND:
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # in inference mode these come here whole
                return func.decompose(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            self.reads += 1
            self.waits += 1
            return args[0].held.item()
        if any(not isinstance(t, DeviceTensor) and t.ndim for t in tensors):
            raise RuntimeError(f"Expected all tensors to be on the same device, got {DEVICE} and cpu in {func}")
        return self._evaluated(func, args, kwargs)

    def _evaluated(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        self.operations += 1
        inner_args, inner = tree_map_only(DeviceTensor, lambda t: t.held, (args, kwargs))
        if inner.get("device") is not None:
            inner["device"] = "cpu"
        drawn = torch.Tag.nondeterministic_seeded in func.tags
        found = self._drawn(func, inner_args, inner) if drawn else func(*inner_args, **inner)
        flat, form = tree_flatten(found)
        wrapped = [self._placed(t) if isinstance(t, torch.Tensor) else t for t in flat]
        return return_and_correct_aliasing(func, args, kwargs, tree_unflatten(wrapped, form))

    def _placed(self, held: torch.Tensor) -> DeviceTensor:
        if held.numel() * held.element_size() > self.largest:
            self.refused += 1
            raise torch.OutOfMemoryError(f"out of memory on {DEVICE}")
        return DeviceTensor(held.resolve_conj().resolve_neg(), self)

    def _drawn(self, func: Any, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        """Return what a random operation draws; those that nothing uses are not there."""
        generator = kwargs.pop("generator", None)
        seed = None if generator is None else generator.initial_seed()
        if seed is None or seed not in DeviceGenerator.streams:
            raise RuntimeError(f"Expected a generator of {DEVICE}, got {generator} in {func}")
        bits, tensor = DeviceGenerator.streams[seed], args[0]
        self.draws.append((seed, func._schema.name, tuple(getattr(tensor, "shape", tensor))))
        if func is aten.random_.default and tensor.dtype == torch.int64:
            values = (bits.random_raw(tensor.numel()) >> np.uint64(1)).astype(np.int64)
        elif func is aten.normal_.default and tensor.dtype == torch.float64:
            values = np.random.Generator(bits).standard_normal(tensor.numel())
        else:
            raise RuntimeError(f"{func} is not there on {DEVICE}, or not of this type")
        return tensor.copy_(torch.from_numpy(values).reshape(tensor.shape))

    def _copied(self, source: torch.Tensor, kwargs: dict[str, Any], asked: str | None) -> torch.Tensor:
        here = isinstance(source, DeviceTensor)
        target = asked or (KIND if here else "cpu")
        self.waits += here != (target == KIND) and not kwargs.get("non_blocking")
        plain = {name: value for name, value in kwargs.items() if name not in ("device", "pin_memory")}
        made = aten._to_copy.default(source.held if here else source, **plain)
        if target == KIND:
            self.to_device += not here
            return self._placed(made)
        self.to_host += here
        if not (here and kwargs.get("non_blocking")):
            return made
        unready = torch.full_like(made, UNREADY)
        self.pending.append((unready, made))
        return unready

    def _copied_into(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        there, here = isinstance(target, DeviceTensor), isinstance(source, DeviceTensor)
        self.to_device += there and not here
        self.to_host += here and not there
        self.waits += here != there
        aten.copy_.default(target.held if there else target, source.held if here else source)
        return target


def _made_then_moved(data: Any, *, device: Any = None, make: Any = torch.tensor, **options: Any) -> torch.Tensor:
    """Stand for `torch.tensor`, which goes to the device below where a mode could see it."""
    made = make(data, **options)
    return made if device is None else made.to(device)


def _event_class(device: PretendDevice) -> type:
    class Event:
        def record(self, stream: object = None) -> None:
            self.before = list(device.pending)

        def synchronize(self) -> None:
            for unready, made in self.before:
                unready.copy_(made)

    return Event


@functools.cache
def _register() -> None:
    _setup_privateuseone_for_python_backend(KIND)


def choose_pretend_device(patch: pytest.MonkeyPatch) -> None:
    """Let every run take place on the device, whatever it asks for."""
    importlib.import_module("certify.runs")
    for name, module in list(sys.modules.items()):
        if name.startswith("certify.runs") and "choose_device" in vars(module):
            patch.setattr(module, "choose_device", lambda name="auto": DEVICE)


@contextlib.contextmanager
def pretend_device() -> Iterator[PretendDevice]:
    """Give PyTorch, in this thread, the device `DEVICE`, and its events and generators in the place of CUDA's."""
    _register()
    device, patch = PretendDevice(), pytest.MonkeyPatch()
    properties = SimpleNamespace(name="pretend device", multi_processor_count=7)
    patch.setattr(torch.cuda, "get_device_properties", lambda _=None: properties)
    patch.setattr(torch.cuda, "get_device_name", lambda _=None: properties.name)
    patch.setattr(torch.cuda, "current_stream", lambda _=None: None)
    patch.setattr(torch.cuda, "Event", _event_class(device))
    patch.setattr(torch, "Generator", AnyGenerator)
    patch.setattr(torch, "tensor", _made_then_moved)
    DeviceGenerator.streams.clear()
    try:
        with device:
            yield device
    finally:
        patch.undo()
