"""One way to put an operator between layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Reading:
    """A tensor that the operator returns, and the axis that a layer reads.

    Attributes:
        place: its number among the tensors returned.
        shape: of it.
        axis: the axis along which it changes with the channels.
        passes: whether some of its entries do not change with each channel.
        finite: whether it holds finite numbers only.
    """

    place: int
    shape: tuple[int, ...]
    axis: int
    passes: bool
    finite: bool


@dataclass(frozen=True, eq=False)
class Variant:
    """One sample of an operator, with layers around it.

    Attributes:
        call: takes the sample's arguments, as in `tree`.
        leaves: what stands in the sample: tensors and everything else.
        tree: the nest of `leaves`: input, positional and keyword arguments.
        made: leaves that come out of a layer, and the axis of its channels.
        readings: what the layers behind read.
        kind: the operator as a function, in place, or under another name.
        random: whether two runs differ.
    """

    call: Callable[..., Any]
    leaves: tuple[Any, ...]
    tree: pytree.TreeSpec
    made: tuple[tuple[int, int], ...]
    readings: tuple[Reading, ...]
    kind: str
    random: bool

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """What the operator returns for these in the place of the leaves that are made."""
        leaves = list(self.leaves)
        for (place, _), tensor in zip(self.made, tensors, strict=True):
            leaves[place] = tensor
        return run(self.call, leaves, self.tree)

    @cached_property
    def passes(self) -> bool:
        """Whether channels stay apart in some result."""
        return any(reading.passes for reading in self.readings)

    @property
    def whole(self) -> bool:
        """Whether layers make every tensor, so that none has a batch size of its own."""
        return len(self.made) == sum(isinstance(leaf, Tensor) for leaf in self.leaves)

    def __str__(self) -> str:
        """The arguments, shapes for tensors, and `*` at the axis of the channels."""
        axes = dict(self.made)
        shown = [_shown(leaf, axes.get(i)) for i, leaf in enumerate(self.leaves)]
        first, args, kwargs = pytree.tree_unflatten([_Text(s) for s in shown], self.tree)
        parts = [str(first), *(str(a) for a in args), *(f"{k}={v}" for k, v in kwargs.items())]
        return f"{self.kind}({', '.join(parts)})"


class _Text(str):
    """A text whose representation is itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _shown(leaf: Any, axis: int | None) -> str:
    if not isinstance(leaf, Tensor):
        return repr(leaf) if isinstance(leaf, str) else str(leaf)
    sizes = [f"{size}*" if d == axis else str(size) for d, size in enumerate(leaf.shape)]
    return f"[{' '.join(sizes)}]"


def run(call: Callable[..., Any], leaves: Sequence[Any], tree: pytree.TreeSpec) -> list[Tensor]:
    """The tensors that a call on a sample returns."""
    first, args, kwargs = pytree.tree_unflatten(leaves, tree)
    with torch.no_grad():
        result = call(first, *args, **kwargs)
    return [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
