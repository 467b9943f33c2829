"""A compressed graph as JSON and back: layers, operators and constants by name, from fixed tables
only.

A GraphModule compiles its graph to Python source, into which torch.fx writes argument names,
keyword names and attribute paths verbatim. So every string that could reach that source is matched
against a pattern first, and every callable comes out of a table or the dispatcher's list of `aten`
operators.
"""

import keyword
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen, _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from fxprune.errors import StorageError
from fxprune.saving.operators import (
    FUNCTIONS,
    LAYERS,
    NAMES_OF_FUNCTIONS,
    check_call,
    operator_named,
    operator_text,
)

MOST_NESTED = 16
"""Deepest nesting of containers in an argument."""
PART = re.compile(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_ +:@<>=|,-]*", re.ASCII)
IDENTIFIER = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
RESERVED = frozenset({"self", "torch", "fx_pytree", "pytree", "getattr"})
"""Names that the compiled source relies on."""
DEVICE = re.compile(r"[a-z]{1,16}(:\d{1,3})?", re.ASCII)
DTYPES = {
    str(v).removeprefix("torch."): v for v in vars(torch).values() if isinstance(v, torch.dtype)
}
FORMATS = {
    str(v).removeprefix("torch."): v
    for v in vars(torch).values()
    if isinstance(v, torch.memory_format)
}
LAYOUTS = {
    str(v).removeprefix("torch."): v for v in vars(torch).values() if isinstance(v, torch.layout)
}
TAGGED: tuple[tuple[str, type, dict[str, Any]], ...] = (
    ("dtype", torch.dtype, DTYPES),
    ("memory_format", torch.memory_format, FORMATS),
    ("layout", torch.layout, LAYOUTS),
)


