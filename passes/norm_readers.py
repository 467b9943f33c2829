"""Which weights read what a norm gives, and whether its scale and shift may go into them.

Between the norm and such a weight may stand what treats channels alike, f(g x + b) = g f(x) + b for
a scale g and a shift b per channel: data movement, means over positions, dropout. That is tried out
call by call.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxprune.graph.nodes import argument, attribute, where
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import is_made, rewrite, set_parameter
from fxprune.label.groups import Analysis
from fxprune.label.tried import commutes
from fxprune.rules.labels import Value, narrow_constant, varying
from fxprune.rules.recorder import Consumer

BIASES = {"aten.linear": 2, "aten.addmm": 0}
"""Where calls that read a norm have their bias."""
WEIGHTS = {"aten.linear": 1, "aten.addmm": 2, "aten.mm": 1, "aten.matmul": 1}
SHARED = "a layer that reads it shares its weights, or has no bias for what it is shifted by"


def channels_along(value: Any, dim: int) -> np.ndarray | None:
    """Channel ids along a dimension, where nothing else changes them."""
    for labels in value.axes if isinstance(value, Value) else ():
        if varying(labels) == {dim % value.rank}:
            return np.asarray(narrow_constant(labels).reshape(-1).numpy())
    return None


def dim_of(value: Any, ids: np.ndarray) -> int | None:
    """The dimension along which channels lie in this order."""
    for dim in range(value.rank) if isinstance(value, Value) else ():
        found = channels_along(value, dim)
        if found is not None and np.array_equal(found, ids):
            return dim
    return None


def is_own(item: Any) -> bool:
    """Whether an argument is a tensor of the model's."""
    return isinstance(item, Node) and item.op == "get_attr" and not is_made(str(item.target))


@dataclass(frozen=True, eq=False)
class NormReaders:
    """All that reads one norm.

    Attributes:
        analysis: of the norm's graph.
        norm: over the last dimension.
        scale, shift: parameters that it multiplies with and adds; None for none.
        adds_bias: whether layers without a bias may get one.
        readers: calls, and the axis of their weight that the norm's channels lie along.
        unfit: what of the norm is read by what its scale and shift cannot go into, and by which
            calls.
        reason: why its scale and shift cannot go into these; nothing where they can.
    """

    analysis: Analysis
    norm: Node
    scale: Any
    shift: Any
    adds_bias: bool = False
    readers: dict[Node, int] = field(default_factory=dict)
    unfit: dict[Node, list[Node]] = field(default_factory=dict)
    reason: str = ""

    @classmethod
    def of(
        cls, analysis: Analysis, norm: Node, scale: Any, shift: Any, adds_bias: bool = False
    ) -> "NormReaders":
        """Follow what a norm gives to the weights that read it."""
        found = cls(analysis, norm, scale, shift, adds_bias)
        object.__setattr__(found, "reason", found._follow())
        return found

    def _follow(self) -> str:
        if not all(is_own(item) for item in (self.scale, self.shift) if item is not None):
            return "what it is scaled or shifted by is no parameter"
        ids = channels_along(self.analysis.values[self.norm.name], -1)
        if ids is None:
            return "its channels are not known"
        consumers = {c.node: c for c in self.analysis.consumers}
        left, seen, first = [self.norm], {self.norm}, ""
        while left:
            node = left.pop()
            for user in node.users:
                consumer = consumers.get(user.name)
                if consumer is not None and consumer.source == node.name:
                    reason = self._reads(user, consumer, ids)
                elif self._alike(user, node, ids):
                    reason = ""
                    if user not in seen:
                        seen.add(user)
                        left.append(user)
                else:
                    reason = "it is read by something else than linear layers"
                if reason:
                    self.unfit.setdefault(node, []).append(user)
                    first = first or f"{reason} ({where(user)})"
        return first

    def _reads(self, call: Node, consumer: Consumer, ids: np.ndarray) -> str:
        """Take a call as a reader; why it cannot be one, or nothing."""
        axis = self.analysis.axes.get((consumer.parameter, consumer.axis))
        name = operator_name(call.target)
        if name not in WEIGHTS or call.kwargs or axis is None or not np.array_equal(axis, ids):
            return "it is read by something else than linear layers"
        tensors: list[Any] = [argument(call, WEIGHTS[name])]
        if self.shift is not None:
            bias = argument(call, BIASES[name]) if name in BIASES else None
            if bias is None and not (self.adds_bias and _can_have_bias(call, name)):
                return SHARED
            tensors += [] if bias is None else [bias]
        if any(not is_own(tensor) or len(tensor.users) > 1 for tensor in tensors):
            return SHARED
        self.readers[call] = consumer.axis
        return ""

    def _alike(self, call: Node, source: Node, ids: np.ndarray) -> bool:
        """Whether a call gives its result scaled and shifted where one operand is, on numbers."""
        values = self.analysis.values
        if call.op != "call_function" or not isinstance(values.get(call.name), Value):
            return False
        dims = {n: d for n in (source, call) if (d := dim_of(values[n.name], ids)) is not None}
        if len(dims) < 2:
            return False
        draw, shifted = torch.Generator().manual_seed(0), self.shift is not None
        scale = torch.rand(len(ids), generator=draw, dtype=torch.float64) + 0.5
        shift = torch.randn(len(ids), generator=draw, dtype=torch.float64) * shifted

        def changed(x: Tensor, dim: int) -> Tensor:
            view = [1] * x.dim()
            view[dim] = len(ids)
            return x * scale.view(view) + shift.view(view)

        return commutes(call, values, dims, changed, ("scaled", len(ids), shifted))

    def fold(self, module: GraphModule) -> dict[str, str]:
        """Put scale and shift into what reads the norm; the biases that this takes, and the weights
        beside them.
        """
        added = dict[str, str]()
        scale, shift = (
            None if item is None else attribute(module, str(item.target)).detach().double()
            for item in (self.scale, self.shift)
        )
        for call, axis in self.readers.items():
            name = operator_name(call.target)
            weight = attribute(module, str(argument(call, WEIGHTS[name]).target))
            wide = weight.detach().double()
            if shift is not None:
                given = torch.tensordot(wide, shift, dims=([axis], [0]))
                bias = argument(call, BIASES[name])
                if bias is None:
                    added[_bias_name(call)] = str(argument(call, 1).target)
                    _add_bias(module, call, given.to(weight.dtype))
                else:
                    tensor = attribute(module, str(bias.target))
                    rewrite(tensor, tensor.detach().double() + given)
            if scale is not None:
                view = [1] * wide.dim()
                view[axis] = len(scale)
                rewrite(weight, wide * scale.view(view))
        return added


def _bias_name(call: Node) -> str:
    return str(argument(call, 1).target).removesuffix("weight") + "bias"


def _can_have_bias(call: Node, name: str) -> bool:
    """Whether a bias of a linear layer would have a name that is free."""
    weight = argument(call, 1)
    if name != "aten.linear" or not is_own(weight) or not str(weight.target).endswith(".weight"):
        return False
    return all(str(node.target) != _bias_name(call) for node in call.graph.nodes)


def _add_bias(module: GraphModule, call: Node, value: Tensor) -> None:
    """Give a linear layer a bias."""
    name = _bias_name(call)
    set_parameter(module, name, nn.Parameter(value))
    with call.graph.inserting_before(call):
        node = call.graph.get_attr(name)
        node.meta = {}
    call.args = (*call.args[:2], node)
