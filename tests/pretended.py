"""A pretended second device, for machines that have none: tensors that live there are on the CPU,
and say otherwise.

What mixes the two devices raises, as torch does; arithmetic is the CPU's. Whatever leaves for the
CPU must be taken there by `.cpu()` or `.to`, as from a real device.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

PRETENDED = torch.device("xpu", 0)
"""Its name: torch parses it everywhere, and nothing in fxprune treats it as a kind of its own."""
HERE = torch.device("cpu")
READS: set[Any] = {Tensor.numpy, Tensor.__array__}
MAY_MIX: set[Any] = {
    Tensor.copy_,
    Tensor.set_,
    cast(Any, Tensor.data).__set__,
    torch._has_compatible_shallow_copy_type,
}
INDEXES: set[Any] = {Tensor.__getitem__, Tensor.__setitem__, torch.Tensor.index_put_}


class Pretended(TorchFunctionMode):
    """Keeps book of the storages that are on the pretended device."""

    def __init__(self) -> None:
        self._there: dict[int, StorageWeakRef] = {}

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is there."""
        if tensor.layout is not torch.strided or type(tensor).__name__ == "FakeTensor":
            return False
        if tensor.is_meta:
            return False
        storage = tensor.untyped_storage()
        ref = self._there.get(storage._cdata)
        return ref is not None and not ref.expired()

    def put(self, value: Any) -> Any:
        """Everything in a nest is there from now on."""
        for leaf in pytree.tree_leaves(value):
            if isinstance(leaf, Tensor) and not leaf.is_meta and leaf.layout is torch.strided:
                ref = StorageWeakRef(leaf.untyped_storage())
                self._there[ref.cdata] = ref
        return value

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        there = [self.holds(t) for t in tensors]
        if func == Tensor.device.__get__:
            return PRETENDED if there[0] else func(*args, **kwargs)
        if func in READS and there[0]:
            raise TypeError("can't convert a tensor of a pretended device to numpy")
        if name in ("to", "cpu") and tensors:
            return self._move(func, name, args, kwargs, there[0])
        wanted = kwargs.get("device")
        if wanted is not None and torch.device(wanted).type == PRETENDED.type:
            kwargs["device"] = HERE
            return self.put(func(*args, **kwargs))
        self._check(func, tensors, there)
        with self._backward() if func is torch.autograd.grad else nullcontext():
            result = func(*args, **kwargs)
        # What is written to stays where it is.
        placed = wanted is not None or func in MAY_MIX
        if any(there) and not placed and name not in ("__set__", "tolist", "item"):
            self.put(result)
        return result

    @contextmanager
    def _backward(self) -> Iterator[None]:
        """Hooks on what autograd saved are called within the mode, as on a real device."""
        run = vars(torch.autograd)["_engine_run_backward"]

        def within(*args: Any, **kwargs: Any) -> Any:
            with self:
                return run(*args, **kwargs)

        with mock.patch.object(torch.autograd, "_engine_run_backward", within):
            yield

    def _move(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], there: bool
    ) -> Any:
        tensor, *rest = args
        device = HERE if name == "cpu" else kwargs.pop("device", None)
        other: list[Any] = []
        for value in rest:
            if isinstance(value, Tensor):
                device = PRETENDED if self.holds(value) else value.device
                other.append(value.dtype)
            elif isinstance(value, (str, torch.device)):
                device = torch.device(value)
            else:
                other.append(value)
        goes = there if device is None else torch.device(device).type == PRETENDED.type
        if name == "cpu":
            kwargs.clear()
        other = [v for v in other if isinstance(v, torch.dtype)]
        copied = goes != there
        kwargs.pop("non_blocking", None)
        moved = tensor.to(*other, **kwargs) if other or kwargs else tensor
        if torch.device(device or HERE).type == "meta":
            return tensor.to("meta")
        if copied and moved.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
            moved = moved.clone()
        return self.put(moved) if goes else moved

    def _check(self, func: Any, tensors: list[Tensor], there: list[bool]) -> None:
        """Several devices in a call are an error, but for numbers and what copies between them."""
        sized = [(t, is_there) for t, is_there in zip(tensors, there, strict=True) if t.dim()]
        if func in MAY_MIX or len({is_there for _, is_there in sized}) < 2:
            return
        if func in INDEXES and all(
            is_there == there[0] or t.dtype in (torch.long, torch.bool, torch.int)
            for t, is_there in sized
        ):
            if there[0]:  # an index may be on the CPU, not the other way round
                return
        raise RuntimeError(
            f"{getattr(func, '__name__', func)}: expected all tensors to be on the same device: "
            f"{[(tuple(t.shape), t.dtype, is_there) for t, is_there in sized]}"
        )


@contextmanager
def pretended() -> Iterator[Pretended]:
    """Within, tensors can be on the pretended device."""
    with Pretended() as mode:
        yield mode
