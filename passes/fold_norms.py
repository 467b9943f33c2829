r"""Fold norms: layer norms become RMS norms without weights; what they did besides goes into the
weights before and behind them.

With M = I - 1 1^T / d, layer_norm(x) = w rms_norm(M x) + b. M goes into every weight that writes
the stream which the norm reads, w and b into the weights that read the norm (Ashkboos et al.,
SliceGPT, 2024). What is left of a norm has no coordinates of its own: a rotation of the stream
passes it.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from fxprune.errors import PlanError
from fxprune.graph.nodes import argument, attribute, where
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import drop_unread, is_made
from fxprune.label.groups import Analysis
from fxprune.passes.contract import InPlacePass
from fxprune.passes.norm_readers import NormReaders, channels_along, made_up, rounding, run_call
from fxprune.rules.labels import Value

aten = torch.ops.aten
LAYER, RMS = "aten.layer_norm", "aten.rms_norm"
NOTHING = "it has no weights"


@dataclass(frozen=True, eq=False)
class FoldNorms(InPlacePass):
    """Take the coordinates out of norms, exactly, where all that write and read them allow it.

    Requires a captured graph and its analysis; ensures equal outputs (to rounding) and parameters
    of the same shapes, without those that were folded. A norm that cannot be folded, in one part or
    both, keeps that part, and `reasons` says why.

    Attributes:
        analysis: of the graph that is passed in.
        streams: names of channel groups; the norms of each are folded where all of them lose all,
            and are left as they are elsewhere. Layers without a bias may get one then. Without
            these, whatever can be folded is.
        reasons: filled by the call: why norms keep a mean or weights, by the norm's node, or why a
            group's norms stay, by its name.
        folded: filled by the call: parameters that nothing reads any more, and what stands for them
            in the original once they are in others.
        whole: filled by the call: names of the groups whose norms were folded, and whether their
            channels have no mean now.
    """

    analysis: Analysis
    streams: Collection[str] | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    folded: dict[str, float] = field(default_factory=dict)
    whole: dict[str, bool] = field(default_factory=dict)

    def requires(self, module: GraphModule) -> None:
        """The analysis is of this graph."""
        for node in module.graph.nodes:
            if node.op in ("call_function", "get_attr") and node.name not in self.analysis.values:
                raise PlanError(
                    f"{node.name} is not in the analysis, which is of another graph. Analyze the "
                    "graph that is passed in."
                )

    @torch.no_grad()
    def call(self, module: GraphModule) -> PassResult:
        """First all that can be told of the graph as it is, then the changes."""
        chosen, streams, weights = self._decided(module)
        changed = self._subtract_means(module, chosen, streams)
        for norm in chosen:
            left = operator_name(norm.target) == LAYER
            if left or weights[norm].reason:
                self.reasons.setdefault(norm.name, weights[norm].reason)
            else:
                self._fold(module, norm, weights[norm])
                changed = True
            if not left:
                _add_behind(norm)
        return PassResult(module, drop_unread(module) or changed)

    def decide(self, module: GraphModule) -> bool:
        """Whether the pass would fold a norm of its streams; changes nothing."""
        return bool(self._decided(module)[0])

    def _decided(
        self, module: GraphModule
    ) -> "tuple[list[Node], dict[Node, _Stream], dict[Node, NormReaders]]":
        """The norms that are looked at for folding, what they read, and what reads them."""
        norms, streams = _norms(module), self._streams(_norms(module))
        weights = {norm: self._weights(norm) for norm in norms}
        if self.streams is None:
            return norms, streams, weights
        return self._whole(norms, streams, weights), streams, weights

    def _streams(self, norms: list[Node]) -> "dict[Node, _Stream]":
        """What every layer norm reads."""
        found: dict[Node, _Stream] = {}
        for norm in norms:
            if operator_name(norm.target) == LAYER and norm not in found:
                stream = _Stream(self.analysis, norm)
                found |= dict.fromkeys(stream.norms, stream)
        return found

    def _weights(self, norm: Node) -> NormReaders:
        """What a norm multiplies with and adds, and what reads it."""
        layer = operator_name(norm.target) == LAYER
        scale, shift = argument(norm, 2), argument(norm, 3) if layer else None
        if scale is None and shift is None:
            return NormReaders(self.analysis, norm, None, None, reason=NOTHING)
        return NormReaders.of(self.analysis, norm, scale, shift, self.streams is not None)

    def _whole(
        self,
        norms: list[Node],
        streams: "dict[Node, _Stream]",
        weights: dict[Node, NormReaders],
    ) -> list[Node]:
        """The norms of those groups all of whose norms lose all."""
        owner, chosen = self.analysis.group_of(), list[Node]()
        own: dict[str, list[Node]] = {}
        for norm in norms:
            ids = channels_along(self.analysis.values[cast(Node, norm.args[0]).name], -1)
            group = -1 if ids is None else int(owner[ids[0]])
            if group >= 0:
                own.setdefault(self.analysis.groups[group].name, []).append(norm)
        for name in self.streams or ():
            held = own.get(name, [])
            reason = _why_not(held, streams, weights)
            if reason:
                self.reasons[name] = reason
            else:
                chosen += held
                self.whole[name] = any(operator_name(n.target) == LAYER for n in held)
        return chosen

    def _subtract_means(
        self, module: GraphModule, norms: list[Node], streams: "dict[Node, _Stream]"
    ) -> bool:
        """Take the mean out of what writes whole streams; whether there was any."""
        done = set[int]()
        for norm in norms:
            stream = streams.get(norm)
            if stream is None:
                continue
            if stream.reason:
                self.reasons[norm.name] = stream.reason
                continue
            if id(stream) not in done:
                done.add(id(stream))
                for leaf in stream.leaves:
                    _center(attribute(module, str(leaf.target)), stream.dims[leaf])
            args = (*norm.args[:2], argument(norm, 2), argument(norm, 4, 1e-5))
            norm.meta["shift"] = argument(norm, 3)
            norm.target, norm.args = aten.rms_norm.default, args
        return bool(done)

    def _fold(self, module: GraphModule, norm: Node, weights: NormReaders) -> None:
        """Put a norm's weights into what reads it."""
        weights.fold(module)
        norm.args = (*norm.args[:2], None, *norm.args[3:])
        norm.meta.pop("shift", None)
        for item, value in ((weights.scale, 1.0), (weights.shift, 0.0)):
            if item is not None:
                self.folded[str(item.target)] = value


