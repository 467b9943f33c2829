"""Integer and boolean buffers that no one writes, and a few other numbers, are values of a trace
and not inputs of it: shapes, flags and scales that imported models hold as tensors.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _len_torch_function_stack
from torch.overrides import TorchFunctionMode, _pop_mode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from fxprune.capture.batch import Batch
from fxprune.capture.free_numbers import FreeNumbers

MAKERS = frozenset({torch.tensor, torch.as_tensor})
"""What makes a constant of numbers."""

FEW = 8
"""Numbers in a buffer that are scales, and no channels' statistics."""


@contextmanager
def constant_buffers(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Inside, what depends on integer and boolean buffers alone is computed while it is traced,
    so that a model may branch on it and take sizes from it.

    Args:
        model: a copy; its buffers are plain attributes meanwhile, of which torch.export makes
            constants under their names.
        batch: on which the model runs, to see which buffers it writes.
    """
    before = {id(b): b._version for b in model.buffers()}
    with suppress(Exception):
        model(*batch.args, **batch.kwargs)
    moved = [
        (module, name, buffer, name in module._non_persistent_buffers_set)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
        and before.get(id(buffer)) == buffer._version
        and (_is_whole(buffer) or _is_few(buffer))
    ]
    for module, name, buffer, _ in moved:
        delattr(module, name)
        object.__setattr__(module, name, buffer)
    eager = _Eager([buffer for _, _, buffer, _ in moved])
    # Within torch.export's own modes, which take calls such as torch.tensor apart; it copies the
    # root of a graph module, and its hooks are lost.
    hooks = [
        hook
        for module in model.modules()
        for hook in (
            module.register_forward_pre_hook(eager.enter),
            module.register_forward_hook(eager.leave, always_call=True),
        )
    ]
    outside = _len_torch_function_stack()
    try:
        yield
    finally:
        # A forward that fails while it is traced does not come to its hooks.
        while _len_torch_function_stack() > outside:
            _pop_mode()
        for hook in hooks:
            hook.remove()
        for module, name, buffer, fleeting in moved:
            vars(module).pop(name, None)
            module.register_buffer(name, buffer, persistent=not fleeting)


class _Eager(TorchFunctionMode):
    """Computes what depends on constants of whole numbers alone, in place of tracing it."""

    def __init__(self, constants: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = {id(tensor): tensor for tensor in constants}
        self.sizes = FreeNumbers()
        self._depth = 0

    def enter(self, *_: Any) -> None:
        """A module begins."""
        if not self._depth:
            self.__enter__()  # type: ignore[no-untyped-call]
        self._depth += 1

    def leave(self, *_: Any) -> None:
        """A module ends, or fails."""
        self._depth -= 1
        if not self._depth:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        # A shape is a leaf.
        leaves += [size for leaf in leaves if isinstance(leaf, torch.Size) for size in leaf]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        free = any(
            isinstance(leaf, (torch.SymInt, torch.SymFloat, torch.SymBool)) for leaf in leaves
        )
        if func in MAKERS and free:
            return self.sizes.make(args[0])
        if any(map(self.sizes.holds, tensors)):
            return self._remember(self.sizes.call(func, args, kwargs or {}))
        known = all(map(self._is_known, tensors)) if tensors else func in MAKERS
        if free or not known:
            return func(*args, **(kwargs or {}))
        with _disable_current_modes():
            return self._remember(func(*args, **(kwargs or {})))

    def _remember(self, result: Any) -> Any:
        """A result, whose tensors are known from now on."""
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.known[id(leaf)] = leaf
        return result

    def _is_known(self, tensor: Tensor) -> bool:
        return type(tensor) is Tensor and id(tensor) in self.known


def _is_few(tensor: Tensor) -> bool:
    """Scales and sizes as numbers with a fraction."""
    return tensor.dim() < 2 and tensor.numel() <= FEW


def _is_whole(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex()
