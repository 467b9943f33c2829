"""Facts about one node of a graph: what it reads, where it came from."""

from typing import Any

import torch
from torch.fx import GraphModule, Node


def attribute(module: torch.nn.Module, name: str) -> Any:
    """A (nested) attribute by its qualified name."""
    for part in name.split("."):
        module = getattr(module, part)
    return module


def where(node: Node) -> str:
    """A node for people: the module it came from and its name."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0] if stack else ""
    path = path.removeprefix("L['self'].") if isinstance(path, str) else ""
    return f"{path or 'model'}: {node.name}"


def constants(module: GraphModule) -> set[Node]:
    """Nodes that depend on no input."""
    found: set[Node] = set()
    for node in module.graph.nodes:
        if node.op == "get_attr" or (
            node.op == "call_function" and found.issuperset(node.all_input_nodes)
        ):
            found.add(node)
    return found
