"""Where a stream is written and read: what a norm normalizes, followed through all that mixes its
channels linearly, up to the edges at which something else stands.

Inside a stream every call gives the rotated result for rotated operands, which is tried out on
numbers. At its edges stand weights, norms, layers that read it, and what is none of these: an
activation, an operator without a rule, a constant, an input or output of the model.
"""

import math
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from fxprune.graph.nodes import argument
from fxprune.graph.operators import operator_name
from fxprune.label.groups import Analysis
from fxprune.passes.norm_readers import channels_along, dim_of, is_own, made_up, rounding, run_call
from fxprune.rules.labels import Value
from fxprune.rules.linear import LINEAR, NORMS

LAYER = "aten.layer_norm"


def normalized(analysis: Analysis, node: Node) -> np.ndarray | None:
    """Ids of the channels that a call normalizes, each once; None for what is no norm of one axis.

    Args:
        analysis: of the graph.
        node: of it.
    """
    if operator_name(node.target) not in {LAYER, *NORMS}:
        return None
    if len(cast(list[int], argument(node, 1))) != 1:
        return None
    ids = channels_along(analysis.values[cast(Node, node.args[0]).name], -1)
    return None if ids is None or len(np.unique(ids)) < len(ids) else ids


@dataclass(frozen=True, eq=False)
class StreamEdges:
    """The stream that a norm reads.

    Attributes:
        analysis: of the graph, in which the stream's channels have ids.
        ids: of its channels, in order.
        centers: whether means of its channels are taken away, by a layer norm.
        norms: that read it.
        inside: what belongs to it, and along which dimension its channels lie there.
        written: nodes that are no linear function of it, and the calls inside that read them.
        read: nodes inside, and what reads them and needs the coordinates that there are.
        layers: calls that contract it with a weight as it is.
    """

    analysis: Analysis
    ids: np.ndarray
    centers: bool
    norms: dict[Node, None] = field(default_factory=dict)
    inside: dict[Node, int] = field(default_factory=dict)
    written: dict[Node, dict[Node, None]] = field(default_factory=dict)
    read: dict[Node, dict[Node, None]] = field(default_factory=dict)
    layers: dict[Node, None] = field(default_factory=dict)
    _tried: dict[Node, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, analysis: Analysis, norm: Node, ids: np.ndarray) -> "StreamEdges":
        """Follow what a norm reads.

        Args:
            analysis: of the graph.
            norm: a call.
            ids: of the channels that it normalizes.
        """
        found = cls(analysis, ids, operator_name(norm.target) == LAYER)
        found._follow(norm)
        found._lift({node: place for place, node in enumerate(norm.graph.nodes)})
        return found

    @property
    def weights(self) -> list[Node]:
        """The parameters that write it."""
        return [node for node in self.inside if node.op == "get_attr"]

    @property
    def turns(self) -> bool:
        """Whether it commutes with changes of basis once there are maps at its edges."""
        return bool(self.weights)

    @property
    def keeps_mean(self) -> bool:
        """Whether something reads the mean that its norms take away."""
        return self.centers and bool(self.layers or self.read)

    def shared(self, call: Node) -> Node | None:
        """A weight that a call writes the stream with and something else reads too; that may not
        lose its mean.
        """
        for node in call.all_input_nodes if self.centers else ():
            if is_own(node) and self._dim(node) is not None:
                if any(self._dim(user) is None for user in node.users):
                    return node
        return None

    def _follow(self, norm: Node) -> None:
        left = list[Node]()

        def enter(node: Node, user: Node) -> None:
            if not self._within(node):
                self.written.setdefault(node, {})[user] = None
            elif node not in self.inside:
                self.inside[node] = cast(int, self._dim(node))
                left.append(node)

        enter(cast(Node, norm.args[0]), norm)
        while left:
            node = left.pop()
            for source in node.all_input_nodes if node.op == "call_function" else ():
                if self._dim(source) is not None:
                    enter(source, node)
            for user in node.users:
                if self._goes_on(node, user):
                    enter(user, user)

    def _goes_on(self, node: Node, user: Node) -> bool:
        """Whether a user belongs to the stream too; noted as what it is where not."""
        ids = normalized(self.analysis, user)
        if ids is not None and user.args[0] is node and np.array_equal(ids, self.ids):
            self.norms[user] = None
        elif self._within(user):
            return True
        elif any(c.node == user.name and c.source == node.name for c in self.analysis.consumers):
            self.layers[user] = None
        elif node.op == "get_attr" or not self._reads_numbers(user):
            pass
        else:
            self.read.setdefault(node, {})[user] = None
        return False

    def _reads_numbers(self, user: Node) -> bool:
        value = self.analysis.values.get(user.name)
        items = value if isinstance(value, (tuple, list)) else (value,)
        return user.op == "output" or any(isinstance(item, Value) for item in items)

    def _dim(self, node: Node) -> int | None:
        return dim_of(self.analysis.values.get(node.name), self.ids)

    def _within(self, node: Node) -> bool:
        """Whether a node carries the channels: a weight, or linear in all that carries them."""
        if node not in self._tried:
            self._tried[node] = self._dim(node) is not None and (
                is_own(node)
                or (
                    node.op == "call_function"
                    and operator_name(node.target) in LINEAR
                    and self.shared(node) is None
                    and self._commutes(node)
                )
            )
        return self._tried[node]

    def _commutes(self, call: Node) -> bool:
        """Whether f(R x) = R f(x) for a reflection R of all that carries the channels."""
        draw, values = torch.Generator().manual_seed(0), self.analysis.values
        axis = torch.randn(len(self.ids), generator=draw, dtype=torch.float64)
        axis = axis / axis.norm()

        def turned(x: Tensor, dim: int) -> Tensor:
            moved = x.movedim(dim, -1).double()
            mirror: Tensor = moved - 2 * (moved @ axis)[..., None] * axis
            return mirror.movedim(-1, dim)

        plain: dict[Node, Any] = {n: made_up(values[n.name], draw) for n in call.all_input_nodes}
        dims = {node: self._dim(node) for node in plain}
        changed = {n: x if (d := dims[n]) is None else turned(x, d) for n, x in plain.items()}
        if all(dim is None for dim in dims.values()):
            return False
        try:
            before, after = (run_call(call, operands) for operands in (plain, changed))
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False
        if not isinstance(after, Tensor) or not after.is_floating_point():
            return False
        wanted = turned(before, cast(int, self._dim(call)))
        return bool((after - wanted).norm() <= rounding(after) * wanted.norm())

    def _lift(self, places: dict[Node, int]) -> None:
        """Where all that is made of a part of the stream leaves it, let the part be read: as few
        numbers as possible go back to the coordinates that there are.
        """
        values = self.analysis.values
        size = {node: math.prod(values[node.name].shape) for node in self.inside}
        for node in sorted(self.inside, key=places.__getitem__, reverse=True):
            leaving = [
                user
                for user in node.users
                if user in self.inside
                and user.users
                and set(user.users) <= set(self.read.get(user, ()))
            ]
            spent = sum(size[user] for user in leaving) + size[node] * (node in self.read)
            if leaving and spent >= size[node]:
                for user in leaving:
                    del self.read[user], self.inside[user]
                    self.read.setdefault(node, {})[user] = None
