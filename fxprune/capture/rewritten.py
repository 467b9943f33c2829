"""Calls in a form of their own become the one that all later stations know: batch norms that a
decomposition took apart, and expansions that happen by themselves.
"""

import operator
from typing import cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxprune.graph.operators import operator_name

aten = torch.ops.aten
EVALUATED = "aten._native_batch_norm_legit_no_training"


def rewrite_calls(module: GraphModule) -> None:
    """Give calls the form that labels and layers are read from, in place."""
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if operator_name(node.target) == EVALUATED:
            _join_batch_norm(node)
        if operator_name(node.target) == "aten.expand" and _broadcasts(node):
            node.replace_all_uses_with(cast(Node, node.args[0]))
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


def _broadcasts(node: Node) -> bool:
    """Whether what is expanded meets, elementwise and at every user, a tensor that it would be
    broadcast to (`torch.nn.functional.normalize`).
    """
    source, wide = node.args[0], node.meta.get("val")
    thin = source.meta.get("val") if isinstance(source, Node) else None
    if not isinstance(thin, Tensor) or not isinstance(wide, Tensor) or thin.dim() != wide.dim():
        return False
    # Free sizes are compared by their text, which asks nothing of them.
    grown = {d: str(wide.shape[d]) for d in range(wide.dim()) if str(thin.shape[d]) == "1"}

    def fills(user: Node) -> bool:
        others = (n.meta.get("val") for n in user.all_input_nodes if n is not node)
        return torch.Tag.pointwise in getattr(user.target, "tags", ()) and any(
            isinstance(other, Tensor)
            and other.dim() == wide.dim()
            and all(str(other.shape[d]) == size for d, size in grown.items())
            for other in others
        )

    return bool(node.users) and all(fills(user) for user in node.users)
