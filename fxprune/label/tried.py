"""Calls that are tried out on numbers: whether a change of what carries channels passes them."""

import hashlib
import pickle
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from fxprune.label.propagation import Remembered
from fxprune.rules.labels import Value

CLOSE = 1e-9
"""Relative difference of two results in float64 that are the same."""
_KNOWN = Remembered[bool]()


def commutes(
    call: Node,
    values: Mapping[str, Any],
    dims: Mapping[Node, int],
    change: Callable[[Tensor, int], Tensor],
    kind: Hashable,
) -> bool:
    """Whether a call gives its changed result for changed operands; calls of one form are tried
    once, as layers of a stack are.

    Args:
        call: any call.
        values: of the graph's nodes, by name.
        dims: of the call, and of the operands that change, along which dimension their channels
            lie.
        change: of a tensor in float64 along a dimension.
        kind: equal for equal changes.
    """
    form = (kind, *form_of(call, values, dims.get))
    return _KNOWN.get(call.target, form, {}, lambda: _try(call, values, dims, change))


def form_of(
    call: Node, values: Mapping[str, Any], known: Callable[[Node], Hashable]
) -> tuple[Hashable, ...]:
    """Equal for calls of an operator that give the same for the same.

    Args:
        call: any call.
        values: of the graph's nodes, by name.
        known: what else matters of the call and of what it reads.
    """
    inputs = {node: number for number, node in enumerate(call.all_input_nodes)}
    given: Any = map_arg((call.args, dict(call.kwargs)), lambda node: f"%{inputs[node]}")
    return repr(given), tuple((_seen(values[n.name]), known(n)) for n in (*inputs, call))


def _seen(item: Any) -> Hashable:
    """What stands for a node's result in a trial."""
    if not isinstance(item, Value):
        return tuple(map(_seen, item)) if isinstance(item, (tuple, list)) else repr(item)
    const = b"" if item.const is None else pickle.dumps(item.const.cpu())
    return item.shape, str(item.dtype), digest(const)


def digest(held: bytes) -> bytes:
    """A few bytes for many."""
    return hashlib.sha256(held).digest()


def _try(
    call: Node,
    values: Mapping[str, Any],
    dims: Mapping[Node, int],
    change: Callable[[Tensor, int], Tensor],
) -> bool:
    draw = torch.Generator().manual_seed(0)
    plain = {node: _made_up(values[node.name], draw) for node in call.all_input_nodes}
    try:
        changed = {n: change(x.double(), dims[n]) if n in dims else x for n, x in plain.items()}
        (before,), (after,) = (run_call(call, operands) for operands in (plain, changed))
        if not after.is_floating_point():
            return False  # a comparison
        wanted = change(before.double(), dims[call])
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    # An operator that casts, casts both to its own precision.
    exact = max(CLOSE, 8 * torch.finfo(after.dtype).eps)
    return bool((after - wanted).norm() <= exact * wanted.norm())


def _made_up(value: Any, draw: torch.Generator) -> Any:
    """Numbers in place of a node's result."""
    if not isinstance(value, Value):
        return value
    if value.const is not None:
        return value.const
    if not value.dtype.is_floating_point:
        return torch.zeros(value.shape, dtype=value.dtype)
    return torch.randn(value.shape, generator=draw, dtype=torch.float64)


def run_call(call: Node, operands: Mapping[Node, Any]) -> list[Tensor]:
    """The tensors that a call gives for other operands."""
    args: Any = map_arg(call.args, operands.__getitem__)
    kwargs: Any = map_arg(dict(call.kwargs), operands.__getitem__)
    target: Any = call.target
    with torch.no_grad():
        result = target(*args, **kwargs)
    results = result if isinstance(result, (tuple, list)) else (result,)
    return [r for r in results if isinstance(r, Tensor)]
