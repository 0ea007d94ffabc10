"""A device that stands in for a GPU: its tensors say `cuda`, it computes on the CPU, and it is as
strict as a GPU is.

Inside `stand_in_gpu()` torch has one CUDA device. What code does for a device that is not the CPU
then runs here, with true numbers, and what a GPU would refuse or wait for comes to light:

- operands of which some lie on the host are refused, except single numbers and indices, as on a
  GPU;
- every look of the host at a number on the device is recorded: `.item()`, a truth value, a shape
  that depends on values, a copy either way that is not both pinned and queued;
- a queued copy to pinned memory arrives only when an event recorded behind it is waited for; until
  then the memory holds NaN or -1, so that whoever reads too early has wrong numbers;
- bytes that live on the device are counted.

What it cannot show: the rounding of another processor, speed, the memory inside operators, and what
only CUDA's own libraries refuse.
"""

from __future__ import annotations

import contextlib
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

GPU, META = torch.device("cuda:0"), torch.device("meta")
REPOSITORY = Path(__file__).resolve().parents[1]
SHAPED_BY_VALUES = {
    "nonzero",
    "masked_select",
    "bincount",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "equal",
}
TO_THE_HOST = {"_local_scalar_dense", "is_nonzero", "equal"}
INDEXED = {
    "index",
    "index_put",
    "index_put_",
    "_index_put_impl_",
    "_unsafe_index",
    "_unsafe_index_put",
}
COPIES = {"_to_copy", "copy_"}


