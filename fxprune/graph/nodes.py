"""Facts about nodes of a graph: what they read, where they came from, what they name."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.fx import GraphModule, Node


def attribute(module: nn.Module, name: str) -> Any:
    """A (nested) attribute by its qualified name; the module itself by the empty one."""
    for part in name.split(".") if name else ():
        module = getattr(module, part)
    return module


def argument(node: Node, index: int, default: Any = None) -> Any:
    """A positional argument of a call, or what it is where the call leaves it out."""
    return node.args[index] if len(node.args) > index else default


def only_user(node: Node) -> Node | None:
    """The one node that reads a node's result; None where none does, or several do."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def hand_over(node: Node, result: Node | Sequence[Node]) -> None:
    """Let the users of a call read what takes its place, each part of several in its own, and erase
    it.
    """
    if isinstance(result, Node):
        node.replace_all_uses_with(result)
    else:
        for user in list(node.users):
            user.replace_all_uses_with(result[user.args[1]])  # type: ignore[index]
            node.graph.erase_node(user)
    node.graph.erase_node(node)


def module_path(node: Node) -> str:
    """Qualified name of the module whose forward made a call; empty for the model's own."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0] if stack else ""
    if not isinstance(path, str):
        return ""
    # Traces that read the source name the model itself so.
    return path.removeprefix("L['self']").removeprefix(".")


def where(node: Node) -> str:
    """A node for people: the module it came from and its name."""
    return f"{module_path(node) or 'model'}: {node.name}"


def constants(module: GraphModule, made: bool = True) -> set[Node]:
    """Nodes that depend on no input.

    Args:
        module: any graph.
        made: whether calls that read nothing (`arange`, `rand`) and what follows from them count;
            otherwise only what follows from parameters and buffers.
    """
    constant: set[Node] = set()
    for node in module.graph.nodes:
        sources = node.all_input_nodes
        if node.op == "get_attr" or (
            node.op == "call_function" and (made or sources) and constant.issuperset(sources)
        ):
            constant.add(node)
    return constant


def reads_input(node: Node) -> bool:
    """Whether a node depends on an input of the graph."""
    seen, left = {node}, [node]
    while left:
        current = left.pop()
        if current.op == "placeholder":
            return True
        new = [n for n in current.all_input_nodes if n not in seen]
        seen.update(new)
        left += new
    return False
