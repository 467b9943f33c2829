r"""Fold norms: layer norms become RMS norms without weights; what they did besides goes into the
weights before and behind them.

With M = I - 1 1^T / d, layer_norm(x) = w rms_norm(M x) + b. M goes into every weight that writes
the stream which the norm reads, w and b into the weights that read the norm (Ashkboos et al.,
SliceGPT, 2024). What is left of a norm has no coordinates of its own: a rotation of the stream
passes it.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import cast

import torch
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from fxprune.errors import PlanError
from fxprune.graph.nodes import argument, attribute, where
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import drop_unread, rewrite
from fxprune.label.groups import Analysis
from fxprune.passes.contract import InPlacePass
from fxprune.passes.norm_readers import NormReaders, channels_along
from fxprune.passes.stream_edges import LAYER, StreamEdges, normalized

aten = torch.ops.aten
RMS = "aten.rms_norm"
NOTHING = "it has no weights"
APART = "its channels are not those of one channel group"


@dataclass(frozen=True, eq=False)
class FoldNorms(InPlacePass):
    """Take the coordinates out of norms, exactly, where all that write and read them allow it.

    Requires a captured graph and its analysis; ensures equal outputs (to rounding) and parameters
    of the same shapes, without those that were folded. A norm that cannot be folded, in one part or
    both, keeps that part, and `reasons` says why.

    Attributes:
        analysis: of the graph that is passed in.
        streams: names of channel groups; the norms of each are folded where all of them lose their
            weights, and are left as they are elsewhere. Layers without a bias may get one then.
            Without these, whatever can be folded is.
        reasons: filled by the call: why norms keep a mean or weights, by the norm's node, or why a
            group's norms stay, by its name.
        folded: filled by the call: parameters that nothing reads any more, and what stands for them
            in the original once they are in others.
        whole: filled by the call: names of the groups whose norms were folded, and whether their
            channels have no mean now.
        kept: filled by the call: names of those of them whose layer norms go on taking the mean
            away.
        added: filled by the call: biases that layers got, and the weights beside them.
    """

    analysis: Analysis
    streams: Collection[str] | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    folded: dict[str, float] = field(default_factory=dict)
    whole: dict[str, bool] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    added: dict[str, str] = field(default_factory=dict)

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
        norms = _norms(module)
        weights, streams = {norm: self._weights(norm) for norm in norms}, self._streams(norms)
        means = {norm: s.mean_stays if s else APART for norm, s in streams.items()}
        chosen = norms if self.streams is None else self._whole(norms, means, weights)
        changed = self._subtract_means(module, chosen, streams, means)
        for norm in chosen:
            left = operator_name(norm.target) == LAYER
            if not weights[norm].reason and not (left and self.streams is None):
                self._fold(module, norm, weights[norm])
                changed = True
            elif self.streams is None:
                self.reasons.setdefault(norm.name, weights[norm].reason)
            if not left:
                _add_behind(norm)
        return PassResult(module, drop_unread(module) or changed)

    def _streams(self, norms: list[Node]) -> dict[Node, StreamEdges | None]:
        """What every layer norm reads; None where that is not one channel group in one block."""
        found, owner = dict[Node, StreamEdges | None](), self.analysis.group_of()
        for norm in norms:
            if operator_name(norm.target) != LAYER or norm in found:
                continue
            ids, stream = normalized(self.analysis, norm), None
            number = -1 if ids is None else int(owner[ids[0]])
            if ids is not None and number >= 0:
                if self.analysis.groups[number].blocks.shape == (1, len(ids)):
                    stream = StreamEdges.of(self.analysis, norm, ids)
            found |= dict.fromkeys((norm, *(stream.norms if stream else ())), stream)
        return {norm: found[norm] for norm in norms if operator_name(norm.target) == LAYER}

    def _weights(self, norm: Node) -> NormReaders:
        """What a norm multiplies with and adds, and what reads it."""
        layer = operator_name(norm.target) == LAYER
        scale, shift = argument(norm, 2), argument(norm, 3) if layer else None
        if scale is None and shift is None:
            return NormReaders(self.analysis, norm, None, None, reason=NOTHING)
        return NormReaders.of(self.analysis, norm, scale, shift, self.streams is not None)

    def _whole(
        self, norms: list[Node], means: dict[Node, str], weights: dict[Node, NormReaders]
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
            reason = _why_not(held, means, weights)
            if reason:
                self.reasons[name] = reason
                continue
            chosen += held
            layers = [norm for norm in held if norm in means]
            stays = next((means[norm] for norm in layers if means[norm]), "")
            means |= dict.fromkeys(layers, stays)
            self.kept.extend([name] if stays else [])
            self.whole[name] = bool(layers) and not stays
        return chosen

    def _subtract_means(
        self,
        module: GraphModule,
        norms: list[Node],
        streams: dict[Node, StreamEdges | None],
        means: dict[Node, str],
    ) -> bool:
        """Take the mean out of what writes whole streams; whether there was any."""
        done = set[int]()
        for norm in norms:
            stream, stays = streams.get(norm), means.get(norm)
            if stays and self.streams is None:
                self.reasons[norm.name] = stays
            if stream is None or stays:
                continue
            for leaf in stream.weights if id(stream) not in done else ():
                weight = attribute(module, str(leaf.target))
                wide = weight.detach().double()
                rewrite(weight, wide - wide.mean(stream.inside[leaf], keepdim=True))
            done.add(id(stream))
            args = (*norm.args[:2], argument(norm, 2), argument(norm, 4, 1e-5))
            norm.meta["shift"] = argument(norm, 3)
            norm.target, norm.args = aten.rms_norm.default, args
        return bool(done)

    def _fold(self, module: GraphModule, norm: Node, weights: NormReaders) -> None:
        """Put a norm's weights into what reads it."""
        self.added.update(weights.fold(module))
        layer = operator_name(norm.target) == LAYER
        none = (None, None) if layer else (None,)
        norm.args = (*norm.args[:2], *none, *norm.args[2 + len(none) :])
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


def _why_not(norms: list[Node], means: dict[Node, str], weights: dict[Node, NormReaders]) -> str:
    """Why norms cannot lose their weights; nothing where they can."""
    if not norms:
        return "no norm of one call reads its channels alone"
    for norm in norms:
        own = weights[norm]
        reason = "" if own.reason == NOTHING else own.reason
        if means.get(norm) == APART:
            reason = APART
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
