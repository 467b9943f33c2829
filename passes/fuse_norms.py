"""Fuse norms: RMS norms that a forward writes out become one call."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.fx.passes.infra.pass_base import PassResult

from fxprune.graph.nodes import argument
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import is_made
from fxprune.label.groups import Analysis
from fxprune.passes.contract import InPlacePass
from fxprune.rules.labels import Value
from fxprune.rules.linear import UNCHANGED

aten = torch.ops.aten
PRODUCTS = ("aten.mul", "aten.multiply", "aten.div", "aten.divide")
ON_THE_WAY = ("aten.add", "aten.rsqrt", "aten.sqrt", "aten.pow", "aten.reciprocal")
"""What may stand between the mean of squares and the product with what is normalized."""


@dataclass(frozen=True, eq=False)
class FuseNorms(InPlacePass):
    """Make `weight * (x * rsqrt(mean(x ** 2) + eps))` a call of `rms_norm`, however it is spelled.

    Requires a captured graph and its analysis; ensures equal outputs (to rounding) and the same
    tensors. The call has the name of the last one that it stands for, so that the analysis holds
    for the graph that is left. What does not give the same numbers as `rms_norm` stays.

    Attributes:
        analysis: of the graph that is passed in.
    """

    analysis: Analysis

    @torch.no_grad()
    def call(self, module: GraphModule) -> PassResult:
        """One mean of squares after the other."""
        modified = False
        for node in list(module.graph.nodes):
            chain = self._chain(node)
            if chain is not None and self._is_norm(chain):
                self._fuse(chain)
                modified = True
        return PassResult(module, modified)

    def _chain(self, mean: Node) -> list[Node] | None:
        """The calls from the square to the product; None where these are no norm."""
        square = mean.args[0] if operator_name(mean.target) == "aten.mean" else None
        if not isinstance(square, Node) or _squared(square) is None:
            return None
        chain, known = [square, mean], self.analysis.values.get(mean.name)
        if not isinstance(known, Value) or known.shape[-1:] != (1,):
            return None
        while len(chain[-1].users) == 1 and len(chain[-2].users) == 1:
            (user,) = chain[-1].users
            chain.append(user)
            if operator_name(user.target) in PRODUCTS:
                return chain if _squared(square) in user.args else None
            if operator_name(user.target) not in ON_THE_WAY or len(user.all_input_nodes) > 1:
                return None
        return None

    def _is_norm(self, chain: list[Node]) -> bool:
        """Whether the calls give the numbers of an RMS norm."""
        value = self.analysis.values.get(cast(Node, _squared(chain[0])).name)
        if not isinstance(value, Value) or not value.dtype.is_floating_point:
            return False
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(value.shape, generator=draw).to(value.dtype)
        known: dict[Node, Tensor] = {cast(Node, _squared(chain[0])): x}
        try:
            for call in chain:
                args: Any = map_arg(call.args, known.__getitem__)
                target: Any = call.target
                known[call] = target(*args, **call.kwargs)
            wanted = aten.rms_norm(x, [value.shape[-1]], None, _eps(chain))
        except (RuntimeError, TypeError, ValueError, KeyError):
            return False
        found = known[chain[-1]]
        tolerance = 16 * torch.finfo(value.dtype).eps
        same = found.shape == wanted.shape and found.dtype == wanted.dtype
        return same and bool((found - wanted).norm() <= tolerance * wanted.norm())

    def _fuse(self, chain: list[Node]) -> None:
        """Put the call in place of the last of the chain, or of the product with a weight."""
        source, last, weight = cast(Node, _squared(chain[0])), chain[-1], None
        size = self.analysis.values[source.name].shape[-1]
        path = [last]
        while len(path[-1].users) == 1:
            (user,) = path[-1].users
            path.append(user)
            if operator_name(user.target) in PRODUCTS[:2]:
                weight = next((a for a in user.args if self._is_weight(a, size)), None)
                break
            if not self._unchanged(user, last):
                break
        if weight is not None:
            last = path[-1]
            chain = [*chain, *path[1:]]
        last.target, last.kwargs = aten.rms_norm.default, {}
        last.args = (source, [size], weight, _eps(chain))
        for node in reversed(chain[:-1]):
            if not node.users:
                node.graph.erase_node(node)

    def _unchanged(self, call: Node, norm: Node) -> bool:
        """Whether a call gives the norm as it is, in its dtype."""
        before, after = (self.analysis.values.get(node.name) for node in (norm, call))
        if not isinstance(before, Value) or not isinstance(after, Value):
            return False
        return operator_name(call.target) in UNCHANGED and before.dtype == after.dtype

    def _is_weight(self, item: Any, size: int) -> bool:
        """A parameter of the model, one number per channel."""
        if not isinstance(item, Node) or item.op != "get_attr" or is_made(str(item.target)):
            return False
        value = self.analysis.values.get(item.name)
        return isinstance(value, Value) and value.shape == (size,)


def _squared(node: Node) -> Node | None:
    """What a call squares."""
    name, first = operator_name(node.target), node.args[0] if node.args else None
    by_itself = name == "aten.mul" and first is argument(node, 1)
    square = name == "aten.square" or (name == "aten.pow" and argument(node, 1) == 2)
    return first if isinstance(first, Node) and (by_itself or square) else None


def _eps(chain: list[Node]) -> float:
    """What is added to the mean of squares."""
    added = [argument(n, 1) for n in chain if operator_name(n.target) == "aten.add"]
    return float(added[0]) if len(added) == 1 else 0.0
