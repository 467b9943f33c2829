"""Where a stream is written and read: what a norm normalizes, followed through all that mixes its
channels linearly, up to the edges at which something else stands.

Inside a stream every call gives the rotated result for rotated operands, which is tried out on
numbers. At its edges stand weights, norms, layers that read it, and what is none of these: an
activation, an operator without a rule, a constant, an input or output of the model.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from fxprune.graph.nodes import argument, where
from fxprune.graph.operators import operator_name
from fxprune.label.groups import Analysis
from fxprune.label.tried import commutes
from fxprune.passes.norm_readers import channels_along, dim_of, is_own
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
        scaled: products with a scale that goes into the layer before (`FoldScales`).
    """

    analysis: Analysis
    ids: np.ndarray
    centers: bool
    norms: dict[Node, None] = field(default_factory=dict)
    inside: dict[Node, int] = field(default_factory=dict)
    written: dict[Node, dict[Node, None]] = field(default_factory=dict)
    read: dict[Node, dict[Node, None]] = field(default_factory=dict)
    layers: dict[Node, None] = field(default_factory=dict)
    scaled: frozenset[Node] = frozenset()
    _tried: dict[Node, bool] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        analysis: Analysis,
        norm: Node,
        ids: np.ndarray,
        scaled: frozenset[Node] = frozenset(),
    ) -> "StreamEdges":
        """Follow what a norm reads.

        Args:
            analysis: of the graph.
            norm: a call.
            ids: of the channels that it normalizes.
            scaled: products with a scale that goes into the layer before.
        """
        found = cls(analysis, ids, operator_name(norm.target) == LAYER, scaled=scaled)
        found._follow(norm)
        found._lift({node: place for place, node in enumerate(norm.graph.nodes)})
        return found

    def __contains__(self, call: Node) -> bool:
        """Whether a call reads the stream and takes its change of basis."""
        return call in self.inside or call in self.norms or call in self.layers

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

    @property
    def mean_stays(self) -> str:
        """Why its mean cannot be taken out of what writes it; nothing where it can."""
        for node in self.written:
            weights = "not written linearly" if node.op == "call_function" else "no weights'"
            return f"its stream is {weights} ({where(node)})"
        readers = (user for users in (self.layers, *self.read.values()) for user in users)
        others = (norm for norm in self.norms if operator_name(norm.target) != LAYER)
        for user in (*readers, *others):
            return f"its stream is read by more than norms that take the mean away ({where(user)})"
        return ""

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
        left = [cast(Node, norm.args[0])]
        while left:
            node = left.pop()
            if node in self.inside or node in self.written:
                continue
            within = self._within(node)
            if within:
                self.inside[node] = cast(int, self._dim(node))
                sources = node.all_input_nodes if node.op == "call_function" else ()
                left += [source for source in sources if self._dim(source) is not None]
            else:
                self.written[node] = {}
            for user in node.users:
                if self._goes_on(node, user, within):
                    left.append(user)

    def _goes_on(self, node: Node, user: Node, within: bool) -> bool:
        """Whether a user belongs to the stream too; noted as what it is where not. Of what writes
        the stream, others may read what is written in the coordinates that there are.
        """
        ids = normalized(self.analysis, user)
        norm = ids is not None and user.args[0] is node and np.array_equal(ids, self.ids)
        goes_on = not norm and self._within(user)
        if norm:
            self.norms[user] = None
        if not within:
            if norm or goes_on:
                self.written[node][user] = None
        elif norm or goes_on:
            pass
        elif (user.name, node.name) in self._contracting:
            self.layers[user] = None
        elif node.op != "get_attr" and self._reads_numbers(user):
            self.read.setdefault(node, {})[user] = None
        return goes_on

    @cached_property
    def _contracting(self) -> set[tuple[str, str]]:
        return {(consumer.node, consumer.source) for consumer in self.analysis.consumers}

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
                    and (node in self.scaled or self._commutes(node))
                )
            )
        return self._tried[node]

    def _commutes(self, call: Node) -> bool:
        """Whether f(R x) = R f(x) for a reflection R of all that carries the channels."""
        carrying = (call, *call.all_input_nodes)
        dims = {node: dim for node in carrying if (dim := self._dim(node)) is not None}
        draw = torch.Generator().manual_seed(0)
        axis = torch.randn(len(self.ids), generator=draw, dtype=torch.float64)
        axis = axis / axis.norm()

        def turned(x: Tensor, dim: int) -> Tensor:
            moved = x.movedim(dim, -1)
            mirror: Tensor = moved - 2 * (moved @ axis)[..., None] * axis
            return mirror.movedim(-1, dim)

        kind = "turned", len(self.ids)
        return len(dims) > 1 and commutes(call, self.analysis.values, dims, turned, kind)

    def _lift(self, places: dict[Node, int]) -> None:
        """Where all that is made of a part of the stream leaves it, let the part be read: as few
        numbers as possible go back to the coordinates that there are.
        """
        values = self.analysis.values
        spent, leaving = dict[Node, int](), dict[Node, set[Node]]()
        for node in sorted(self.inside, key=places.__getitem__, reverse=True):
            size, direct = math.prod(values[node.name].shape), self.read.get(node, {})
            gone = [user for user in node.users if user in leaving]
            least = sum(spent[user] for user in gone) + size * bool(direct)
            below = set(gone).union(*(leaving[user] for user in gone))
            if gone and least >= size:
                for user in below:
                    self.read.pop(user, None)
                    del self.inside[user], leaving[user]
                self.read[node] = {**direct, **dict.fromkeys(gone)}
                least, below = size, set()
            direct = self.read.get(node, {})
            alone = sum(source in self.inside for source in node.all_input_nodes) == 1
            if alone and node.users and all(u in direct or u in leaving for u in node.users):
                spent[node], leaving[node] = least, below
