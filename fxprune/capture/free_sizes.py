"""Which sizes of the inputs a trace is asked to leave free, which it left free, and for which of
them it answers.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from fxprune.capture.batch import Batch
from fxprune.capture.bounds import MANY
from fxprune.capture.trials import agree, misleads, resized
from fxprune.errors import CaptureError

Places = frozenset[tuple[int, int]]
"""(number of a tensor of a batch, axis)."""


@dataclass(frozen=True)
class FreeSize:
    """A size that a trace leaves free beside the number of examples.

    Attributes:
        places: where it stands, (leaf of the arguments, axis).
        example: what it was.
        fewest, most: between which the trace is the model's; no `most` for any.
    """

    places: tuple[tuple[int, int], ...]
    example: int
    fewest: int = 1
    most: int | None = None


def lengths_of(batch: Batch) -> Places:
    """Axes that may be lengths: of tokens and masks, and of three-dimensional features."""
    return frozenset(
        (i, axis)
        for i, t in enumerate(batch.tensors())
        if _has_rows(t, batch) and (t.dim() == 3 or not t.is_floating_point() and t.dim() < 4)
        for axis in range(1, t.dim())
    )


def image_axes_of(batch: Batch) -> Places:
    """Height and width, and depth of volumes."""
    return frozenset(
        (i, axis)
        for i, t in enumerate(batch.tensors())
        if _has_rows(t, batch) and t.dim() >= 4
        for axis in range(2, t.dim())
    )


def _has_rows(tensor: Tensor, batch: Batch) -> bool:
    return tensor.dim() > 0 and tensor.shape[0] == batch.size


def shapes_to_ask(
    model: nn.Module, batch: Batch, free: Places, asked: Any = None
) -> dict[str, Any]:
    """What torch.export takes as dynamic shapes: a free number of examples, and other free axes.

    Args:
        model: that is traced.
        batch: it is traced on.
        free: axes that are left free where the model allows it.
        asked: by the caller, in torch.export's convention; what it says of an axis counts.

    Raises:
        CaptureError: `asked` does not fit the arguments.
    """
    count = iter(range(len(batch.tensors())))

    def shape(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return None
        number = next(count)
        if not _has_rows(item, batch):
            return None
        own = {axis: Dim.AUTO for at, axis in free if at == number}
        return {0: Dim.DYNAMIC, **own}

    args, kwargs = pytree.tree_map(shape, (batch.args, batch.kwargs))
    # Bound as torch.export binds the example, so that *args and **kwargs are nested alike.
    bind = inspect.signature(model.forward).bind
    shapes = dict(bind(*args, **kwargs).arguments)
    if asked is None:
        return shapes
    values = dict(bind(*batch.args, **batch.kwargs).arguments)
    if not isinstance(asked, Mapping):
        asked = dict(zip(values, asked, strict=False))
    unknown = sorted(set(asked) - set(values))
    if unknown:
        raise CaptureError(
            f"dynamic_shapes= names {', '.join(unknown)}; the calibration batches give the "
            f"arguments {', '.join(values)}."
        )
    return {name: _merged(name, shapes[name], asked.get(name)) for name in values}


def _merged(name: str, own: Any, asked: Any) -> Any:
    """One argument's shapes with what the caller says of them."""
    if asked is None:
        return own
    if own is None or isinstance(own, dict) and 0 in own:  # a tensor's
        if isinstance(asked, (tuple, list)):
            asked = dict(enumerate(asked))
        if not isinstance(asked, Mapping) or not all(type(axis) is int for axis in asked):
            raise CaptureError(
                f"dynamic_shapes= gives {name} {asked!r}: give a dict of axes, such as "
                "{1: torch.export.Dim.DYNAMIC}, or a tuple with an entry for every axis."
            )
        said = {axis: size for axis, size in asked.items() if axis != 0 or size is not None}
        return (own or {}) | said
    pairs = own.items() if isinstance(own, dict) else enumerate(own)
    try:
        parts = {key: _merged(f"{name}.{key}", part, asked[key]) for key, part in pairs}
    except (KeyError, IndexError, TypeError) as error:
        raise CaptureError(f"dynamic_shapes= of {name} is not nested like the argument.") from error
    return parts if isinstance(own, dict) else type(own)(parts.values())