def _norms(module: GraphModule) -> list[Node]:
    """Norms over the last dimension alone."""
    return [
        node
        for node in module.graph.nodes
        if operator_name(node.target) in (LAYER, RMS)
        and len(cast(list[int], argument(node, 1))) == 1
    ]


def _why_not(
    norms: list[Node], streams: "dict[Node, _Stream]", weights: dict[Node, NormReaders]
) -> str:
    """Why norms cannot lose all they have; nothing where they can."""
    if not norms:
        return "no norm of one call reads its channels alone"
    for norm in norms:
        stream, own = streams.get(norm), weights[norm]
        reason = stream.reason if stream is not None else ""
        if not reason and own.reason != NOTHING:
            reason = own.reason
        for item in (own.scale, own.shift):
            if not reason and item is not None and not set(item.users) <= set(norms):
                reason = "its weights are read elsewhere too"
        if reason:
            return f"{where(norm)}: {reason}"
    return ""


def _add_behind(norm: Node) -> None:
    """Add what a layer norm added and an RMS norm does not."""
    shift = norm.meta.pop("shift", None)
    if shift is None:
        return
    with norm.graph.inserting_after(norm):
        result = norm.graph.call_function(aten.add.Tensor, (norm, shift))
        result.meta = dict(norm.meta)
    norm.replace_all_uses_with(result, lambda user: user is not result)


class _Stream:
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
            self.reason = "its channels are not those of one channel group"
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
        wanted = before - before.mean(self.dims[call], keepdim=True)
        return bool((after - wanted).norm() <= rounding(after) * before.norm())


def _center(weight: Tensor, dim: int) -> None:
    """Subtract its mean along a dimension, in place."""
    wide = weight.detach().double()
    weight.data.copy_(wide - wide.mean(dim, keepdim=True))
