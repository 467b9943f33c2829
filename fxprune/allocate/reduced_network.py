"""What layers weigh and cost once channels are gone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.graph.convolution import groups, read_convolution
from fxprune.graph.nodes import attribute
from fxprune.graph.operators import operator_name
from fxprune.label.arguments import Rewriter
from fxprune.label.groups import Analysis
from fxprune.label.layers import Layer
from fxprune.label.survivors import shrink_parameter
from fxprune.profile.costs import CostModel


@dataclass(frozen=True)
class ReducedNetwork:
    """A model at chosen widths, whose layers are to be factored.

    Attributes:
        graph, analysis: the captured graph and what is known of it.
        keep_mask: (channels + 1,) bool.
        layers: those that may be factored, by the name of their weight.
        costs: what every choice of widths costs.
        limits: fractions of the original to keep, by name.
        round_to: channels between two layers are multiples of this, where a layer has as many.
    """

    graph: GraphModule
    analysis: Analysis
    keep_mask: np.ndarray
    layers: Mapping[str, Layer]
    costs: CostModel
    limits: Mapping[str, float]
    round_to: int = 1

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the surviving part of a weight."""
        axes = [
            self.analysis.axes.get((name, axis))
            for axis in range(attribute(self.graph, name).dim())
        ]
        full = attribute(self.graph, name).shape
        # Every group of a convolution keeps as many inputs.
        return tuple(
            size
            if ids is None
            else int(self.keep_mask[ids].sum()) // (len(ids) if ids.ndim == 2 else 1)
            for size, ids in zip(full, axes, strict=True)
        )

    def weight(self, name: str) -> Tensor:
        """The surviving part of a weight."""
        return shrink_parameter(
            attribute(self.graph, name).detach(), name, self.analysis, self.keep_mask
        )

    def outputs(self, name: str) -> Tensor:
        """Indices of a layer's surviving outputs."""
        ids = self.analysis.axes.get((name, 0))
        return (
            torch.arange(len(attribute(self.graph, name)))
            if ids is None
            else torch.from_numpy(np.flatnonzero(self.keep_mask[ids]))
        )

    def groups(self, layer: Layer) -> int:
        """Convolution groups that stay; a depthwise layer has as many as channels reach it."""
        node = layer.node
        if groups(node) == 1:
            return 1
        target, args, kwargs = Rewriter(self.analysis, self.keep_mask).arguments(node)
        found = read_convolution(operator_name(target), args, kwargs)
        return 1 if found is None else found.groups

    def cost(self) -> np.ndarray:
        """Of everything without factoring, (limits,), as fractions of the original."""
        widths = np.array([int(self.keep_mask[g.blocks[0]].sum()) for g in self.analysis.groups])
        found = self.costs.fractions(widths, self.limits)
        return np.array([found[name] for name in self.limits])

    def layer_cost(self, layer: Layer) -> np.ndarray:
        """Of one layer that may be factored, (limits,), as fractions of the original."""
        full = self.costs.full
        shares = {
            "flops": self._flops(layer) / max(self.costs.flops(full), 1.0),
            "params": math.prod(self.shape(layer.weight)) / max(self.costs.total("params"), 1.0),
        }
        return np.array([shares[limit] for limit in self.limits])

    def _flops(self, layer: Layer) -> float:
        """Of the layer's first call, with the channels that stay."""
        terms = [term for term in self.analysis.costs if term.node == layer.node.name]
        return sum(
            term.amount * math.prod(float(self.keep_mask[axis].mean()) for axis in term.axes)
            for term in terms[-1:]
        )

    def position_ratio(self, layer: Layer) -> float:
        """How many more positions the first of two separable layers has than the layer: its stride
        is not yet taken.
        """
        source, result = (
            self.analysis.values[n.name].shape for n in (layer.node.all_input_nodes[0], layer.node)
        )
        rank = attribute(self.graph, layer.weight).dim() - 2
        return float(source[-rank] / result[-rank]) if rank > 0 else 1.0
