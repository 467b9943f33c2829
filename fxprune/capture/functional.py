"""In-place calls of a trace become calls that return a new tensor."""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

OUT_OF_PLACE: dict[Any, Any] = {operator.iadd: operator.add, operator.imul: operator.mul}
"""Of Python's own in-place operators."""


def mutates(node: Node) -> bool:
    """Whether a call changes one of its arguments; BatchNorm's running statistics do not count in
    eval mode.
    """
    return (
        isinstance(node.target, torch._ops.OpOverload)
        and node.target._schema.is_mutable
        and "batch_norm" not in str(node.target)
    )


def plain_inplace(node: Node) -> bool:
    """Whether nobody reads the operand of an in-place call afterwards, under any name: the call may
    as well be out of place.
    """
    if not isinstance(node.target, torch._ops.OpOverload) or _functional(node.target) is None:
        return False
    source = node.args[0]
    if not isinstance(source, Node) or not _keeps_type(node):
        return False
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    aliases = _aliases(source)
    if any(n.op in ("placeholder", "get_attr") for n in aliases):
        # The caller's tensor or the model's own: only an input that has no other name can be had.
        return (
            source.op == "placeholder"
            and len(aliases) == 1
            and all(order[user] <= order[node] for user in source.users)
        )
    made_before = all(order[alias] <= order[node] for alias in aliases)
    return made_before and all(
        order[user] <= order[node] or user in aliases for alias in aliases for user in alias.users
    )


def _aliases(source: Node) -> set[Node]:
    """A node, the views it comes from, and all views of those."""
    aliases, frontier = {source}, [source]
    while frontier:
        node = frontier.pop()
        related = [user for user in node.users if _is_view(user)]
        if _is_view(node) and isinstance(node.args[0], Node):
            related.append(node.args[0])
        fresh = [other for other in related if other not in aliases]
        aliases.update(fresh)
        frontier += fresh
    return aliases


def _is_view(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.is_view


def _functional(target: torch._ops.OpOverload) -> Any:
    """The out-of-place overload of an in-place operator, or None."""
    name = target._opname
    if not name.endswith("_") or target.namespace != "aten":
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    return getattr(packet, target._overloadname, None) if packet is not None else None


def _keeps_type(node: Node) -> bool:
    """Whether a call gives its operand's dtype out of place too: in place it does, however wide
    its other arguments are and though it may compare.
    """

    def without_values(item: Any) -> Any:
        value = item.meta.get("val")
        if isinstance(value, Tensor):
            sizes = [_concrete(size) for size in value.shape]
            return torch.empty(sizes, dtype=value.dtype, device="meta")
        return _concrete(value)

    try:
        args: Any = map_arg(node.args, without_values)
        kwargs: Any = map_arg(dict(node.kwargs), without_values)
        target: Any = node.target
        result = _functional(target)(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError):
        return False
    same: bool = result.dtype == args[0].dtype
    return same


def _concrete(size: Any) -> Any:
    """A symbolic size as the example's; None where it depends on the data."""
    symbolic = isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool))
    return size.node.hint if symbolic else size


def make_functional(module: GraphModule) -> None:
    """Make in-place calls functional, drop assertions, guards, dead code and training counters'
    reads.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)
        elif node.op == "call_function" and _is_assertion(node):
            if not node.users:
                graph.erase_node(node)
        elif node.op == "call_function":
            node.target = _out_of_place(node)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()


def _is_assertion(node: Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and (
        target._opname.startswith(("_assert", "sym_constrain")) or target.namespace == "_guards"
    )


def _out_of_place(node: Node) -> Any:
    """The operator to call instead of an in-place one; the same one where it is none."""
    if isinstance(node.target, torch._ops.OpOverload):
        return (_functional(node.target) if mutates(node) else None) or node.target
    return OUT_OF_PLACE.get(node.target, node.target)
