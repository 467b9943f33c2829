"""Arguments of a compressed model that its graph cannot read: constants of the trace, checked at
every call, and defaults.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import GraphModule
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from fxprune.errors import ArgumentError

REQUIRED = ...
"""Stands for no default."""
TENSOR = ...
"""Stands for a tensor among what an argument must be."""

Span = tuple[int, int, int, int]
"""(leaf, axis, fewest, most): between which sizes a tensor's axis must be; 0 for any `most`."""


@dataclass(frozen=True)
class Argument:
    """One argument of a forward.

    Attributes:
        name: of it.
        keyword_only: whether it cannot be given by position.
        default: where the caller leaves it out; `REQUIRED` for none.
        leaves: what it must be, leaf by leaf, `TENSOR` where any tensor will do; None for an
            argument of tensors alone, which the graph reads.
        most: examples per call, where the model does something else on more.
        sizes: of its tensors, where the model does something else at others.
    """

    name: str
    keyword_only: bool
    default: Any
    leaves: tuple[Any, ...] | None
    most: int | None = None
    sizes: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        literal(self.default)
        literal(self.leaves)
        if self.most is not None and type(self.most) is not int:
            raise TypeError(f"{self.most!r} is no number of examples.")
        for span in self.sizes:
            if len(span) != 4 or any(type(number) is not int for number in span):
                raise TypeError(f"{span!r} does not say where a size must lie.")


def literal(value: Any) -> str:
    """A constant as source text.

    Raises:
        TypeError: its type has no such text.
    """
    kind = type(value)
    if kind is float and not math.isfinite(value):
        return f"float({str(value)!r})"
    if value is None or value is ... or kind in (bool, int, float, str):
        return "..." if value is ... else repr(value)
    if kind is tuple:
        return "(" + "".join(f"{literal(v)}, " for v in value) + ")"
    if kind is list:
        return "[" + ", ".join(literal(v) for v in value) + "]"
    if kind is dict:
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    raise TypeError(f"A {kind.__name__} cannot be written as a constant.")


def check_argument(name: str, value: Any, leaves: tuple[Any, ...]) -> None:
    """Insist on the constants that a model was compressed for.

    Raises:
        ArgumentError: another one is given; names the argument, both values, and what to do.
    """
    given = pytree.tree_leaves(value)
    if len(given) != len(leaves):
        raise ArgumentError(
            f"{name} holds {len(given)} values; this model was compressed for {len(leaves)}. Give "
            "it what the calibration data gave."
        )
    for found, leaf in zip(given, leaves, strict=True):
        if leaf is TENSOR:
            if found is None or isinstance(found, (bool, int, float, str)):
                raise ArgumentError(
                    f"{name}={found!r}: this model was compressed for a tensor there. Give one, or "
                    "compress again with calibration data that holds this value."
                )
        elif isinstance(found, Tensor) or not _equal(found, leaf):
            shown = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
            raise ArgumentError(
                f"{name}={shown}: this model was compressed for {name}={leaf!r}, and that is a "
                "part of it. Leave the argument at that value, or compress again with calibration "
                'data that holds the other one, such as {"x": x, '
                f'"{name}": value}}.'
            )


def check_rows(name: str, value: Any, most: int) -> None:
    """Insist on the number of examples up to which a model does what it was traced doing.

    Raises:
        ArgumentError: there are more.
    """
    for found in pytree.tree_leaves(value):
        if isinstance(found, Tensor) and found.dim() and found.shape[0] > most:
            raise ArgumentError(
                f"{name} holds {found.shape[0]} examples: the original does something else on more "
                f"than {most} in one call, and this model only what it does up to there. Call it "
                f"on at most {most}, or free the original's forward of the batch size."
            )


def check_sizes(name: str, value: Any, sizes: tuple[Span, ...]) -> None:
    """Insist on sizes at which a model does what it was traced doing.

    Raises:
        ArgumentError: another one is given; says which there may be.
    """
    given = pytree.tree_leaves(value)
    for leaf, axis, fewest, most in sizes:
        found = given[leaf].shape[axis] if given[leaf].dim() > axis else 0
        if found < fewest or most and found > most:
            limit = f"above {most}" if found >= fewest else f"below {fewest}"
            why = f"{limit} the original does something else, or nothing"
            if fewest == most:
                why = f"this model holds its example's, {most}"
            if not axis:
                why = f"this model takes batches of {most} examples only"
            raise ArgumentError(
                f"{name} has the size {found} along axis {axis}: {why}. Cut, pad or resize it, or "
                "compress again with examples of that size."
            )


def _equal(found: Any, leaf: Any) -> bool:
    both = isinstance(found, float) and isinstance(leaf, float)
    return bool(found == leaf) or (both and math.isnan(found) and math.isnan(leaf))


class CheckedArguments(_PyTreeCodeGen):
    """Writes a forward that checks constants first, and has the defaults of the original's.

    Args:
        info: the nests of inputs and outputs.
        arguments: of the forward, in its order; the traced ones bear the names in `info`.
    """

    def __init__(self, info: _PyTreeInfo, arguments: Sequence[Argument]):
        super().__init__(info)
        self.arguments = tuple(arguments)

    def process_inputs(self, *inputs: Any) -> Any:
        """What an interpreter of the graph takes for positional arguments, defaults filled in."""
        given = {a.name: a.default for a in self.arguments if a.default is not REQUIRED}
        given |= dict(zip((a.name for a in self.arguments), inputs, strict=False))
        wanted = self.pytree_info.orig_args
        if len(inputs) > len(self.arguments) or not given.keys() >= set(wanted):
            return super().process_inputs(*inputs)
        for argument in self.arguments:
            if argument.leaves is not None:
                check_argument(argument.name, given[argument.name], argument.leaves)
        return pytree.arg_tree_leaves(*(given[name] for name in wanted))

    def gen_fn_def(self, free_vars: list[str], maybe_return_annotation: str, **options: Any) -> str:
        """The head of the function, the checks, and the flattening of what the graph reads."""
        text = super().gen_fn_def(free_vars, maybe_return_annotation, **options)
        if options.get("expanded_def"):
            return text
        _, line, body = text.partition("\n")
        head = ["self"]
        for argument in self.arguments:
            if argument.keyword_only and "*" not in head:
                head.append("*")
            default = argument.default
            head.append(
                argument.name if default is REQUIRED else f"{argument.name} = {literal(default)}"
            )
        checks = "".join(
            f"\n    check_argument({a.name!r}, {a.name}, {literal(a.leaves)})"
            for a in self.arguments
            if a.leaves is not None
        )
        checks += "".join(
            f"\n    check_rows({a.name!r}, {a.name}, {a.most})" for a in self.arguments if a.most
        )
        checks += "".join(
            f"\n    check_sizes({a.name!r}, {a.name}, {literal(a.sizes)})"
            for a in self.arguments
            if a.sizes
        )
        return f"def forward({', '.join(head)}){maybe_return_annotation}:{checks}{line}{body}"

    def additional_globals(self) -> list[tuple[str, Any]]:
        """What the function calls."""
        own = (
            ("check_argument", check_argument),
            ("check_rows", check_rows),
            ("check_sizes", check_sizes),
        )
        return [*super().additional_globals(), *own]


def set_arguments(module: GraphModule, arguments: Sequence[Argument]) -> None:
    """Let a graph of nested inputs check these arguments; the module is compiled anew."""
    codegen = module.graph._codegen
    assert isinstance(codegen, _PyTreeCodeGen)
    module.graph.set_codegen(CheckedArguments(codegen.pytree_info, arguments))
    module.recompile()
