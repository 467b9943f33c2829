r"""Keep means: what reads a layer norm's stream as it is reads the mean of its channels too, which
then is a coordinate of its own.

With the reflection Q that exchanges the last coordinate and the mean's direction, and D = diag(1,
..., 1, 0), the mean is taken away by M = Q D Q, so that rms_norm(M x) = Q rms_norm(D z) for
z = Q x: Q goes into all that writes and reads the stream and its norms, and these read all
coordinates but the last. Every change of basis of the others passes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from fxprune.graph.nodes import argument, attribute
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import rewrite
from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.label.turning import axis_ids, turn
from fxprune.passes.contract import InPlacePass
from fxprune.passes.stream_edges import LAYER, normalized

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class KeepMeans(InPlacePass):
    """Write streams so that the mean of their channels is the last one.

    Requires a captured graph, its analysis, and that all which carries the channels of these
    streams commutes with orthonormal changes of basis but layer norms without weights. Whether it
    does, `fxprune.label.rotatable.mark_rotatable` says of the result: where it does not, this is
    of another function. Ensures equal outputs (to rounding) else and parameters of the same shapes.

    Attributes:
        analysis: of the graph that is passed in.
        mirrors: by the name of a channel group of one block, Q, (size, size) float64.
        kept: filled by the call: names of those of them that were changed. Others have their
            channels in another order somewhere.
    """

    analysis: Analysis
    mirrors: Mapping[str, Tensor]
    kept: list[str] = field(default_factory=list)

    @torch.no_grad()
    def call(self, module: GraphModule) -> PassResult:
        """All norms are looked for before the first is changed."""
        layers = [n for n in module.graph.nodes if operator_name(n.target) == LAYER]
        read = {norm: normalized(self.analysis, norm) for norm in layers}
        for group in self.analysis.groups:
            if group.name not in self.mirrors or not self._turn(module, group):
                continue
            self.kept.append(group.name)
            for norm, ids in read.items():
                if ids is not None and np.array_equal(ids, group.blocks[0]):
                    _read_less(norm, group.width)
        return PassResult(module, bool(self.kept))

    def _turn(self, module: GraphModule, group: ChannelGroup) -> bool:
        """Put the reflection into all weights that have the channels; whether it can be."""
        (block,), axes = group.blocks, self.analysis.axes.items()
        held = {key: ids for key, ids in axes if np.isin(ids, block).any()}
        if not all(np.array_equal(ids, block) for ids in held.values()):
            return False
        for name, axis in held:
            weight = attribute(module, name)
            placed = axis_ids(block, weight.shape, axis)
            mirror = self.mirrors[group.name]
            rewrite(weight, turn(weight.detach(), placed, group.blocks, [mirror]))
        return True


def _read_less(norm: Node, size: int) -> None:
    """Let a norm read all coordinates but the last, which is zero for it."""
    source, graph = cast(Node, norm.args[0]), norm.graph
    with graph.inserting_before(norm):
        left = graph.call_function(aten.slice.Tensor, (source, -1, 0, size - 1))
        padded = graph.call_function(aten.constant_pad_nd.default, (left, [0, 1]))
    left.meta = dict(norm.meta)
    left.meta["val"] = norm.meta["val"][..., :-1]
    padded.meta = dict(norm.meta)
    norm.target = aten.rms_norm.default
    norm.args = (padded, norm.args[1], None, argument(norm, 4, 1e-5))
