"""FLOPs of every call, and the axes they are proportional to."""

import itertools
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.utils.flop_counter import FlopCounterMode

from fxprune.capture.batch import Batch
from fxprune.graph.convolution import convolution_of
from fxprune.graph.operators import operator_name
from fxprune.graph.recurrent import GATES, recurrent_of
from fxprune.label.groups import CostTerm
from fxprune.label.propagation import Remembered, empty
from fxprune.rules.labels import Value, narrow_constant
from fxprune.rules.registry import rule_for

CONTRACTIONS = (
    "conv",
    "linear",
    "matmul",
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "einsum",
    "scaled_dot_product_attention",
)


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Of both products, from the operands' shapes; queries may share keys and values."""
    pairs = np.prod(query[:-1]) * key[-2]
    return int(2 * pairs * (query[-1] + value[-1]))


def _lstm_flops(x: Any, w_ih: Any, w_hh: Any, *args: Any, **kwargs: Any) -> int:
    return int(2 * np.prod(x[:-1]) * (np.prod(w_ih) + np.prod(w_hh)))


# What the counter of some version of torch does not know: the CPU's fused kernels, and queries that
# share keys and values.
_FUSED = {
    torch.ops.aten.scaled_dot_product_attention: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention: _attention_flops,
    torch.ops.aten._scaled_dot_product_efficient_attention: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten.mkldnn_rnn_layer: _lstm_flops,
}


_FLOPS = Remembered[int]()


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=_FUSED)


def count_flops(module: nn.Module, batch: Batch) -> float:
    """FLOPs per example of one forward pass by torch.utils.flop_counter: convolutions, matrix
    products, attention (a multiply-add counts 2).
    """
    with _counter() as counter, torch.no_grad():
        module(*batch.args, **batch.kwargs)
    return float(counter.get_total_flops()) / batch.size


def costs(module: GraphModule, values: dict[str, Any], batch: int) -> tuple[CostTerm, ...]:
    """FLOPs per example of every contraction in a graph whose values carry channel ids.

    An operator without a rule keeps all its channels, so what it costs is fixed.
    """
    found = []
    for node in module.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if operator_name(node.target) in GATES:
            found += _recurrent(node, values, batch)
            continue
        contracts = any(part in node.target._opname for part in CONTRACTIONS)
        if not contracts and rule_for(node.target):
            continue
        flops = _count(node, values) / batch
        if flops and not contracts:
            found.append(CostTerm(node.name, flops, ()))
        elif flops and "scaled_dot_product_attention" in node.target._opname:
            found += _attention(node, flops, values)
        elif flops:
            found.append(CostTerm(node.name, flops, _factors(node, values)))
    return tuple(found)


def _attention(node: Node, flops: float, values: dict[str, Any]) -> list[CostTerm]:
    """Scores cost by the queries' channels, the weighted sum by the values'."""
    query, _, value = (values[str(a.name)] for a in node.args[:3])  # type: ignore[union-attr]
    share = query.shape[-1] / (query.shape[-1] + value.shape[-1])
    return [
        CostTerm(
            node.name,
            flops * part,
            tuple(narrow_constant(a).reshape(-1).numpy() for a in operand.axes),
        )
        for part, operand in ((share, query), (1 - share, value))
    ]


def _recurrent(node: Node, values: dict[str, Any], batch: int) -> list[CostTerm]:
    """Every weight of a recurrent layer is read once a step; what is elementwise does not count."""
    how = recurrent_of(node)
    if how is None:
        flops = _count(node, values) / batch
        return [CostTerm(node.name, flops, ())] if flops else []
    steps = float(np.prod(values[how.source.name].shape[:-1])) / batch
    weights = [
        values[weight.name]
        for direction in itertools.chain(*how.layers)
        for weight in (direction.read, direction.recur, direction.project)
        if weight is not None
    ]
    return [
        CostTerm(
            node.name,
            2 * steps * float(np.prod(weight.shape)),
            tuple(narrow_constant(labels).reshape(-1).numpy() for labels in weight.axes),
        )
        for weight in weights
    ]


def _count(node: Node, values: dict[str, Any]) -> int:
    """FLOPs of one call at the example's shapes, by torch.utils.flop_counter on the meta device."""

    def resolve(item: Any) -> Any:
        if isinstance(item, Node):
            return values[item.name]
        return type(item)(resolve(i) for i in item) if isinstance(item, (tuple, list)) else item

    args, kwargs = resolve(tuple(node.args)), {k: resolve(v) for k, v in node.kwargs.items()}
    return _FLOPS.get(node.target, args, kwargs, lambda: _counted(node.target, args, kwargs))


def _counted(target: Any, args: Any, kwargs: dict[str, Any]) -> int:
    try:
        with _counter() as counter, torch.no_grad():
            target(*empty(args), **{k: empty(v) for k, v in kwargs.items()})
        return int(counter.get_total_flops())
    except (RuntimeError, NotImplementedError):  # no meta kernel: the call is not counted
        return 0


def _factors(node: Node, values: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """Channel ids along every axis whose length the call's FLOPs are proportional to."""
    found = []
    first = 1 if node.target._opname in ("addmm", "baddbmm") else 0  # type: ignore[union-attr]
    operands = [a for a in node.args[first:] if isinstance(a, Node)]
    if node.args and isinstance(node.args[1], (list, tuple)):
        operands = [a for a in node.args[1] if isinstance(a, Node)]
    weight = next(
        (o for o in operands if o.op == "get_attr" and len(values[o.name].shape) > 1), None
    )
    if weight is not None:
        value = values[weight.name]
        for labels in value.axes:
            found.append(narrow_constant(labels).reshape(-1).numpy())
        if convolution_of(node) is not None and value.shape[1] == 1 and found:
            return (found[0],)
        return tuple(found)
    # Products of activations: what is contracted and what passes on.
    tensors = [values[o.name] for o in operands]
    last = tensors[0]
    for labels in last.axes:
        found.append(narrow_constant(labels).reshape(-1).numpy())
    out = values[node.name]
    for labels in out.axes if isinstance(out, Value) else ():
        flat = narrow_constant(labels).reshape(-1).numpy()
        if not any(np.array_equal(flat, f) for f in found):
            found.append(flat)
    return tuple(found)
