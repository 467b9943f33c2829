"""What writes a layer norm's stream, and whether the mean can be taken out of that."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from fxprune.graph.nodes import where
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import is_made
from fxprune.label.groups import Analysis
from fxprune.passes.norm_readers import channels_along, made_up, rounding, run_call
from fxprune.passes.stream_edges import LAYER
from fxprune.rules.labels import Value

APART = "its channels are not those of one channel group"


class WrittenStream:
    """What writes a norm's input, and all that reads it.

    Args:
        analysis: of the graph.
        norm: a layer norm.

    Attributes:
        norms: layer norms that read it, or the given one.
        dims: of the nodes that belong to it, the dimension along which its channels lie.
        leaves: those of them that are parameters.
        reason: why means cannot be folded into these, or none.
    """

    def __init__(self, analysis: Analysis, norm: Node):
        self._values, self.norms, self.reason = analysis.values, [norm], ""
        self.dims: dict[Node, int] = {}
        source = norm.args[0]
        assert isinstance(source, Node)
        ids = channels_along(analysis.values[source.name], -1)
        group = next((g for g in analysis.groups if ids is not None and ids[0] in g.blocks), None)
        (size,) = cast(list[int], norm.args[1])
        if group is None or len(group.blocks) > 1 or group.width != size:
            self.reason = APART
            return
        self._ids = group.blocks[0]
        left = [source]
        while left and not self.reason:
            node = left.pop()
            if node not in self.dims:
                left += self._visit(node)

    @property
    def leaves(self) -> list[Node]:
        """The parameters among the nodes."""
        return [node for node in self.dims if node.op == "get_attr"]

    def _visit(self, node: Node) -> list[Node]:
        """Take a node into the stream; which others belong to it then."""
        dim = self._dim(node)
        if dim is None or node.op == "placeholder" or is_made(str(node.target)):
            self.reason = f"its stream is written by something else than weights ({where(node)})"
            return []
        self.dims[node] = dim
        more = [n for n in node.all_input_nodes if self._dim(n) is not None]
        if node.op == "call_function" and not self._passes(node, more):
            self.reason = f"its stream is not written linearly ({where(node)})"
        for user in node.users:
            if operator_name(user.target) == LAYER and user.args[0] is node:
                if user not in self.norms:
                    self.norms.append(user)
            elif self._dim(user) is None or user.op != "call_function":
                self.reason = f"its stream is read by more than norms ({where(user)})"
            else:
                more.append(user)
        return more

    def _dim(self, node: Node) -> int | None:
        """The dimension along which the stream's channels lie, each once."""
        value = self._values.get(node.name)
        for dim in range(value.rank) if isinstance(value, Value) else ():
            ids = channels_along(value, dim)
            if ids is not None and np.array_equal(np.sort(ids), np.sort(self._ids)):
                return dim
        return None

    def _passes(self, call: Node, carriers: list[Node]) -> bool:
        """Whether a call of centered operands gives its centered result, tried on numbers."""
        draw = torch.Generator().manual_seed(0)
        plain, centered = dict[Node, Any](), dict[Node, Any]()
        for source in call.all_input_nodes:
            value = self._values[source.name]
            plain[source] = centered[source] = made_up(value, draw)
            if source in carriers:
                dim = self._dim(source)
                assert dim is not None
                centered[source] = plain[source] - plain[source].mean(dim, keepdim=True)
        try:
            before, after = (run_call(call, operands) for operands in (plain, centered))
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False
        if not isinstance(before, Tensor):  # a part of what no one number stands for
            return False
        wanted = before - before.mean(self.dims[call], keepdim=True)
        return bool((after - wanted).norm() <= rounding(after) * before.norm())


def center(weight: Tensor, dim: int) -> None:
    """Subtract its mean along a dimension, in place."""
    wide = weight.detach().double()
    weight.data.copy_(wide - wide.mean(dim, keepdim=True))