def field(held: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    """An entry of a JSON object.

    Raises:
        StorageError: `held` is no object, or the entry is missing or of another type.
    """
    if not isinstance(held, dict) or name not in held:
        raise StorageError(f"The file's description lacks {name!r}.")
    value = held[name]
    if not isinstance(value, kind) or isinstance(value, bool) and kind is int:
        raise StorageError(f"The file's description holds a {type(value).__name__} as {name!r}.")
    return value


def check_path(path: Any) -> str:
    """A qualified name of a module or tensor.

    Raises:
        StorageError: it is not words joined by dots.
    """
    if (
        not isinstance(path, str)
        or len(path) > 1000
        or not all(PART.fullmatch(part) for part in path.split("."))
    ):
        raise StorageError(
            f"{str(path)[:80]!r} is not the name of a layer or tensor: names are letters, digits "
            "and _ joined by dots."
        )
    return path


def check_identifier(name: Any) -> str:
    """A Python identifier.

    Raises:
        StorageError: it is something else, a keyword, begins with two underscores, or hides what
            the compiled source relies on.
    """
    if (
        not isinstance(name, str)
        or not IDENTIFIER.fullmatch(name)
        or keyword.iskeyword(name)
        or name in RESERVED
        or len(name) > 1000
    ):
        raise StorageError(f"{str(name)[:80]!r} is not the name of an argument.")
    return name


def encode(value: Any) -> Any:
    """A constant, a node, or a nest of them, as JSON; what JSON has no type for becomes an object
    with one tagged entry.

    Raises:
        StorageError: the type is none that a graph may hold.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, complex) and math.isfinite(value.real) and math.isfinite(value.imag):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if value is Ellipsis:
        return {"ellipsis": None}
    if isinstance(value, slice):
        return {"slice": [encode(v) for v in (value.start, value.stop, value.step)]}
    for tag, kind, _ in TAGGED:
        if isinstance(value, kind):
            return {tag: str(value).removeprefix("torch.")}
    if isinstance(value, OrderedDict):
        return {"ordered": [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, dict):
        return {"dict": [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {"tuple": [encode(v) for v in value]}
    if isinstance(value, list):
        return [encode(v) for v in value]
    raise StorageError(
        f"A {type(value).__name__} in the graph cannot be saved. Save the state dict, or compress "
        "the part without it."
    )


class Decoder:
    """`encode` backwards, with the nodes known so far.

    Args:
        nodes: by name.
        saved, device: constants on the device the model was saved from are put on this one.
    """

    def __init__(self, nodes: dict[str, Node], saved: torch.device, device: torch.device):
        self.nodes, self._saved, self._device = nodes, saved, device

    def __call__(self, value: Any, depth: int = 0) -> Any:
        """The value that `encode` wrote.

        Raises:
            StorageError: it wrote no such thing.
        """
        if depth > MOST_NESTED:
            raise StorageError("An argument in the file's graph is nested too deep.")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise StorageError("A number in the file's graph does not fit 64 bits.")
        if (
            value is None
            or isinstance(value, (bool, int, str))
            or isinstance(value, float)
            and math.isfinite(value)
        ):
            return value
        if isinstance(value, list):
            return [self(v, depth + 1) for v in value]
        if isinstance(value, dict) and len(value) == 1:
            ((tag, held),) = value.items()
            return self._tagged(tag, held, depth)
        raise StorageError(f"{str(value)[:80]} in the file's graph is not a value.")

    def _tagged(self, tag: str, held: Any, depth: int) -> Any:
        if isinstance(held, list):
            if tag == "tuple":
                return tuple(self(v, depth + 1) for v in held)
            if tag in ("dict", "ordered") and all(
                isinstance(pair, list) and len(pair) == 2 for pair in held
            ):
                pairs = [(self(k, depth + 1), self(v, depth + 1)) for k, v in held]
                if all(isinstance(k, (str, int)) for k, _ in pairs):
                    return dict(pairs) if tag == "dict" else OrderedDict(pairs)
            if tag == "slice" and len(held) == 3:
                return slice(*(self(v, depth + 1) for v in held))
            if (
                tag == "complex"
                and len(held) == 2
                and all(isinstance(v, (int, float)) and math.isfinite(v) for v in held)
            ):
                return complex(*held)
        elif isinstance(held, str):
            if tag == "node" and held in self.nodes:
                return self.nodes[held]
            if tag == "float" and held in ("inf", "-inf", "nan"):
                return float(held)
            if tag == "device" and DEVICE.fullmatch(held):
                found = torch.device(held)
                return self._device if found.type == self._saved.type else found
            for name, _, table in TAGGED:
                if tag == name and held in table:
                    return table[held]
        elif tag == "ellipsis" and held is None:
            return Ellipsis
        raise StorageError(
            f"{str({tag: held})[:80]} in the file's graph is not a value, or names a node that "
            "comes later."
        )


def _skeleton(spec: pytree.TreeSpec, notes: list[str]) -> Any:
    """An input or output structure with None as leaves; types that need their source become plain
    dicts and tuples, and a note.
    """
    if spec.is_leaf():
        return None
    children = [_skeleton(child, notes) for child in spec.children()]
    kind, context = spec.type, spec.context
    if kind in (tuple, list):
        return kind(children)
    if kind in (dict, OrderedDict):
        return kind(zip(context, children, strict=True))
    # A namedtuple's type is its context.
    named = pytree.is_namedtuple_class(context) or pytree.is_namedtuple_class(kind)
    name = str(
        getattr(context if pytree.is_namedtuple_class(context) else kind, "__qualname__", kind)
    )
    if named:
        notes.append(
            f"a {name} among the inputs or outputs becomes a plain tuple when the saved model is "
            "loaded"
        )
        return tuple(children)
    # Registered dataclasses keep [names, names of what is None]; mappings keep their keys.
    keys = (
        context[0]
        if isinstance(context, (list, tuple))
        and len(context) == 2
        and isinstance(context[0], (list, tuple))
        else context
    )
    if (
        isinstance(keys, (list, tuple))
        and len(keys) == len(children)
        and all(isinstance(k, str) for k in keys)
    ):
        notes.append(
            f"a {name} among the inputs or outputs becomes a plain dict when the saved model is "
            "loaded"
        )
        return dict(zip(keys, children, strict=True))
    raise StorageError(
        f"The model takes or returns a {name}, which cannot be loaded without its source. Wrap "
        "the model so that its inputs and "
        "outputs are tensors, tuples, lists and dicts."
    )


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
    codegen = module.graph._codegen
    if not isinstance(codegen, _PyTreeCodeGen):
        if type(codegen) is not CodeGen:
            raise StorageError(
                f"The graph is written by a {type(codegen).__name__}, which cannot be saved."
            )
        return {"nodes": nodes, "structure": None}
    info = codegen.pytree_info
    structure = {
        "names": list(info.orig_args),
        "inputs": encode(_skeleton(info.in_spec, notes)),
        "outputs": None,
    }
    if info.out_spec is not None:
        structure["outputs"] = [encode(_skeleton(info.out_spec, notes))]
    return {"nodes": nodes, "structure": structure}


def decode_graph(root: nn.Module, held: dict[str, Any], decoder: Decoder, name: str) -> GraphModule:
    """Rebuild a GraphModule over layers and tensors that are already in place.

    Args:
        root: holds every layer and tensor that the nodes name.
        held: what `encode_graph` wrote.
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
    for entry in field(held, "nodes", list):
        given = check_identifier(field(entry, "name", str))
        if given in decoder.nodes:
            raise StorageError(f"The file's graph has two nodes {given!r}.")
        decoder.nodes[given] = _node(graph, entry, given, decoder, layers, tensors)
    ops = [n.op for n in graph.nodes]
    if ops.count("output") != 1 or ops[-1] != "output":
        raise StorageError("The file's graph does not end in its only output.")
    structure = field(held, "structure", (dict, type(None)))
    if structure is not None:
        graph.set_codegen(_PyTreeCodeGen(_structure(graph, structure, decoder)))
    graph.lint()
    small = GraphModule(root, graph, check_identifier(name))
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
    found: str | Callable[..., Any] = target
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
        found = FUNCTIONS[target][0] if target in FUNCTIONS else operator_named(target)
        check_call(target, found, args, kwargs)
    elif op != "output":
        raise StorageError(f"Node {name} of the file's graph is a {op[:80]!r}.")
    return graph.create_node(op, found, args, kwargs, name)


def _structure(graph: Graph, held: dict[str, Any], decoder: Decoder) -> _PyTreeInfo:
    names = [check_identifier(n) for n in field(held, "names", list)]
    inputs = decoder(field(held, "inputs", dict))
    if not (
        isinstance(inputs, tuple)
        and len(inputs) == 2
        and isinstance(inputs[0], tuple)
        and isinstance(inputs[1], dict)
    ):
        raise StorageError("The file's inputs are not positional and keyword arguments.")
    keywords = [check_identifier(k) for k in inputs[1]]
    spec = pytree.tree_structure(inputs)
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    if len(set(names)) != len(names) or len(names) != len(inputs[0]) + len(keywords):
        raise StorageError("The file's argument names do not fit its inputs.")
    if spec.num_leaves != len(placeholders):
        raise StorageError(
            f"The file's graph has {len(placeholders)} inputs, its structure {spec.num_leaves}."
        )
    outputs = field(held, "outputs", (list, type(None)))
    if outputs is None:
        return _PyTreeInfo(names, spec, None)
    if len(outputs) != 1:
        raise StorageError("The file's outputs have no structure.")
    out = pytree.tree_structure(decoder(outputs[0]))
    returned = list(graph.nodes)[-1].args[0]
    if not isinstance(returned, (list, tuple)) or out.num_leaves != len(returned):
        raise StorageError("The file's outputs do not fit their structure.")
    return _PyTreeInfo(names, spec, out)
