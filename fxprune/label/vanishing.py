"""Products of two activations sum over their channels: a removed one must have added nothing.

A product with a weight may read anything from removed channels, as the weight's columns go with
them. Between two activations (queries and keys) what goes must be zero on one side once everything
that makes it is: `cos(q) @ cos(k)` would lose ones. Whether it is zero is tried out, on the few
calls between the weights and the product.
"""

from collections.abc import Container, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from fxprune.graph.convolution import CONVOLUTIONS, GENERAL, TRANSPOSED
from fxprune.graph.operators import operator_name
from fxprune.rules.labels import Value, distinct, narrow_constant
from fxprune.rules.movement import MOVEMENT
from fxprune.rules.recorder import Product

LINEAR = frozenset({*CONVOLUTIONS, *TRANSPOSED, GENERAL, "aten.linear"})
"""What is zero wherever the rows of its weight and bias are."""

REARRANGING = frozenset({*MOVEMENT, "_operator.getitem"})
"""What returns nothing but elements of its first argument."""


def lasting(
    values: dict[str, Any], products: Iterable[Product], id_of: np.ndarray
) -> list[Product]:
    """Products that sum over channels of which neither factor vanishes.

    Args:
        values: per node, with channel ids for labels.
        products: as recorded.
        id_of: the channel id of every label.
    """
    found = []
    known: dict[bytes, dict[Node, bool]] = {}
    for product in products:
        gone = np.unique(id_of[distinct(product.labels)])
        # Every other channel: what mixes channels makes zeros of nothing but zeros.
        gone = gone[gone > 0][::2]
        zero = known.setdefault(gone.tobytes(), {})
        factors = dict.fromkeys((product.left, product.right))
        if len(gone) and not any(_vanishes(n, values, gone, zero) for n in factors):
            found.append(product)
    return found


def _vanishes(node: Node, values: dict[str, Any], gone: np.ndarray, zero: dict[Node, bool]) -> bool:
    """Whether a node is zero at these channels once all that makes them is.

    Args:
        node: the last of those that are looked at.
        values: per node.
        gone: the channels.
        zero: what is known of other nodes; added to.
    """
    for current in _on_the_way(node, values, gone, zero):
        if current.op == "call_function":
            zero[current] = _call_vanishes(current, values, gone, zero)
        else:
            zero[current] = current.op == "get_attr"
    return zero[node]


def _on_the_way(
    node: Node, values: dict[str, Any], gone: np.ndarray, known: Container[Node]
) -> list[Node]:
    """A node and those before it that carry the channels, inputs first, without known ones."""
    if node in known:
        return []
    seen, left = {node}, [node]
    while left:
        new = [
            n
            for n in left.pop().all_input_nodes
            if n not in seen and n not in known and _carries(values[n.name], gone)
        ]
        seen.update(new)
        left += new
    return [n for n in node.graph.nodes if n in seen]


def _flat(value: Any) -> list[Value]:
    items = value if isinstance(value, (tuple, list)) else (value,)
    return [item for item in items if isinstance(item, Value)]


def _carries(value: Any, gone: np.ndarray) -> bool:
    return any(
        bool(np.isin(distinct(labels), gone).any()) for v in _flat(value) for labels in v.axes
    )


def _call_vanishes(
    node: Node, values: dict[str, Any], gone: np.ndarray, zero: dict[Node, bool]
) -> bool:
    """Run a call on made-up operands that are zero where they vanish."""
    carriers = [n for n in node.all_input_nodes if n in zero]
    if not any(zero[n] for n in carriers):
        return False
    name = operator_name(node.target)
    if name in LINEAR and all(n.op == "get_attr" for n in carriers):
        return True
    if name in REARRANGING and isinstance(node.args[0], Node):
        return zero.get(node.args[0], False)
    draw = torch.Generator().manual_seed(0)

    def made_up(item: Node) -> Any:
        value = values[item.name]
        parts = [_made_up(v, gone if zero.get(item) else None, draw) for v in _flat(value)]
        if isinstance(value, Value):
            return parts[0]
        return parts if parts else value

    try:
        args: Any = map_arg(node.args, made_up)
        kwargs: Any = map_arg(dict(node.kwargs), made_up)
        call: Any = node.target
        with torch.no_grad():
            result = call(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    results = result if isinstance(result, (tuple, list)) else (result,)
    pairs = zip(results, _flat(values[node.name]), strict=False)
    return all(bool((r[_at(v, gone)] == 0).all()) for r, v in pairs if isinstance(r, Tensor))


def _made_up(value: Value, gone: np.ndarray | None, draw: torch.Generator) -> Tensor:
    """A tensor of a value's shape: what it is where that is known, else numbers about one."""
    if value.const is not None:
        return value.const
    if value.dtype == torch.bool:
        return torch.rand(value.shape, generator=draw) < 0.5
    if not value.dtype.is_floating_point:
        return torch.zeros(value.shape, dtype=value.dtype)
    tensor = (torch.rand(value.shape, generator=draw) + 0.5).to(value.dtype)
    return tensor if gone is None else tensor.masked_fill(_at(value, gone), 0)


def _at(value: Value, gone: np.ndarray) -> Tensor:
    """Which elements lie at these channels."""
    there = torch.zeros(value.shape, dtype=torch.bool)
    for labels in value.axes:
        there |= torch.from_numpy(np.isin(narrow_constant(labels).numpy(), gone))
    return there
