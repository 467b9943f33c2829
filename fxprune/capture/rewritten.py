"""Calls in a form of their own become the one that all later stations know: batch norms that a
decomposition took apart, and operators that read another tensor's shape.
"""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxprune.graph.operators import operator_name

aten = torch.ops.aten
EVALUATED = "aten._native_batch_norm_legit_no_training"
SHAPED_LIKE = {
    "aten.view_as": aten.reshape.default,
    "aten.reshape_as": aten.reshape.default,
    "aten.expand_as": aten.expand.default,
}
"""Operators that take a shape from their second argument, and those that take it as numbers."""


def rewrite_calls(module: GraphModule) -> None:
    """Give calls the form that labels and layers are read from, in place."""
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if operator_name(node.target) == EVALUATED:
            _join_batch_norm(node)
        elif operator_name(node.target) in SHAPED_LIKE:
            _spell_shape(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _join_batch_norm(node: Node) -> None:
    """One result in place of three, two of which only a backward pass reads."""
    users = list(node.users)
    if any(user.target is not operator.getitem or user.args[1] != 0 for user in users):
        return
    source, weight, bias, mean, variance, momentum, eps = node.args
    with node.graph.inserting_before(node):
        joined = node.graph.call_function(
            aten.batch_norm.default,
            (source, weight, bias, mean, variance, False, momentum, eps, True),
        )
    joined.meta = {**node.meta, "val": node.meta["val"][0]}
    for user in users:
        user.replace_all_uses_with(joined)
        node.graph.erase_node(user)
    node.graph.erase_node(node)


def _spell_shape(node: Node) -> None:
    """Sizes as numbers, which follow the channels that go; only free ones are read where they
    were.

    Where none is free on axis 0, examples or channels may stand there: the call stays as it is.
    """
    other, value = node.args[1], node.meta.get("val")
    if not isinstance(value, Tensor) or not isinstance(other, Node):
        return
    if not value.dim() or not isinstance(value.shape[0], torch.SymInt):
        return
    sizes: list[Any] = []
    with node.graph.inserting_before(node):
        for dim, size in enumerate(value.shape):
            if isinstance(size, torch.SymInt):
                read = node.graph.call_function(aten.sym_size.int, (other, dim))
                read.meta["val"] = size
                sizes.append(read)
            else:
                sizes.append(size)
    node.target = SHAPED_LIKE[operator_name(node.target)]
    node.args, node.kwargs = (node.args[0], sizes), {}
