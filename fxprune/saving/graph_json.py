"""A compressed graph as JSON and back: layers, operators and constants by name, from fixed tables
only.

Every callable comes out of a table or the dispatcher's list of `aten` operators, and every string
that could reach the source that torch.fx compiles is checked first.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.fx import Graph, GraphModule, Node

from fxprune.errors import StorageError
from fxprune.handover.module import CompressedModule
from fxprune.saving.checks import check_identifier, field
from fxprune.saving.layers import LAYERS
from fxprune.saving.operators import (
    FUNCTIONS,
    NAMES_OF_FUNCTIONS,
    check_call,
    operator_named,
    operator_text,
)
from fxprune.saving.structure import decode_codegen, encode_structure
from fxprune.saving.values import Decoder, encode


def encode_graph(module: GraphModule, notes: list[str]) -> dict[str, Any]:
    """The nodes and the structure of inputs and outputs.

    Args:
        module: what `compress` returned.
        notes: what the file loses is appended.

    Raises:
        StorageError: something in the graph has no name in the file; says what.
    """
    nodes: list[dict[str, Any]] = []
    for node in module.graph.nodes:
        if node.op == "call_function":
            target = NAMES_OF_FUNCTIONS.get(node.target) or operator_text(node.target)
        elif node.op in ("placeholder", "get_attr", "call_module", "output") and isinstance(
            node.target, str
        ):
            target = node.target
        else:
            raise StorageError(f"Node {node.name} is a {node.op}, which cannot be saved.")
        nodes.append(
            {
                "op": node.op,
                "name": node.name,
                "target": target,
                "args": [encode(a) for a in node.args],
                "kwargs": {k: encode(v) for k, v in node.kwargs.items()},
            }
        )
    return {"nodes": nodes, "structure": encode_structure(module.graph, notes)}


def decode_graph(
    root: nn.Module, description: dict[str, Any], decoder: Decoder, name: str
) -> GraphModule:
    """Rebuild a GraphModule over layers and tensors that are already in place.

    Args:
        root: holds every layer and tensor that the nodes name.
        description: what `encode_graph` wrote.
        decoder: with no node known yet.
        name: of the class.

    Raises:
        StorageError: the description is not one that `encode_graph` writes.
    """
    layers = {
        path for path, layer in root.named_modules(remove_duplicate=False) if type(layer) in LAYERS
    }
    tensors = {n for n, _ in root.named_parameters(remove_duplicate=False)} | {
        n for n, _ in root.named_buffers(remove_duplicate=False)
    }
    graph = Graph()
    for entry in field(description, "nodes", list):
        given = check_identifier(field(entry, "name", str))
        if given in decoder.nodes:
            raise StorageError(f"The file's graph has two nodes {given!r}.")
        decoder.nodes[given] = _node(graph, entry, given, decoder, layers, tensors)
    ops = [n.op for n in graph.nodes]
    if ops.count("output") != 1 or ops[-1] != "output":
        raise StorageError("The file's graph does not end in its only output.")
    structure = field(description, "structure", (dict, type(None)))
    if structure is not None:
        graph.set_codegen(decode_codegen(graph, structure, decoder))
    graph.lint()
    small = CompressedModule(root, graph, check_identifier(name))
    # All of the root, in its order, not only what the graph reads.
    for attribute in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
        setattr(small, attribute, getattr(root, attribute))
    return small


def _node(
    graph: Graph, entry: Any, name: str, decoder: Decoder, layers: set[str], tensors: set[str]
) -> Node:
    op, target = field(entry, "op", str), field(entry, "target", str)
    args = tuple(decoder(a) for a in field(entry, "args", list))
    kwargs = {check_identifier(k): decoder(v) for k, v in field(entry, "kwargs", dict).items()}
    if op in ("placeholder", "get_attr", "output") and (kwargs or len(args) != (op == "output")):
        raise StorageError(
            f"Node {name} of the file's graph has arguments that a {op} does not take."
        )
    callee: str | Callable[..., Any] = target
    if op == "placeholder":
        check_identifier(target)
    elif op == "get_attr":
        if target not in tensors:
            raise StorageError(
                f"Node {name} of the file's graph reads the tensor {target[:80]!r}, which is not "
                "in the file."
            )
    elif op == "call_module":
        if target not in layers:
            raise StorageError(
                f"Node {name} of the file's graph calls the layer {target[:80]!r}, which is not "
                "in the file."
            )
        if kwargs or len(args) != 1 or not isinstance(args[0], Node):
            raise StorageError(
                f"Node {name} of the file's graph calls {target} on something else than one tensor."
            )
    elif op == "call_function":
        callee = FUNCTIONS[target][0] if target in FUNCTIONS else operator_named(target)
        check_call(target, callee, args, kwargs)
    elif op != "output":
        raise StorageError(f"Node {name} of the file's graph is a {op[:80]!r}.")
    return graph.create_node(op, callee, args, kwargs, name)
