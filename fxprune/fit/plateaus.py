"""Where what reads a layer cannot tell its outputs apart: on the flat parts of the activation
behind it, through the BatchNorm between.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from fxprune.fit.reduction import Reduction
from fxprune.graph.convolution import bias_of, channel_dim
from fxprune.graph.nodes import argument, attribute, only_user
from fxprune.graph.operators import operator_name
from fxprune.label.layers import Layer

Bounds = tuple[float, float]

_CONSTANT: dict[str, Bounds] = {
    "aten.relu": (0.0, math.inf),
    "aten.relu6": (0.0, 6.0),
    "aten.hardsigmoid": (-3.0, 3.0),
    "aten.hardswish": (-3.0, math.inf),
}
_READ: dict[str, Callable[[Node], tuple[object, object]]] = {
    "aten.hardtanh": lambda call: (argument(call, 1, -1.0), argument(call, 2, 1.0)),
    "aten.clamp": lambda call: (argument(call, 1), argument(call, 2)),
    "aten.clamp_min": lambda call: (argument(call, 1), None),
    "aten.clamp_max": lambda call: (None, argument(call, 1)),
    "aten.threshold": lambda call: (argument(call, 1), None),
}


@dataclass(frozen=True)
class Plateaus:
    """What a layer's outputs y go through, channel by channel: an activation of scale * y + offset
    that is the same for all numbers up to `low`, and from `high` on.

    Attributes:
        scale, offset: (channels,).
        low, high: infinite where there is no such part.
    """

    scale: Tensor
    offset: Tensor
    low: float
    high: float

    def nearest(self, target: Tensor, given: Tensor) -> Tensor:
        """Of the outputs that the activation takes for the same as these, those next to others.

        Args:
            target: (rows, channels) the original's outputs.
            given: (rows, channels) what a fit gives in their place.
        """
        scale, offset = (own.to(target) for own in (self.scale, self.offset))
        wanted, made = scale * target + offset, scale * given + offset
        below, above = wanted <= self.low, wanted >= self.high
        ends = torch.where(below, made.clamp(max=self.low), made.clamp(min=self.high))
        # A channel that its BatchNorm makes constant has no target.
        ends = torch.where(scale == 0, given, (ends - offset) / scale)
        return torch.where(below | above | (scale == 0), ends, target)


def flat_behind(layer: Layer) -> tuple[Node | None, Bounds] | None:
    """The BatchNorm that a layer's outputs go through, if any, and up to where and from where on
    the activation behind is flat; None where nothing is known to be.
    """
    norm, user = None, only_user(layer.node) if len(layer.calls) == 1 else None
    if user is not None and operator_name(user.target) == "aten.batch_norm":
        norm, user = user, only_user(user)
        if argument(norm, 5) or any(
            isinstance(x, Node) and x.op != "get_attr" for x in norm.args[1:]
        ):
            return None
    bounds = None if user is None else _bounds(user)
    return None if bounds is None else (norm, bounds)


@torch.no_grad()
def plateaus_behind(layer: Layer, reduction: Reduction) -> Plateaus | None:
    """What the outputs that survive go through; None where it is flat nowhere, or not known.

    Args:
        layer: of the original graph.
        reduction: of it; outputs are counted without a bias that the fit cannot change.
    """
    found, kept = flat_behind(layer), reduction.kept(layer.node)
    if found is None or kept is None:
        return None
    norm, bounds = found
    weight = attribute(reduction.original, layer.weight)
    scale, offset = weight.new_ones(len(weight)), weight.new_zeros(len(weight))
    if norm is not None:
        given = [
            attribute(reduction.original, str(x.target)) if isinstance(x, Node) else x
            for x in norm.args[1:]
        ]
        offset, one = norm.target(torch.stack([offset, scale]), *given)  # type: ignore[operator]
        scale = one - offset
    bias = bias_of(layer.node)
    if layer.bias is None and bias is not None:
        offset = offset + scale * attribute(reduction.original, bias)
    own = kept.get(channel_dim(layer.node, weight.dim()) % layer.node.meta["val"].dim())
    if own is not None:
        scale, offset = (vector[own.to(vector.device)] for vector in (scale, offset))
    return Plateaus(scale, offset, *bounds)


def _bounds(call: Node) -> Bounds | None:
    """Up to where, and from where on, an activation is flat."""
    name = operator_name(call.target).removesuffix("_")
    if name not in _READ or call.kwargs:
        return None if call.kwargs else _CONSTANT.get(name)
    low, high = _READ[name](call)
    ends = (-math.inf if low is None else low), (math.inf if high is None else high)
    if not all(isinstance(end, (int, float)) for end in ends):
        return None
    return float(ends[0]), float(ends[1])  # type: ignore[arg-type]
