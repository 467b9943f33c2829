"""Execute a captured graph on channel labels, node by node."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxprune.capture.returned import state_leaves
from fxprune.errors import CaptureError
from fxprune.graph.convolution import groups
from fxprune.graph.nodes import argument, attribute, where
from fxprune.rules import Call, pointwise, rule_for
from fxprune.rules.labels import Value
from fxprune.rules.recorder import Recorder
from fxprune.rules.sources import makes_equal

SMALL_CONSTANT = 1 << 24
T = TypeVar("T")


def hint(value: Any) -> Any:
    """A symbolic size as the integer it has under the example.

    Raises:
        CaptureError: the size depends on the data.
    """
    if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value
    if value.node.hint is None:
        raise CaptureError(
            "The model makes a tensor whose size depends on the data (selection by a mask, "
            "non-maximum suppression). Compress the parts "
            'before it in place with targets=["name", ...].'
        )
    return value.node.hint


def unlabeled(val: Any) -> Any:
    """What a node returns, as `Value`s without labels."""
    if isinstance(val, Tensor):
        return Value(tuple(int(hint(s)) for s in val.shape), val.dtype)
    if isinstance(val, (tuple, list)):
        return tuple(unlabeled(v) for v in val)
    return hint(val)


def empty(item: Any) -> Any:
    """`Value`s as meta tensors of their shape, to run operators for their shapes and costs."""
    if isinstance(item, Value):
        return torch.empty(item.shape, dtype=item.dtype, device="meta")
    if isinstance(item, (tuple, list)):
        return type(item)(empty(i) for i in item)
    return item


def signature(item: Any) -> object:
    """Equal for arguments that an operator cannot tell apart by shapes, types and plain values."""
    if isinstance(item, Value):
        return item.shape, item.dtype
    return tuple(signature(i) for i in item) if isinstance(item, (tuple, list)) else item


class Remembered(Generic[T]):
    """What calls gave that are equal by their `signature`, for all graphs: networks repeat
    themselves and each other, and operators on the meta device are written in Python.

    Args:
        most: calls that are kept; then it starts anew.
    """

    def __init__(self, most: int = 1 << 14):
        self._most, self._known = most, dict[object, T]()

    def get(self, target: Any, args: Any, kwargs: dict[str, Any], compute: Callable[[], T]) -> T:
        """What was computed for an equal call; computed now where there was none."""
        call = target, signature(args), signature(list(kwargs.items()))
        if call not in self._known:
            if len(self._known) >= self._most:
                self._known.clear()
            self._known[call] = compute()
        return self._known[call]


class Propagation:
    """Executes the graph on labels, node by node."""

    def __init__(
        self, module: GraphModule, ignore: Callable[[str], bool], whole_heads: bool = True
    ):
        self.module, self.ignore = module, ignore
        self.record = Recorder(whole_heads)
        self.values: dict[str, Any] = {}

    def run(self) -> None:
        """Visit every node in order."""
        for node in self.module.graph.nodes:
            self.record.node = where(node)
            if node.op == "placeholder":
                self.values[node.name] = self.result(node)
            elif node.op == "get_attr":
                self.values[node.name] = self._parameter(node)
            elif node.op == "call_function":
                self.values[node.name] = self._call(node)
            elif node.op == "output":
                self._pin_outputs(node)
            else:
                raise NotImplementedError(node.op)

    def _pin_outputs(self, node: Node) -> None:
        """What callers read stays; a cache of keys and values, which only later calls of the same
        model read, is as wide as its layers are.
        """
        self.record.node = "output"
        state = state_leaves(self.module.graph)
        given = node.args[0] if isinstance(node.args[0], (tuple, list)) else node.args
        leaves = [leaf for place, leaf in enumerate(given) if place not in state]
        call = Call(node, node.target, (self._resolve(leaves),), {}, None, self.record)
        for value in call.values():
            self.record.pin_value(value, "is the model's output")

    def _resolve(self, item: Any) -> Any:
        if isinstance(item, Node):
            return self.values[item.name]
        if isinstance(item, (tuple, list)):
            parts = [self._resolve(i) for i in item]
            return tuple(parts) if isinstance(item, tuple) else parts
        return item

    def _parameter(self, node: Node) -> Any:
        tensor = attribute(self.module, str(node.target))
        if not isinstance(tensor, Tensor):
            return tensor
        shape = tuple(tensor.shape)
        name = str(node.target)
        if not tensor.is_floating_point():
            return Value(shape, tensor.dtype, const=tensor.detach())
        if not tensor.numel():  # no element would carry the labels
            return Value(shape, tensor.dtype, parameter=name)
        grouped = _grouped_user(node)
        axes = []
        for axis, size in enumerate(shape):
            if size == 1:
                continue
            axes.append(self.record.axis(name, shape, axis, grouped if axis == 1 else 1))
        if self.ignore(name):
            for labels in axes:
                self.record.pin(labels, "ignored on request")
        return Value(shape, tensor.dtype, tuple(axes), parameter=name)

    def arguments(self, node: Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Operator and arguments of a call."""
        return node.target, node.args, dict(node.kwargs)

    def result(self, node: Node) -> Any:
        """What a node returns, without labels."""
        return unlabeled(node.meta.get("val"))

    def _call(self, node: Node) -> Any:
        target, raw, keywords = self.arguments(node)
        args, kwargs = self._resolve(raw), {k: self._resolve(v) for k, v in keywords.items()}
        out = self.result(node)
        call = Call(node, target, args, kwargs, out, self.record)
        values = call.values()
        if not isinstance(out, (Value, tuple)) or (
            isinstance(out, tuple) and not any(isinstance(o, Value) for o in out)
        ):
            return out
        begins = makes_equal(call)
        if (
            not begins
            and all(v.const is not None for v in values)
            and _constant_size(out) <= SMALL_CONSTANT
            and not any(v.axes for v in values)
        ):
            computed = _compute(call)
            if computed is not None and isinstance(out, Value):
                return replace(out, const=computed)
        if not any(v.axes for v in values) and not _weighted(node) and not begins:
            return out
        rule = rule_for(target)
        if (
            rule is None
            and isinstance(target, torch._ops.OpOverload)
            and torch.Tag.pointwise in target.tags
        ):
            rule = pointwise
        if rule is not None:
            try:
                return rule(call)
            except NotImplementedError:
                pass
        for value in values:
            self.record.pin_value(value, f"enters {node.target}, for which there is no rule")
        return out


def _constant_size(out: Any) -> int:
    return int(np.prod(out.shape)) if isinstance(out, Value) else SMALL_CONSTANT + 1


def _compute(call: Call) -> Tensor | None:
    def swap(item: Any) -> Any:
        if isinstance(item, Value):
            return item.const
        if isinstance(item, (tuple, list)):
            return type(item)(swap(i) for i in item)
        return item

    if torch.Tag.nondeterministic_seeded in getattr(call.target, "tags", ()):
        return None
    kwargs = {k: swap(v) for k, v in call.kwargs.items() if k not in ("device", "pin_memory")}
    try:
        result = call.target(*swap(call.args), **kwargs)
    except (RuntimeError, TypeError, IndexError):
        return None
    return result if isinstance(result, Tensor) else None


def _weighted(node: Node) -> bool:
    return any(isinstance(a, Node) and a.op == "get_attr" for a in node.args)


def _grouped_user(node: Node) -> int:
    """Groups of the convolutions that read this weight; 1 where they differ or something else
    reads it.
    """
    counts = {groups(user) if argument(user, 1) is node else 1 for user in node.users}
    return counts.pop() if len(counts) == 1 else 1