class Gpu:
    """What happens on the device.

    Attributes:
        looks: (operator, the line of this repository that asked) of each look or wait, in order.
        queued: copies to or from pinned memory that nothing waited for.
        bytes: of the tensors that live on it.
        peak: the most that they were.
    """

    def __init__(self) -> None:
        self.looks: list[tuple[str, str]] = []
        self.queued = self.bytes = self.peak = 0
        self.pending: list[Callable[[], object]] = []
        self._known: set[int] = set()
        self._pinned: dict[int, torch.UntypedStorage] = {}

    def pin(self, x: Tensor) -> Tensor:
        """The same tensor, whose memory is pinned from now on."""
        self._pinned[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    def is_pinned(self, x: Tensor) -> bool:
        """Whether its memory is: so are parts of what was pinned."""
        return x.untyped_storage().data_ptr() in self._pinned

    def record(self, operator: str) -> None:
        """Notes a look, and who asked."""
        frames = traceback.extract_stack()
        own = [frame for frame in frames if frame.filename.startswith(str(REPOSITORY))]
        own = [frame for frame in own if "site-packages" not in frame.filename]
        own = [frame for frame in own if frame.filename != __file__] or frames[:1]
        self.looks.append((operator, f"{Path(own[-1].filename).name}: {own[-1].line}"))

    def copied(self, queued: bool, what: str) -> None:
        """Notes a copy between host and device, which is a look where somebody waits for it."""
        if queued:
            self.queued += 1
        else:
            self.record(what)

    def holds(self, x: Tensor) -> None:
        """Counts the memory of a tensor from now until nothing uses it."""
        if x.layout != torch.strided or (key := x.untyped_storage()._cdata) in self._known:
            return
        self._known.add(key)
        self._changed(x.untyped_storage().nbytes())
        weakref.finalize(x.untyped_storage(), self._freed, key, x.untyped_storage().nbytes())

    def _freed(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self._changed(-n_bytes)

    def _changed(self, n_bytes: int) -> None:
        self.bytes += n_bytes
        self.peak = max(self.peak, self.bytes)


_gpu = Gpu()


class OnGpu(Tensor):
    """A tensor of the stand-in; `held` is where its numbers are."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        place: dict[str, Any] = {}
        if held.layout == torch.strided:
            place = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        # a torch without CUDA has no autograd for it: to its own inside the tensor lies on `meta`
        place |= {"dtype": held.dtype, "device": META}
        made = torch.Tensor._make_wrapper_subclass(cls, held.size(), **place)
        made.held = held
        _gpu.holds(held)
        return made

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def __repr__(self) -> str:
        return f"OnGpu({self.held!r})"

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


class _Device(TorchDispatchMode):
    """Every operator, those that have no tensor of the device yet among them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


class _Names(TorchFunctionMode):
    """`cuda` becomes `meta` where torch would look for a driver before it calls the operator."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in ("to", "cuda"):
            args = tree_map(lambda x: META if _names_gpu(x) else x, args)
            kwargs = {key: META if _names_gpu(x) else x for key, x in kwargs.items()}
        if name in ("tensor", "as_tensor") and _names_gpu(kwargs.get("device")):
            return func(*args, **{**kwargs, "device": None}).to(META)
        return func(*args, **kwargs)


def _names_gpu(x: Any) -> bool:
    return isinstance(x, str | torch.device) and str(x).startswith("cuda")


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type in ("cuda", "meta")


def _called(func: Any, args: Any, kwargs: Any) -> Any:
    """One operator: as on the CPU where no tensor of the device is in it, and none is asked for."""
    name = func._schema.name.removeprefix("aten::")
    on_gpu = any(isinstance(x, OnGpu) for x in tree_leaves((args, kwargs)))
    if name in ("_pin_memory", "pin_memory"):
        return _gpu.pin(args[0].clone())
    if not on_gpu and not _is_gpu(kwargs.get("device")):
        pinned = kwargs.pop("pin_memory", False)
        out = func(*args, **kwargs)
        return _gpu.pin(out) if pinned else out
    if name in COPIES:
        return _copy(args, kwargs) if name == "copy_" else _moved(func, args, kwargs)
    _refuse_mixed(name, args, kwargs)
    if name in SHAPED_BY_VALUES | TO_THE_HOST or _asks_for_values(name, args, kwargs):
        _gpu.record(name)
    device, pinned = kwargs.pop("device", None), kwargs.pop("pin_memory", False)
    inside, options = tree_map(_held, (args, kwargs))
    if name == "mm" and func._overloadname == "dtype":  # the CPU has none that sums in a wider type
        out = inside[0].to(inside[2]) @ inside[1].to(inside[2])
    else:
        out = func(*inside, **options)
    if name in TO_THE_HOST:
        return out
    if device is not None and not _is_gpu(device):
        return _gpu.pin(out) if pinned else out
    out = tree_map(lambda x: OnGpu(x) if isinstance(x, Tensor) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if on_gpu else out


def _held(x: Any) -> Any:
    return x.held if isinstance(x, OnGpu) else x


def _refuse_mixed(name: str, args: Any, kwargs: Any) -> None:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    outside = [list(x.shape) for x in tensors if not isinstance(x, OnGpu) and x.dim()]
    if outside and name not in INDEXED:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {name} got {outside[0]} on the CPU"
        )


def _asks_for_values(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a GPU's operator waits: indices from the host, or a shape that depends on numbers."""
    if name in INDEXED:
        indices = [x for x in args[1] if isinstance(x, Tensor)]
        return any(x.dtype == torch.bool or not isinstance(x, OnGpu) for x in indices)
    return name == "repeat_interleave" and kwargs.get("output_size") is None


def _copy(args: Any, kwargs: Any) -> Tensor:
    """`target.copy_(source)`."""
    target, source = args[0], args[1]
    queued = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
    if isinstance(target, OnGpu):
        if not isinstance(source, OnGpu) and source.dim() and source.numel():
            _gpu.copied(queued and _gpu.is_pinned(source), "copy to the device")
        target.held.copy_(_held(source))
    elif queued and _gpu.is_pinned(target):
        _gpu.copied(True, "")
        target.fill_(torch.nan if target.is_floating_point() else -1)
        snapshot = source.held.clone()
        _gpu.pending.append(lambda: target.copy_(snapshot))
    else:
        _gpu.copied(False, "copy to the host")
        target.copy_(source.held)
    return target


def _moved(func: Any, args: Any, kwargs: Any) -> Tensor:
    """`source.to(device or dtype)`."""
    source, device = args[0], kwargs.pop("device", None)
    queued, pinned = kwargs.pop("non_blocking", False), kwargs.pop("pin_memory", False)
    out = func(_held(source), **kwargs)
    if isinstance(source, OnGpu) and (device is None or _is_gpu(device)):
        return OnGpu(out)
    if isinstance(source, OnGpu):
        _gpu.copied(False, "copy to the host")
        return _gpu.pin(out) if pinned else out
    if source.numel():
        _gpu.copied(queued and _gpu.is_pinned(source), "copy to the device")
    return OnGpu(out)


class _Event:
    """The copies that were queued before it have arrived once it is waited for."""

    def record(self, stream: Any = None) -> None:
        self._before = len(_gpu.pending)

    def synchronize(self) -> None:
        for number in range(self._before):
            _gpu.pending[number]()
            _gpu.pending[number] = lambda: None


@contextlib.contextmanager
def stand_in_gpu() -> Iterator[Gpu]:
    """Torch has one CUDA device inside; gives what happens on it."""
    global _gpu  # noqa: PLW0603 (the operators' calls reach it from inside torch)
    _gpu = Gpu()
    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "device": lambda name: contextlib.nullcontext(),
        "synchronize": lambda where=None: None,
        "empty_cache": lambda: None,
        "get_device_name": lambda where=None: "a stand-in for a GPU",
        "mem_get_info": lambda where=None: (2**34 - _gpu.bytes, 2**34),
        "memory_allocated": lambda where=None: _gpu.bytes,
        "max_memory_allocated": lambda where=None: _gpu.peak,
        "reset_peak_memory_stats": lambda where=None: setattr(_gpu, "peak", _gpu.bytes),
        "Event": _Event,
    }
    with pytest.MonkeyPatch.context() as patch, _Device(), _Names():
        for name, function in cuda.items():
            patch.setattr(torch.cuda, name, function)
        yield _gpu