def find_free_sizes(program: ExportedProgram, module: GraphModule) -> list[FreeSize]:
    """The sizes that a trace left free, but the number of examples; what is equal in the example
    (tokens and their mask) is one.

    Args:
        program: of the trace.
        module: of the program.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    symbols: dict[int, set[Any]] = {}
    inputs = [n.meta.get("val") for n in module.graph.nodes if n.op == "placeholder"]
    tensors = {i: value for i, value in enumerate(inputs) if isinstance(value, Tensor)}
    rows = {str(value.shape[0]) for value in tensors.values() if value.dim()}
    for leaf, value in tensors.items():
        for axis, size in enumerate(value.shape):
            symbolic: Any = size
            if not isinstance(size, torch.SymInt) or not symbolic.node.expr.is_Symbol:
                continue
            if axis and str(size) not in rows:
                found.setdefault(symbolic.node.hint, []).append((leaf, axis))
                symbols.setdefault(symbolic.node.hint, set()).add(symbolic.node.expr)
    sizes = []
    for example, places in found.items():
        held = (program.range_constraints.get(symbol) for symbol in symbols[example])
        limits = [int(h.upper) for h in held if h is not None and h.upper < MANY]
        sizes.append(FreeSize(tuple(places), example, 1, min(limits, default=None)))
    return sizes


def find_held_lengths(module: GraphModule, rows: int | None) -> list[FreeSize]:
    """Lengths of tokens and masks that a trace holds: broadcast, another one could pass for it; and
    the number of examples, where it holds that.
    """
    inputs = (n.meta.get("val") for n in module.graph.nodes if n.op == "placeholder")
    return [
        FreeSize(((leaf, axis),), size, size, size)
        for leaf, value in enumerate(inputs)
        if isinstance(value, Tensor)
        for axis, size in _numbers(value)
        if (
            size == rows
            if not axis
            else size > 1 and not value.is_floating_point() and value.dim() in (2, 3)
        )
    ]


def _numbers(value: Tensor) -> Iterator[tuple[int, int]]:
    """Axes whose size is a number in a trace, be it one that a call within settled."""
    for axis, size in enumerate(value.shape):
        number = size.node.maybe_as_int() if isinstance(size, torch.SymInt) else size
        if number is not None:
            yield axis, number


@torch.no_grad()
def find_held_sizes(module: GraphModule, model: nn.Module, batch: Batch) -> list[FreeSize]:
    """Sizes of floating inputs that a trace holds and the model does not: at another one the trace
    gives something else (a loop over the steps).

    Args:
        module: that was traced.
        model: a copy of its own, which no trace has seen.
        batch: it was traced on.
    """
    if not agree(module, model, batch):  # random: no two runs agree
        return []
    inputs = (n.meta.get("val") for n in module.graph.nodes if n.op == "placeholder")
    held = [
        FreeSize(((leaf, axis),), size, size, size)
        for leaf, value in enumerate(inputs)
        if isinstance(value, Tensor) and value.is_floating_point()
        for axis, size in _numbers(value)
        if axis and size > 1
    ]
    return [
        size
        for size in held
        if misleads(module, model, resized(module, batch, size.places, size.example + 1))
    ]


@torch.no_grad()
def check_size(
    module: GraphModule, model: nn.Module, batch: Batch, size: FreeSize
) -> FreeSize | None:
    """Try a trace at other sizes than its example's.

    Args:
        module: that was traced.
        model: a copy of its own, which no trace has seen.
        batch: it was traced on.
        size: that it leaves free.

    Returns:
        the size with what was found of `fewest`; None where the trace is not the model's at
        other sizes.
    """
    others = {size.example + 1, 2 * size.example + 1, max(2, size.example // 2)}
    others = {n for n in others if n != size.example and (size.most is None or n <= size.most)}
    for number in sorted(others):
        if not agree(module, model, resized(module, batch, size.places, number)):
            return None
    alone = agree(module, model, resized(module, batch, size.places, 1))
    return size if alone else FreeSize(size.places, size.example, 2, size.most)
