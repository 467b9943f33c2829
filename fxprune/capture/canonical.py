"""The second half of capture: what torch.export traced becomes the one form that all later
stations read.
"""

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from fxprune.graph.tensors import names_of


def canonicalize(module: GraphModule) -> tuple[str, ...]:
    """Make calls functional, inline regions, and give every tensor one name under which it is read.

    Args:
        module: of an exported program; changed in place.

    Returns:
        notes for the report.
    """
    _inline_regions(module)
    _make_functional(module)
    _register_tensors(module)
    _one_name_each(module)
    _fold_numbers(module)
    notes = _fold_weights(module)
    _free_layout(module)
    return notes


def _free_layout(module: GraphModule) -> None:
    """Views become reshapes, which give the same on any memory layout: nothing is changed in place
    any more.
    """
    for node in module.graph.nodes:
        if node.target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            node.target = torch.ops.aten.reshape.default
    module.recompile()


REGIONS = {"wrap_with_set_grad_enabled": (0, 1), "wrap_with_autocast": (2, 4)}


def _inline_regions(module: GraphModule) -> None:
    """Gradient and disabled autocast regions, traced as calls of a graph of their own, become part
    of the graph.
    """
    graph = module.graph
    for node in list(graph.nodes):
        flag, place = REGIONS.get(getattr(node.target, "__name__", ""), (0, 0))
        if (
            node.op != "call_function"
            or not place
            or "autocast" in node.target.__name__
            and node.args[flag]
        ):
            continue
        inner = getattr(module, node.args[place].target)
        inputs = [n for n in inner.graph.nodes if n.op == "placeholder"]
        values = dict(zip(inputs, node.args[place + 1 :], strict=True))
        with graph.inserting_before(node):
            results = graph.graph_copy(inner.graph, values)
        for user in list(node.users):
            if user.target is operator.getitem and isinstance(results, (tuple, list)):
                user.replace_all_uses_with(results[user.args[1]])
                graph.erase_node(user)
        if node.users:
            node.replace_all_uses_with(results)
        graph.erase_node(node)


def _register_tensors(module: GraphModule) -> None:
    """Tensors that the trace left as plain attributes (non-persistent buffers, constants) become
    buffers.
    """
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        path, _, leaf = str(node.target).rpartition(".")
        owner = module.get_submodule(path)
        held = getattr(owner, leaf)
        if (
            isinstance(held, Tensor)
            and leaf not in owner._parameters
            and leaf not in owner._buffers
        ):
            delattr(owner, leaf)
            owner.register_buffer(leaf, held, persistent=False)


def _one_name_each(module: GraphModule) -> None:
    """Calls read a shared tensor (siamese branches, tied embeddings) under its first name, so that
    it is one weight to all that follows.
    """
    names = names_of(module)
    for node in module.graph.nodes:
        if node.op == "get_attr":
            node.target = names.get(str(node.target), node.target)


def _constants(module: GraphModule) -> set[Node]:
    """Nodes that depend on no input."""
    found: set[Node] = set()
    for node in module.graph.nodes:
        inputs = node.all_input_nodes
        if (
            node.op == "get_attr"
            or node.op == "call_function"
            and inputs
            and found.issuperset(inputs)
        ):
            found.add(node)
    return found


def _fold_numbers(module: GraphModule) -> None:
    """Numbers that a model reads from its own tensors (strides, temperatures) become numbers in
    the graph.
    """
    constant = _constants(module)
    numbers: dict[Node, Any] = {}
    known: dict[Node, Any] = {}
    for node in list(module.graph.nodes):
        if (
            getattr(node.target, "_opname", "") in ("item", "_local_scalar_dense")
            and node in constant
        ):
            numbers[node] = _evaluate(module, node, known)
        elif not numbers.keys().isdisjoint(node.all_input_nodes):
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: numbers.get(n, n))
            if (
                numbers.keys() >= set(node.all_input_nodes)
                and getattr(node.target, "__module__", "") == "_operator"
            ):
                numbers[node] = node.target(*args, **kwargs)
            else:
                node.args, node.kwargs = args, kwargs
    for node in reversed(numbers):
        module.graph.erase_node(node)


READERS = ("conv", "linear")


