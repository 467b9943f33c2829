"""Calls that are tried out on numbers: whether a change of what carries channels passes them."""

import hashlib
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
    form = (kind, *_form(call, values, dims))
    return _KNOWN.get(call.target, form, {}, lambda: _try(call, values, dims, change))


def _form(call: Node, values: Mapping[str, Any], dims: Mapping[Node, int]) -> tuple[Hashable, ...]:
    """All that a trial depends on beside the change."""
    inputs = {node: number for number, node in enumerate(call.all_input_nodes)}
    given: Any = map_arg((call.args, dict(call.kwargs)), lambda node: f"%{inputs[node]}")
    seen = tuple((_seen(values[node.name]), dims.get(node)) for node in inputs)
    return repr(given), seen, dims[call]


def _seen(value: Any) -> Hashable:
    """What stands for a node's result in a trial."""
    if not isinstance(value, Value):
        return repr(value)
    const = None
    if value.const is not None:
        held = value.const.cpu().contiguous().view(-1).view(torch.uint8)
        const = hashlib.sha256(held.numpy().tobytes()).hexdigest()
    return value.shape, str(value.dtype), const


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
        before, after = (_run(call, operands) for operands in (plain, changed))
        if not isinstance(after, Tensor) or not after.is_floating_point():
            return False  # a part of several results, a comparison
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


def _run(call: Node, operands: dict[Node, Any]) -> Tensor:
    target: Callable[..., Tensor] = call.target  # type: ignore[assignment]
    args: Any = map_arg(call.args, operands.__getitem__)
    kwargs: Any = map_arg(dict(call.kwargs), operands.__getitem__)
    return target(*args, **kwargs)
