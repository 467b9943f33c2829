"""Fold scales: a factor per channel goes into the linear layer whose output it multiplies."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from fxprune.graph.nodes import argument, attribute
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import drop_unread, rewrite
from fxprune.label.groups import Analysis
from fxprune.passes.contract import InPlacePass
from fxprune.passes.norm_readers import BIASES, WEIGHTS, is_own
from fxprune.rules.labels import Value
from fxprune.rules.linear import UNCHANGED

OUTPUTS = {"aten.linear": 0, "aten.addmm": 1, "aten.mm": 1}
"""Along which axis of its weight a call's outputs lie."""


@dataclass(frozen=True, eq=False)
class FoldScales(InPlacePass):
    """Layer scale (`scale * linear(x)`) becomes part of the linear layer, exactly.

    Requires a captured graph and its analysis; ensures equal outputs (to rounding) and parameters
    of the same shapes, without the scales. What another call reads too stays.

    Attributes:
        analysis: of the graph that is passed in.
        folded: filled by the call: scales that nothing reads any more, and what stands for them in
            the original once they are in the weights.
    """

    analysis: Analysis
    folded: dict[str, float] = field(default_factory=dict)

    @torch.no_grad()
    def call(self, module: GraphModule) -> PassResult:
        """One product after the other."""
        for node in list(module.graph.nodes):
            found = self._scaled(node)
            if found is not None:
                self._fold(module, node, *found)
        drop_unread(module)
        return PassResult(module, bool(self.folded))

    def finds(self, module: GraphModule) -> list[Node]:
        """The products that the pass would fold; changes nothing."""
        return [node for node in module.graph.nodes if self._scaled(node) is not None]

    def _scaled(self, product: Node) -> tuple[Node, Node, Node] | None:
        """The layer of a product with a scale, what is scaled, and the scale."""
        if operator_name(product.target) in ("aten.mul", "aten.multiply"):
            for scaled, scale in (product.args, reversed(product.args)):
                layer = self._layer(scaled, scale)
                if layer and isinstance(scaled, Node) and isinstance(scale, Node):
                    return layer, scaled, scale
        return None

    def _layer(self, scaled: Any, scale: Any) -> Node | None:
        """The call whose outputs a parameter scales and nothing else reads; None where there is
        none.
        """
        if not isinstance(scaled, Node) or not is_own(scale) or len(scale.users) > 1:
            return None
        value, factors = (self.analysis.values.get(node.name) for node in (scaled, scale))
        if not isinstance(value, Value) or not isinstance(factors, Value):
            return None
        if factors.shape != value.shape[-1:]:
            return None
        while len(scaled.users) == 1 and operator_name(scaled.target) in UNCHANGED:
            source = scaled.args[0]
            if not isinstance(source, Node):
                return None
            scaled = source
        name = operator_name(scaled.target)
        if name not in OUTPUTS or len(scaled.users) > 1 or scaled.kwargs:
            return None
        tensors = [argument(scaled, WEIGHTS[name])]
        bias = argument(scaled, BIASES[name]) if name in BIASES else None
        tensors += [] if bias is None else [bias]
        own = all(is_own(tensor) and len(tensor.users) == 1 for tensor in tensors)
        return scaled if own else None

    def _fold(
        self, module: GraphModule, product: Node, layer: Node, scaled: Node, scale: Node
    ) -> None:
        """Multiply a layer's weights, and let what it gives stand for the product."""
        name = operator_name(layer.target)
        factors = attribute(module, str(scale.target)).detach().double()
        weight = attribute(module, str(argument(layer, WEIGHTS[name]).target))
        view = [1] * weight.dim()
        view[OUTPUTS[name]] = len(factors)
        rewrite(weight, weight.detach().double() * factors.view(view))
        bias = argument(layer, BIASES[name]) if name in BIASES else None
        if bias is not None:
            tensor = attribute(module, str(bias.target))
            rewrite(tensor, tensor.detach().double() * factors)
        self.folded[str(scale.target)] = 1.0
        product.replace_all_uses_with(scaled)
        product.graph.erase_node(product)
