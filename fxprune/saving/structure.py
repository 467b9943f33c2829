"""The structure of a graph's inputs and outputs as JSON and back: torch's pytrees without types
that need their source.
"""

from collections import OrderedDict
from typing import Any

from torch.fx import Graph
from torch.fx.graph import CodeGen, _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from fxprune.errors import StorageError
from fxprune.graph.arguments import REQUIRED, Argument, CheckedArguments
from fxprune.saving.checks import check_identifier, field
from fxprune.saving.values import Decoder, encode


def encode_structure(graph: Graph, notes: list[str]) -> dict[str, Any] | None:
    """Argument names and the nests of inputs and outputs; None for a graph of plain arguments.

    Args:
        graph: of what `compress` returned.
        notes: what the file loses is appended.

    Raises:
        StorageError: the model takes or returns something that cannot be loaded without its source.
    """
    codegen = graph._codegen
    if not isinstance(codegen, _PyTreeCodeGen):
        if type(codegen) is not CodeGen:
            raise StorageError(
                f"The graph is written by a {type(codegen).__name__}, which cannot be saved."
            )
        return None
    info = codegen.pytree_info
    structure = {
        "names": list(info.orig_args),
        "inputs": encode(_skeleton(info.in_spec, notes)),
        "outputs": None,
    }
    if info.out_spec is not None:
        structure["outputs"] = [encode(_skeleton(info.out_spec, notes))]
    if isinstance(codegen, CheckedArguments):
        structure["arguments"] = [
            encode(
                [
                    a.name,
                    a.keyword_only,
                    [] if a.default is REQUIRED else [a.default],
                    [] if a.leaves is None else [list(a.leaves)],
                    a.most,
                    [list(span) for span in a.sizes],
                ]
            )
            for a in codegen.arguments
        ]
    return structure


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


def decode_codegen(graph: Graph, structure: dict[str, Any], decoder: Decoder) -> _PyTreeCodeGen:
    """What writes the forward of a graph: its nests of inputs and outputs, and checked arguments.

    Raises:
        StorageError: it does not fit the graph.
    """
    info = decode_structure(graph, structure, decoder)
    if "arguments" not in structure:
        return _PyTreeCodeGen(info)
    arguments = [_decode_argument(decoder(held)) for held in field(structure, "arguments", list)]
    names = [a.name for a in arguments]
    if len(set(names)) != len(names) or not set(info.orig_args) <= set(names):
        raise StorageError("The file's checked arguments are not those of its graph.")
    return CheckedArguments(info, arguments)


def _decode_argument(held: Any) -> Argument:
    """One checked argument, whose constants have nothing in them but constants."""
    try:
        name, keyword_only, default, leaves, most, *sizes = held
        return Argument(
            check_identifier(name),
            bool(keyword_only),
            default[0] if default else REQUIRED,
            tuple(leaves[0]) if leaves else None,
            most,
            tuple(tuple(span) for span in (sizes[0] if sizes else ())),
        )
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise StorageError(f"The file describes an argument as {str(held)[:80]}.") from error


def decode_structure(graph: Graph, structure: dict[str, Any], decoder: Decoder) -> _PyTreeInfo:
    """`encode_structure` backwards, checked against the graph's inputs and outputs.

    Raises:
        StorageError: it does not fit the graph.
    """
    names = [check_identifier(n) for n in field(structure, "names", list)]
    inputs = decoder(field(structure, "inputs", dict))
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
    outputs = field(structure, "outputs", (list, type(None)))
    if outputs is None:
        return _PyTreeInfo(names, spec, None)
    if len(outputs) != 1:
        raise StorageError("The file's outputs have no structure.")
    out = pytree.tree_structure(decoder(outputs[0]))
    returned = list(graph.nodes)[-1].args[0]
    if not isinstance(returned, (list, tuple)) or out.num_leaves != len(returned):
        raise StorageError("The file's outputs do not fit their structure.")
    return _PyTreeInfo(names, spec, out)
