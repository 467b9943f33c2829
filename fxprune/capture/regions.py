"""Regions of a trace that are graphs of their own become part of the graph around them."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fxprune.graph.nodes import hand_over

REGIONS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
"""By operator the argument that is the region's graph; those before it say what is switched."""


def inline_regions(module: GraphModule) -> None:
    """Gradient and autocast regions, traced as calls of a graph of their own, become part of the
    graph; what autocast does to the operands of a call within stands there as casts.

    An autocast region of which that cannot be said call by call stays.
    """
    for node in list(module.graph.nodes):
        if _is_region(node):
            _inline(module, node, None)


def _is_region(node: Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") in REGIONS


def _inline(module: GraphModule, node: Node, autocast: tuple[Any, ...] | None) -> None:
    """Put the graph of a region, and those within, where its call is, if nothing changes by it.

    Args:
        module: whose graph has the call; changed in place.
        node: the call.
        autocast: arguments of `torch.autocast` under which the call runs; None for none.
    """
    inner, autocast = _open(module, node, autocast)
    casts: list[_Cast] = []
    if not _find_casts(inner, autocast, casts):
        return
    for cast in casts:
        cast.insert()
    _replace(module, node)


def _open(
    module: GraphModule, node: Node, autocast: tuple[Any, ...] | None
) -> tuple[GraphModule, tuple[Any, ...] | None]:
    """The graph of a region, and the autocast under which its calls run."""
    arguments, inner, _ = _read(module, node)
    if len(arguments) > 1:
        kind, dtype, enabled, _ = arguments
        autocast = (kind, dtype) if enabled else None
    return inner, autocast


def _read(module: GraphModule, node: Any) -> tuple[tuple[Any, ...], GraphModule, tuple[Any, ...]]:
    """Of a region's call what it switches, its graph, and the operands."""
    place = REGIONS[node.target.__name__]
    return node.args[:place], getattr(module, node.args[place].target), node.args[place + 1 :]


def _find_casts(
    module: GraphModule, autocast: tuple[Any, ...] | None, casts: list["_Cast"]
) -> bool:
    """Add the casts that autocast makes in a graph and in the regions within it.

    Returns:
        whether with these casts the calls need no autocast.
    """
    for node in module.graph.nodes:
        if _is_region(node):
            if not _find_casts(*_open(module, node, autocast), casts):
                return False
        elif autocast is not None and isinstance(node.target, torch._ops.OpOverload):
            found = _casts_of(node, autocast)
            if found is None:
                return False
            casts.extend(found)
    return True


def _replace(module: GraphModule, node: Node) -> None:
    """Put the nodes of a region's graph where its call is."""
    graph = module.graph
    _, inner, operands = _read(module, node)
    for within in list(inner.graph.nodes):
        if _is_region(within):
            _replace(inner, within)
    inputs = [n for n in inner.graph.nodes if n.op == "placeholder"]
    values = dict(zip(inputs, operands, strict=True))
    with graph.inserting_before(node):
        results: Any = graph.graph_copy(inner.graph, values)
    hand_over(node, results)


@dataclass(frozen=True)
class _Cast:
    """An operand that a call is to read in another type."""

    call: Node
    operand: Node
    dtype: torch.dtype

    def insert(self) -> None:
        graph, operand = self.call.graph, self.operand
        with graph.inserting_before(self.call):
            cast = graph.call_function(torch.ops.aten.to.dtype, (operand, self.dtype))
        cast.meta = {**operand.meta, "val": operand.meta["val"].to(self.dtype)}
        self.call.replace_input_with(operand, cast)


class _Watch(TorchDispatchMode):
    """Notes to which types tensors are cast.

    Attributes:
        found: the first type by the tensor's identity.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[int, torch.dtype] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and "dtype" in kwargs:
            self.found.setdefault(id(args[0]), kwargs["dtype"])
        return func(*args, **kwargs)


def _casts_of(node: Node, autocast: tuple[Any, ...]) -> list[_Cast] | None:
    """The casts of its operands that autocast makes in a call; None if it is not these alone.

    They are seen by running the call on tensors without values; so no list of operators has to
    be kept, and those of a custom operator are found too.
    """
    kind, dtype = autocast
    values: dict[Node, Any] = {n: n.meta.get("val") for n in node.all_input_nodes}
    operands = [n for n, value in values.items() if isinstance(value, Tensor)]

    def run() -> tuple[dict[int, torch.dtype], list[torch.dtype]]:
        args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
        with _Watch() as watch:
            result = node.target(*args, **kwargs)  # type: ignore[operator]
        return watch.found, [v.dtype for v in tree_leaves(result) if isinstance(v, Tensor)]

    alone: dict[int, torch.dtype] = {}
    with suppress(Exception):  # of operands whose types autocast makes one
        alone, _ = run()
    try:
        with torch.autocast(kind, dtype, cache_enabled=False):
            under, wanted = run()
        casts = [
            _Cast(node, n, under[id(v)])
            for n in operands
            if id(v := values[n]) in under and under[id(v)] != alone.get(id(v))
        ]
        values |= {cast.operand: values[cast.operand].to(cast.dtype) for cast in casts}
        _, types = run()
    except Exception:
        return None
    return casts if types == wanted else None
