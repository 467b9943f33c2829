"""Calls that torch itself writes as other calls are opened, where no rule knows them whole."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from fxprune.graph.nodes import hand_over
from fxprune.rules.registry import rule_for

MOST = 200
"""Calls that one may become; a loop that is unrolled is no simpler than the call."""


def open_composites(module: GraphModule) -> None:
    """Put the calls that a composite operator consists of in its place, in place of calls that no
    rule knows (`torch.hstack` is a concatenation, `torch.fliplr` a flip), and so on with these.

    A call that cannot be traced on its own stays as it is.
    """
    waiting = [n for n in module.graph.nodes if is_composite(n)]
    changed = bool(waiting)
    while waiting:
        node = waiting.pop()
        waiting += [n for n in _open(module, node) if is_composite(n)]
    if changed:
        module.graph.eliminate_dead_code()
        module.recompile()


def is_composite(node: Node) -> bool:
    """Whether a call of floating or complex tensors is of an operator that has no kernel of its own
    and no rule.
    """
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    key = "CompositeImplicitAutograd"
    if not torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), key):
        return False
    values = [n.meta.get("val") for n in node.all_input_nodes]
    if not all(isinstance(v, Tensor) for v in tree_leaves(node.meta.get("val"))):
        return False
    channels = any(
        isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex()) for v in values
    )
    return channels and rule_for(target) is None


def _open(module: GraphModule, node: Node) -> list[Node]:
    """The calls that took a call's place; none where it stays."""
    operands = node.all_input_nodes
    place = {operand: number for number, operand in enumerate(operands)}

    def run(*values: Any) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: values[place[n]])
        return node.target.decompose(*args, **kwargs)  # type: ignore[union-attr]

    try:
        inner = make_fx(run)(*(n.meta["val"] for n in operands)).graph
    except Exception:
        return []
    calls = [n for n in inner.nodes if n.op == "call_function"]
    within = tree_leaves(node.meta.get("val"))
    (output,) = inner.find_nodes(op="output")
    results = tree_leaves(output.args[0])
    if len(calls) > MOST or any(n.op == "get_attr" or n.target is node.target for n in inner.nodes):
        return []
    if len(results) != len(within) or not all(isinstance(r, Node) for r in results):
        return []
    inputs = dict(zip(inner.find_nodes(op="placeholder"), operands, strict=True))
    with module.graph.inserting_before(node):
        result: Any = module.graph.graph_copy(inner, inputs)
    made = [inputs[n] for n in calls]
    for call in made:
        call.meta |= {k: v for k, v in node.meta.items() if k == "nn_module_stack"}
    hand_over(node, result)
    return made
