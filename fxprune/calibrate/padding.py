"""Which positions of a batch are padding, and where these lie in what a graph computes.

A mask says of every token whether it is real. Where its two axes went is read off the symbolic
sizes that the trace noted: a result whose axes hold the number of examples and the length, apart or
as their product, has the tokens' positions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxprune.capture.batch import Batch
from fxprune.errors import CalibrationError, name_function

Mask = str | Callable[..., Any] | bool | None
"""Which tokens are real: the name of an input that holds 1 for them and 0 for padding, a callable
that takes the model's arguments and gives that, None for an input called `attention_mask`, False
for no padding.
"""
USUAL = "attention_mask"
OTHERS = "decoder_"
"""Inputs so called have lengths of their own."""
ROWS, LENGTH, BOTH, OTHER = range(4)


def check_mask(mask: object) -> None:
    """Check that `mask=` is of a kind that can name padding.

    Raises:
        CalibrationError: it is not.
    """
    if mask is None or mask is False or isinstance(mask, str) or callable(mask):
        return
    raise CalibrationError(
        f"mask={mask!r}: give the name of the input that holds 1 for tokens and 0 for padding, a "
        "callable that takes the model's arguments and gives that, or False where padding counts."
    )


def read_mask(batch: Batch, mask: Mask) -> Tensor | None:
    """(examples, length) bool, which tokens of a batch are real; None where nothing says so.

    Args:
        batch: of the calibration examples.
        mask: what the caller named.

    Raises:
        CalibrationError: the mask is missing or of another shape, or an example is all padding.
    """
    if mask is False:
        return None
    if mask is None:
        found = batch.kwargs.get(USUAL)
        if any(name.startswith(OTHERS) for name in batch.kwargs) or not _plain(found, batch):
            return None
    elif isinstance(mask, str):
        if mask not in batch.kwargs:
            raise CalibrationError(
                f"mask={mask!r} is no keyword of the calibration batches ({', '.join(batch.kwargs)}"
                "). Name one of a dict batch, or pass a callable that takes the model's arguments."
            )
        found = batch.kwargs[mask]
    else:
        found = _called(mask, batch)
    if not isinstance(found, Tensor) or not _plain(found, batch):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise CalibrationError(
            f"mask= gives {shape} for {batch.size} examples. It must hold 1 for tokens and 0 for "
            "padding, one row per example: (examples, length)."
        )
    real: Tensor = found.detach() != 0
    if not bool(real.any(1).all()):
        raise CalibrationError(
            "The mask of a calibration batch has an example without a token, all padding. Leave "
            "such examples out, or pass mask=False."
        )
    return real


def _called(mask: Any, batch: Batch) -> Any:
    try:
        return mask(*batch.args, **batch.kwargs)
    except Exception as error:  # whatever a caller's function raises
        raise CalibrationError(
            f"mask={name_function(mask)} fails: {type(error).__name__}: {error}. It is called with "
            "the model's arguments and gives (examples, length), 1 for tokens."
        ) from error


def _plain(found: object, batch: Batch) -> bool:
    return isinstance(found, Tensor) and found.dim() == 2 and len(found) == batch.size


@dataclass(frozen=True)
class Padding:
    """Where a graph's results have the positions of tokens.

    Attributes:
        axes: by node, what each axis of its result counts; none where no token is padding, or the
            trace holds the number of examples or the length.
        outputs: names of the nodes that give the outputs, by these.
    """

    axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)

    def within(self, name: str, value: Tensor, real: Tensor | None) -> Tensor | None:
        """Which positions of a result are real tokens, bool of shapes that expand to it; None where
        all are, or it has no positions of tokens.

        Args:
            name: of the node.
            value: its result on a batch.
            real: (examples, length) bool, of that batch.
        """
        axes = self.axes.get(name, ())
        if real is None or not axes or len(axes) != value.dim():
            return None
        shape, real = [1] * value.dim(), real.to(value.device)
        if BOTH in axes:
            shape[axes.index(BOTH)], source = real.numel(), real
        elif ROWS in axes and LENGTH in axes:
            row, length = axes.index(ROWS), axes.index(LENGTH)
            shape[row], shape[length] = real.shape
            source = real if row < length else real.mT
        else:
            return None
        if any(own not in (1, size) for own, size in zip(shape, value.shape, strict=True)):
            return None
        return source.reshape(shape)

    def positions(
        self, name: str, value: Tensor, channel: int, real: Tensor | None
    ) -> Tensor | None:
        """Numbers of the positions of a result, without its channels, that are real tokens; None
        for all.

        Args:
            name, value, real: as for `within`.
            channel: the axis of the channels.
        """
        inside = self.within(name, value, real)
        if inside is None or inside.shape[channel] != 1:
            return None
        positions = inside.movedim(channel, -1)[..., 0]
        return positions.expand(value.movedim(channel, -1).shape[:-1]).reshape(-1).nonzero()[:, 0]

    def of_output(self, name: str, value: Tensor, real: Tensor | None) -> Tensor | None:
        """As `within`, of an output by its name."""
        return self.within(self.outputs.get(name, ""), value, real)

    def cut(self, name: str, value: Tensor, real: Tensor | None) -> list[Tensor] | None:
        """An output without its padding, (1, tokens, ...) example by example; None where it has
        none.
        """
        inside = self.of_output(name, value, real)
        if inside is None or inside.shape[0] == 1 or bool(inside.all()):
            return None
        axis = next(i for i in range(1, inside.dim()) if inside.shape[i] != 1)
        own = inside.reshape(len(value), -1)
        numbers = (row.nonzero()[:, 0] for row in own)
        return [value[i : i + 1].index_select(axis, n) for i, n in enumerate(numbers)]


EVERYWHERE = Padding()
"""Of a graph whose tokens are all real."""


def find_padding(module: GraphModule, length: int, outputs: Mapping[str, Any]) -> Padding:
    """Read off a graph where its tokens are.

    Args:
        module: the captured graph.
        length: of the mask of the example that it was traced on.
        outputs: places of its flat outputs by their names.
    """
    rows, lengths = _symbols(module, length)
    if not rows or not lengths:
        return EVERYWHERE
    axes: dict[str, tuple[int, ...]] = {}
    for node in module.graph.nodes:
        value = node.meta.get("val")
        value = value[0] if isinstance(value, (tuple, list)) and value else value
        if isinstance(value, Tensor):
            axes[node.name] = tuple(_axis(size, rows, lengths) for size in value.shape)
    if any(_time_first(own) for own in axes.values()):
        # A product of both sizes may then count either of them first.
        axes = {name: own for name, own in axes.items() if BOTH not in own}
    leaves = _leaves(module)
    nodes = {n: leaves[place] for n, place in outputs.items() if isinstance(place, int)}
    return Padding(axes, {n: node.name for n, node in nodes.items() if isinstance(node, Node)})


def _symbols(module: GraphModule, length: int) -> tuple[set[Any], set[Any]]:
    """The symbols of the number of examples, and of the length of the mask."""
    rows, lengths = set[Any](), set[Any]()
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or not isinstance(value, Tensor) or not value.dim():
            continue
        for axis, size in enumerate(value.shape[:2]):
            symbol = _symbol(size)
            if symbol is None:
                continue
            if axis == 0:
                rows.add(symbol)
            elif size.node.hint == length:  # type: ignore[attr-defined]
                lengths.add(symbol)
    return rows, lengths - rows


def _symbol(size: Any) -> Any:
    if not isinstance(size, torch.SymInt):
        return None
    expression: Any = size.node.expr
    return expression if expression.is_Symbol else None


def _axis(size: Any, rows: set[Any], lengths: set[Any]) -> int:
    if not isinstance(size, torch.SymInt):
        return OTHER
    expression: Any = size.node.expr
    if expression in rows or expression in lengths:
        return ROWS if expression in rows else LENGTH
    factors = set(expression.args) if expression.is_Mul else set()
    both = len(factors) == 2 and factors & rows and factors & lengths
    return BOTH if both else OTHER


def _time_first(axes: tuple[int, ...]) -> bool:
    return LENGTH in axes and ROWS in axes and axes.index(LENGTH) < axes.index(ROWS)


def _leaves(module: GraphModule) -> list[Any]:
    """The nodes of the flat outputs."""
    given = module.graph.output_node().args[0]
    return list(given) if isinstance(given, (tuple, list)) else [given]
