"""Arguments that a trace freezes: numbers, texts and flags, and those it was not given."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.graph import _PyTreeCodeGen
from torch.utils import _pytree as pytree

from fxprune.capture.batch import OPEN, Batch
from fxprune.capture.free_sizes import FreeSize
from fxprune.graph.arguments import REQUIRED, TENSOR, Argument, Span, literal, set_arguments

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def check_constants(
    module: GraphModule,
    model: nn.Module,
    batch: Batch,
    most: int | None = None,
    sizes: Sequence[FreeSize] = (),
) -> tuple[str, ...]:
    """Make a captured graph check what is a constant in it, and give it the model's defaults.

    Args:
        module: changed in place.
        model: that was traced.
        batch: it was traced on.
        most: examples per call up to which the trace is the model's; None for any number.
        sizes: other free sizes of the inputs, and between which they are the model's.

    Returns:
        a note per constant.
    """
    codegen = module.graph._codegen
    if not isinstance(codegen, _PyTreeCodeGen):
        return ()
    names = list(codegen.pytree_info.orig_args)
    given = {**dict(zip(names, batch.args, strict=False)), **batch.kwargs}
    if set(names) != set(given):
        return ()
    arguments = _in_order(model, given) or [
        Argument(name, False, REQUIRED, _leaves(given[name])) for name in names
    ]
    if most is not None:
        arguments = [
            replace(a, most=most if _has_rows(given.get(a.name), batch.size) else None)
            for a in arguments
        ]
    spans = _spans(names, given, sizes)
    arguments = [replace(a, sizes=spans.get(a.name, ())) for a in arguments]
    if any(
        a.leaves is not None or a.default is not REQUIRED or a.most or a.sizes for a in arguments
    ):
        set_arguments(module, arguments)
    return (*_notes(given), *_notes_on_spans(spans))


def _spans(
    names: Sequence[str], given: dict[str, Any], sizes: Sequence[FreeSize]
) -> dict[str, tuple[Span, ...]]:
    """By argument, where its sizes must lie; only what is bounded."""
    owners = [
        (name, leaf) for name in names for leaf in range(len(pytree.tree_leaves(given[name])))
    ]
    spans: dict[str, tuple[Span, ...]] = {}
    for size in sizes:
        if size.fewest == 1 and size.most is None:
            continue
        for place, axis in size.places:
            name, leaf = owners[place]
            spans[name] = (*spans.get(name, ()), (leaf, axis, size.fewest, size.most or 0))
    return spans


def _notes_on_spans(spans: dict[str, tuple[Span, ...]]) -> Iterator[str]:
    for name, held in spans.items():
        for axis, fewest, most in dict.fromkeys(span[1:] for span in held if span[1]):
            limit = f"at most {most}" if most else f"at least {fewest}"
            yield (
                f"{name} has the size {most} along axis {axis} in the result, as in the example: "
                "it could not be left free"
                if fewest == most
                else f"{name} may have a size of {limit} along axis {axis}: beyond, the original "
                "does something else, or nothing"
            )


def _has_rows(value: Any, size: int) -> bool:
    """Whether a tensor of an argument has a row for every example."""
    leaves = pytree.tree_leaves(value)
    return any(isinstance(t, Tensor) and t.dim() > 0 and t.shape[0] == size for t in leaves)


def _leaves(value: Any) -> tuple[Any, ...] | None:
    """What an argument's leaves must be; None where all of them are tensors."""
    found = pytree.tree_leaves(value)
    if all(isinstance(leaf, Tensor) for leaf in found):
        return None
    return tuple(TENSOR if isinstance(leaf, Tensor) else leaf for leaf in found)


def _in_order(model: nn.Module, given: dict[str, Any]) -> list[Argument] | None:
    """The arguments of a forward in its order with its defaults; None where they are not those
    that were traced.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    if not given.keys() <= {p.name for p in parameters if p.kind not in OPEN}:
        return None
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return None
    arguments: list[Argument] = []
    for parameter in parameters:
        name, default = parameter.name, parameter.default
        known = default is not inspect.Parameter.empty and _is_literal(default)
        if parameter.kind in OPEN or (name not in given and not known):
            continue
        held = _leaves(given.get(name, default))
        if held is None and known and isinstance(given[name], Tensor):
            held = (TENSOR,)
        # What may be left out cannot stand before what must be given.
        late = any(a.default is not REQUIRED for a in arguments) and not known
        only = parameter.kind not in POSITIONAL or late or any(a.keyword_only for a in arguments)
        arguments.append(Argument(name, only, default if known else REQUIRED, held))
    return arguments


def _is_literal(value: Any) -> bool:
    try:
        literal(value)
    except TypeError:
        return False
    return value is not ...


def _notes(given: dict[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        constants = [v for v in pytree.tree_leaves(value) if not isinstance(v, Tensor)]
        if any(v is not None for v in constants):
            shown = ", ".join(repr(v) for v in constants)
            yield f"{name}={shown} is a part of the result: calls with another value are an error"