def _fold_weights(module: GraphModule) -> tuple[str, ...]:
    """Weights that the model computes from parameters alone (weight norm, weight standardization)
    become parameters.

    A channel's share in such a weight changes with the channels beside it, so nothing could be
    removed otherwise. Returns a note per weight.
    """
    graph, notes, constant = module.graph, [], _constants(module)
    for node in list(graph.nodes):
        name = getattr(node.target, "_opname", "")
        if not name.startswith(READERS) or len(node.args) < 2 or not isinstance(node.args[1], Node):
            continue
        weight = node.args[1]
        if weight.op != "call_function" or weight not in constant or _is_movement(weight):
            continue
        path = _layer_path(node)
        target = f"{path}.weight" if path else f"computed_{weight.name}"
        value = _evaluate(module, weight, {})
        taken = [
            n
            for n in graph.nodes
            if n.op == "get_attr" and n.target == target and not _only_feeds(n, weight)
        ]
        if not isinstance(value, Tensor) or taken:
            continue
        _set_parameter(module, target, nn.Parameter(value.detach().clone()))
        with graph.inserting_before(weight):
            held = graph.get_attr(target)
        held.meta = {k: v for k, v in weight.meta.items() if k == "val"} | {
            "nn_module_stack": node.meta.get("nn_module_stack", {})
        }
        weight.replace_all_uses_with(held)
        constant.add(held)
        notes.append(
            f"{target}: the weight that is computed from other parameters is folded into one"
        )
    if notes:
        graph.eliminate_dead_code()
        module.recompile()
    return tuple(notes)


def _is_movement(node: Node) -> bool:
    """Transposes and views of a parameter, all the way up."""
    moves = (
        isinstance(node.target, torch._ops.OpOverload)
        and node.target.is_view
        or node.target is operator.getitem
    )
    return node.op == "get_attr" or moves and all(_is_movement(i) for i in node.all_input_nodes)


def _only_feeds(node: Node, last: Node) -> bool:
    """Whether everything that reads a node ends in `last`."""
    inside, frontier = {last}, [last]
    while frontier:
        fresh = [source for source in frontier.pop().all_input_nodes if source not in inside]
        inside.update(fresh)
        frontier += fresh
    seen, frontier = {node}, [node]
    while frontier:
        users = [user for user in frontier.pop().users if user is not last and user not in seen]
        if not inside.issuperset(users):
            return False
        seen.update(users)
        frontier += users
    return True


def _layer_path(node: Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    return path.removeprefix("L['self'].").removeprefix("L['self']")


def _evaluate(module: GraphModule, node: Node, known: dict[Node, Any]) -> Any:
    """The value of a node that depends on parameters only."""
    if node not in known:
        if node.op == "get_attr":
            known[node] = operator.attrgetter(str(node.target))(module)
        else:
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: _evaluate(module, n, known))
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return known[node]


def _set_parameter(module: GraphModule, target: str, value: nn.Parameter) -> None:
    path, _, leaf = target.rpartition(".")
    owner: nn.Module = module
    for part in path.split(".") if path else ():
        if not hasattr(owner, part):
            owner.add_module(part, nn.Module())
        owner = getattr(owner, part)
    if leaf in owner._parameters:
        del owner._parameters[leaf]
    elif hasattr(owner, leaf):
        delattr(owner, leaf)
    owner.register_parameter(leaf, value)


def mutates(node: Node) -> bool:
    return (
        isinstance(node.target, torch._ops.OpOverload)
        and node.target._schema.is_mutable
        and "batch_norm" not in str(node.target)
    )


def _functional(target: torch._ops.OpOverload) -> Any:
    """The out-of-place overload of an in-place operator, or None."""
    name = target._opname
    if not name.endswith("_") or target.namespace != "aten":
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    return getattr(packet, target._overloadname, None) if packet is not None else None


def plain_inplace(node: Node) -> bool:
    """An in-place call whose operand nobody reads afterwards, under any name: it may as well be
    out of place.
    """
    if not isinstance(node.target, torch._ops.OpOverload) or _functional(node.target) is None:
        return False
    source = node.args[0]
    if not isinstance(source, Node):
        return False
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    seen = {source}
    frontier = [source]
    # Every alias of the operand: the views it comes from and all views of those.
    while frontier:
        at = frontier.pop()
        if (
            isinstance(at.target, torch._ops.OpOverload)
            and at.target.is_view
            and isinstance(at.args[0], Node)
        ):
            found = [at.args[0]]
        else:
            found = []
        found += [
            u for u in at.users if isinstance(u.target, torch._ops.OpOverload) and u.target.is_view
        ]
        for other in found:
            if other not in seen:
                seen.add(other)
                frontier.append(other)
    if any(n.op in ("placeholder", "get_attr") for n in seen):
        return (
            source.op == "placeholder"
            and len(seen) == 1
            and all(order[u] <= order[node] for u in source.users)
        )
    return all(
        order[user] <= order[node] or user in seen for alias in seen for user in alias.users
    ) and all(order[alias] <= order[node] for alias in seen)


def _make_functional(module: GraphModule) -> None:
    """Make in-place calls functional, drop assertions, guards, dead code and training counters'
    reads.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)
            continue
        if node.op != "call_function":
            continue
        if isinstance(node.target, torch._ops.OpOverload):
            if (
                node.target._opname.startswith(("_assert", "sym_constrain"))
                or node.target.namespace == "_guards"
            ):
                if not node.users:
                    graph.erase_node(node)
                continue
            replacement = _functional(node.target) if mutates(node) else None
            if replacement is not None:
                node.target = replacement
        elif node.target in (operator.iadd, operator.imul):
            node.target = operator.add if node.target is operator.iadd else operator.mul
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
