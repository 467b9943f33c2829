"""Types of what a model returns, made known to torch.export."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph
from torch.utils import _pytree as pytree


class Attributes(NamedTuple):
    """What an object holds beside tensors.

    Attributes:
        names: of the attributes that hold tensors or free sizes.
        rest: the other attributes, by name.
    """

    names: tuple[str, ...]
    rest: tuple[tuple[str, Any], ...]


def register_outputs(output: Any) -> None:
    """Make the types in a model's output known to torch's pytrees, which torch.export asks for:
    dataclasses, and objects that hold tensors among their attributes, such as caches of keys and
    values; others and known ones are left alone.

    Args:
        output: what the model returned.
    """
    _register(output, set())


def _register(output: Any, seen: set[int]) -> None:
    """`register_outputs`, but of objects that were met on the way here."""
    if id(output) in seen:
        return
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif isinstance(output, (tuple, list)):
        parts = list(output)
    elif is_dataclass(output) and not isinstance(output, type):
        parts = [getattr(output, field.name) for field in fields(output)]
    elif _is_object(output):  # a known one may hold others than it did when it was made known
        parts = list(vars(output).values())
    else:
        return
    for part in parts:
        _register(part, seen | {id(output)})
    if isinstance(output, (Mapping, tuple, list)) or not pytree.tree_structure(output).is_leaf():
        return
    if is_dataclass(output):
        torch.export.register_dataclass(type(output), serialized_type_name=_name(type(output)))
    elif any(map(_holds_tensors, parts)):
        register_object(type(output))


def register_object(kind: type) -> None:
    """Make a class known whose objects are what their attributes are.

    An object is taken apart into the attributes that hold tensors and the others, and made again
    of both without a call of its constructor.
    """
    pytree.register_pytree_node(kind, _flatten, _Maker(kind), serialized_type_name=_name(kind))


def is_state(value: Any) -> bool:
    """Whether a part of an output is an object that later calls read (a cache of keys and values)
    and no container of outputs: not a mapping, a sequence or a dataclass.
    """
    if isinstance(value, (Mapping, tuple, list, Tensor)) or is_dataclass(value):
        return False
    return _is_object(value) and not pytree.tree_structure(value).is_leaf()


def state_leaves(graph: Graph) -> frozenset[int]:
    """Which of a graph's flat outputs are parts of such objects, by their places."""
    info = getattr(graph._codegen, "pytree_info", None)
    found, place = set[int](), 0
    waiting = [] if info is None or info.out_spec is None else [(info.out_spec, False)]
    while waiting:
        spec, inside = waiting.pop()
        if spec.is_leaf():
            found |= {place} if inside else set()
            place += 1
            continue
        kind = spec.type
        inside = inside or _is_state_type(kind)
        waiting += [(child, inside) for child in reversed(spec.children())]
    return frozenset(found)


def _is_state_type(kind: Any) -> bool:
    plain = (Mapping, tuple, list)
    return isinstance(kind, type) and not issubclass(kind, plain) and not is_dataclass(kind)


def _flatten(value: Any) -> tuple[list[Any], Attributes]:
    held = {name: part for name, part in vars(value).items() if _holds_tensors(part)}
    rest = tuple((name, part) for name, part in vars(value).items() if name not in held)
    return list(held.values()), Attributes(tuple(held), rest)


class _Maker:
    """Makes an object of its attributes again.

    Args:
        kind: its class.
    """

    def __init__(self, kind: type):
        self.kind = kind

    def __call__(self, parts: Iterable[Any], context: Attributes) -> Any:
        made: Any = object.__new__(self.kind)
        vars(made).update(context.rest)
        vars(made).update(zip(context.names, parts, strict=True))
        return made


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(leaf, (Tensor, torch.SymInt)) for leaf in pytree.tree_leaves(value))


def _is_object(value: Any) -> bool:
    return hasattr(value, "__dict__") and not isinstance(value, (Tensor, nn.Module, type))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
