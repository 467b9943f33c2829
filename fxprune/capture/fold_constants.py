"""Numbers and weights that a model computes from its own parameters become constants."""

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from fxprune.graph.convolution import reads_weight
from fxprune.graph.nodes import argument, attribute, constants, module_path
from fxprune.graph.tensors import MADE, is_made, set_parameter

FOLDED = "the weight that is computed from other parameters is folded into one"
"""Note on a weight, after its name."""


def fold_numbers(module: GraphModule) -> None:
    """Numbers that a model reads from its own tensors (strides, temperatures) become numbers in
    the graph.
    """
    constant = constants(module, made=False)
    numbers: dict[Node, Any] = {}
    known: dict[Node, Any] = {}
    for node in list(module.graph.nodes):
        if _reads_number(node) and node in constant:
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


def _reads_number(node: Node) -> bool:
    return getattr(node.target, "_opname", "") in ("item", "_local_scalar_dense")


def fold_weights(module: GraphModule) -> tuple[str, ...]:
    """Weights that the model computes from parameters alone (weight norm, weight standardization)
    become parameters.

    A channel's share in such a weight changes with the channels beside it, so nothing could be
    removed otherwise. Returns a note per weight.
    """
    graph, notes, constant = module.graph, [], constants(module, made=False)
    for node in list(graph.nodes):
        weight = argument(node, 1)
        if not reads_weight(node) or not isinstance(weight, Node):
            continue
        if weight.op != "call_function" or weight not in constant or _is_movement(weight):
            continue
        path, made = module_path(node), _is_made(weight)
        target = f"{path}.weight" if path else f"computed_{weight.name}"
        value = _evaluate(module, weight, {})
        if not isinstance(value, Tensor) or (not made and _is_taken(target, weight)):
            continue
        value = value.detach().clone(memory_format=torch.contiguous_format)
        if made:
            target = f"{MADE}.{weight.name}"
            module.get_submodule(MADE).register_buffer(weight.name, value, persistent=False)
        else:
            set_parameter(module, target, nn.Parameter(value))
            notes.append(f"{target}: {FOLDED}")
        with graph.inserting_before(weight):
            folded = graph.get_attr(target)
        folded.meta = {k: v for k, v in weight.meta.items() if k == "val"} | {
            "nn_module_stack": node.meta.get("nn_module_stack", {})
        }
        weight.replace_all_uses_with(folded)
        constant.add(folded)
    graph.eliminate_dead_code()
    module.recompile()
    return tuple(notes)


def _is_made(weight: Node) -> bool:
    """Whether a weight comes from constants alone that the forward makes."""
    if weight.op == "get_attr":
        return is_made(str(weight.target))
    return all(map(_is_made, weight.all_input_nodes))


def _is_movement(node: Node) -> bool:
    """Transposes and views of a parameter, all the way up."""
    moves = (
        isinstance(node.target, torch._ops.OpOverload)
        and node.target.is_view
        or node.target is operator.getitem
    )
    return node.op == "get_attr" or moves and all(_is_movement(i) for i in node.all_input_nodes)


def _is_taken(target: str, weight: Node) -> bool:
    """Whether a parameter of this name is read by more than what makes `weight`."""
    reads = (n for n in weight.graph.nodes if n.op == "get_attr" and n.target == target)
    return any(not _only_feeds(node, weight) for node in reads)


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


def _evaluate(module: GraphModule, node: Node, known: dict[Node, Any]) -> Any:
    """The value of a node that depends on parameters only."""
    if node not in known:
        if node.op == "get_attr":
            known[node] = attribute(module, str(node.target))
        else:
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: _evaluate(module, n, known))
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return known[node]
