"""Whether a trace answers as its model does, tried on batches of other sizes than its example's."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune.capture.batch import Batch

ROUNDING = 1000
"""Units of the last place, of the largest value, up to which two runs count as the same."""

PAST: tuple[Any, ...] = ()
"""In place of an answer: a kernel would have written past its memory."""


def resized(
    module: GraphModule, batch: Batch, places: Iterable[tuple[int, int]], size: int
) -> Batch:
    """A batch at another size, cut or repeated.

    Args:
        module: a trace of a model that takes it.
        batch: any.
        places: where the size stands, (leaf of the arguments, axis).
        size: the other one.
    """
    names: Any = list(batch.kwargs)
    if batch.kwargs:
        names = module._in_spec.child(1).context
    held = (batch.args, {name: batch.kwargs[name] for name in names})
    leaves, form = pytree.tree_flatten(held)
    for leaf, axis in places:
        index = torch.arange(size, device=leaves[leaf].device) % leaves[leaf].shape[axis]
        leaves[leaf] = leaves[leaf].index_select(axis, index)
    args, kwargs = pytree.tree_unflatten(leaves, form)
    return Batch(args, kwargs, batch.size)


def agree(module: GraphModule, model: nn.Module, batch: Batch) -> bool:
    """Whether a trace gives what the model gives; yes where the model gives nothing, unless a
    kernel would write past its memory, which no model lets it.
    """
    wanted, found = answer(model, batch), _answer_of_trace(module, batch)
    return found is not PAST and (wanted is None or found is not None and _alike(wanted, found))


def misleads(module: GraphModule, model: nn.Module, batch: Batch) -> bool:
    """Whether a trace gives something else than the model gives, or a kernel would write past its
    memory.
    """
    wanted, found = answer(model, batch), _answer_of_trace(module, batch)
    if found is PAST:
        return True
    return wanted is not None and found is not None and not _alike(wanted, found)


def _answer_of_trace(module: GraphModule, batch: Batch) -> tuple[Any, ...] | None:
    """What a trace gives; `PAST` where a kernel would write past its memory."""
    checked = _CheckedStates()
    with checked:
        found = answer(module, batch)
    return PAST if checked.apart else found


class _CheckedStates(TorchDispatchMode):
    """Refuses states of another number of rows than the input's: oneDNN's recurrent layers trust,
    and write past their memory. A module checks its arguments, a trace at another size than its
    example's has numbers of its own.

    Attributes:
        apart: whether it refused any.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.apart = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.mkldnn_rnn_layer.default:
            given, hidden = args[0], args[5]
            if hidden.shape[-2] != given.shape[1]:
                self.apart = True
                raise ValueError(f"{hidden.shape[-2]} rows of states for {given.shape[1]}")
        return func(*args, **(kwargs or {}))


def answer(module: nn.Module, batch: Batch) -> tuple[Any] | None:
    """What a call returns; None where it fails."""
    try:
        return (module(*batch.args, **batch.kwargs),)
    except Exception:  # whatever a model raises
        return None


def _alike(wanted: Any, found: Any) -> bool:
    return all(_close(a, b) for a, b in _pairs(wanted, found))


def _pairs(wanted: Any, found: Any) -> Iterator[tuple[Any, Any]]:
    leaves, others = pytree.tree_leaves(wanted), pytree.tree_leaves(found)
    if len(leaves) != len(others):
        yield None, leaves
        return
    yield from zip(leaves, others, strict=True)


def _close(wanted: Any, found: Any) -> bool:
    if not isinstance(wanted, Tensor) or not isinstance(found, Tensor):
        return wanted is not None or found is None
    if wanted.shape != found.shape:
        return False
    if not wanted.is_floating_point():
        return True
    finite = wanted.where(wanted.isfinite(), 0).double()
    same = found.where(wanted.isfinite(), 0).double()
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    apart = float((finite - same).abs().max()) if finite.numel() else 0.0
    rounding = min(ROUNDING * torch.finfo(wanted.dtype).eps, 0.05)
    return apart <= rounding * largest
