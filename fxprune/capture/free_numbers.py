"""Tensors of free sizes, as imported models make them of shapes: followed as the sizes they hold.

Such a tensor is stood in for by one of its shape; what a call does to it is done to the sizes. What
is not known raises, and the trace is tried in another way.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

FACTS = frozenset(
    {
        *("__get__", "dim", "size", "numel", "ndimension", "__len__"),
        *("is_floating_point", "is_complex"),
    }
)
"""What is told by shape and type alone."""
MOVES = frozenset(
    {
        *("__getitem__", "select", "gather", "index_select", "narrow", "slice", "split", "unbind"),
        *("squeeze", "unsqueeze", "reshape", "view", "flatten", "cat", "concat", "stack"),
        *("to", "long", "int", "type", "clone", "contiguous", "detach", "cpu"),
    }
)
"""Calls whose results hold the elements of their arguments as they are."""
JOINS = frozenset({"cat", "concat", "stack"})


def _divided(size: Any, by: Any) -> Any:
    """Rounded down, which is towards zero for sizes."""
    if not (size >= 0 and by > 0):
        raise NotImplementedError
    return size // by


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("add", "__add__", "__radd__"), operator.add),
    **dict.fromkeys(("mul", "__mul__", "__rmul__", "multiply"), operator.mul),
    **dict.fromkeys(("sub", "__sub__", "subtract"), operator.sub),
    **dict.fromkeys(("floor_divide", "__floordiv__", "div", "divide"), _divided),
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("eq", "__eq__"), operator.eq),
    **dict.fromkeys(("ne", "__ne__"), operator.ne),
    **dict.fromkeys(("lt", "__lt__"), operator.lt),
    **dict.fromkeys(("gt", "__gt__"), operator.gt),
}


class FreeNumbers:
    """The sizes that tensors hold, by tensor."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Tensor, list[Any]]] = {}

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor stands for free sizes."""
        return id(tensor) in self._held

    def make(self, numbers: Any) -> Tensor:
        """A tensor of numbers, some of which are free sizes."""
        values = list(numbers) if isinstance(numbers, Iterable) else [numbers]
        if not all(isinstance(value, (int, torch.SymInt)) for value in values):
            raise NotImplementedError
        return self._keep((len(values),) if isinstance(numbers, Iterable) else (), values)

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a call gives.

        Raises:
            NotImplementedError: it is not known.
        """
        name = func.__name__
        if name in FACTS:
            with _disable_current_modes():
                return func(*args, **kwargs)
        if name == "unbind" and args[0].dim() == 1:  # what iterating does: torch.Size(tensor)
            return tuple(self._values(args[0]))
        if name in MOVES:
            with _disable_current_modes():
                return self._move(func, args, kwargs)
        if name in ("div", "divide") and kwargs.get("rounding_mode") is None:
            raise NotImplementedError
        if name in ARITHMETIC or name in COMPARISONS:
            return self._combine(name, *args[:2])
        return self._read(name, args[0])

    def _keep(self, shape: Sequence[int], values: list[Any]) -> Tensor:
        # Sizes are followed by the trace; what stands in for them is not.
        with _disable_current_modes():
            if all(isinstance(value, int) for value in values):
                return torch.tensor(values).reshape(tuple(shape))
            tensor = torch.zeros(shape, dtype=torch.int64)
        self._held[id(tensor)] = (tensor, values)
        return tensor

    def _values(self, item: Any) -> list[Any]:
        """The elements of a tensor, or a number."""
        if not isinstance(item, Tensor):
            return [item]
        if self.holds(item):
            return self._held[id(item)][1]
        with _disable_current_modes():
            return list(item.reshape(-1).tolist())

    def _move(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Move the places of the elements, and look up what stands there."""
        values: list[Any] = []

        def place(item: Tensor) -> Tensor:
            if not self.holds(item) and func.__name__ not in JOINS:
                return item
            start = len(values)
            values.extend(self._values(item))
            return torch.arange(start, len(values)).reshape(item.shape)

        moved = func(*pytree.tree_map_only(Tensor, place, args), **kwargs)

        def look_up(places: Tensor) -> Tensor:
            return self._keep(places.shape, [values[i] for i in places.reshape(-1).tolist()])

        return pytree.tree_map_only(Tensor, look_up, moved)

    def _combine(self, name: str, left: Any, right: Any) -> Tensor:
        """Arithmetic and comparisons, element by element; comparisons are settled."""
        a, b = self._values(left), self._values(right)
        count = max(len(a), len(b))
        if {len(a), len(b)} - {1, count}:
            raise NotImplementedError
        pairs = zip(a * (count // len(a)), b * (count // len(b)), strict=True)
        larger = left if isinstance(left, Tensor) and len(a) == count else right
        shape = larger.shape if isinstance(larger, Tensor) else left.shape
        if name in COMPARISONS:
            settled = [bool(COMPARISONS[name](x, y)) for x, y in pairs]
            with _disable_current_modes():
                return torch.tensor(settled).reshape(shape)
        return self._keep(shape, [ARITHMETIC[name](x, y) for x, y in pairs])

    def _read(self, name: str, tensor: Tensor) -> Any:
        values = self._values(tensor)
        if name in ("item", "__int__", "__index__") and len(values) == 1:
            return values[0]
        if name == "__iter__" and tensor.dim() == 1:
            return iter(values)
        if name == "tolist" and tensor.dim() == 1:
            return list(values)
        raise NotImplementedError
