r"""Fold norms: layer norms become RMS norms without weights; what they did besides goes into the
weights before and behind them.

With M = I - 1 1^T / d, layer_norm(x) = w rms_norm(M x) + b. M goes into every weight that writes
the stream which the norm reads, w and b into the weights that read the norm (Ashkboos et al.,
SliceGPT, 2024). What is left of a norm has no coordinates of its own: a rotation of the stream
passes it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.fx.passes.infra.pass_base import PassResult

from fxprune.errors import PlanError
from fxprune.graph.nodes import argument, attribute, where
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import drop_unread, is_made
from fxprune.label.groups import Analysis
from fxprune.passes.contract import InPlacePass
from fxprune.rules.labels import Value, narrow_constant, varying

aten = torch.ops.aten
LAYER, RMS = "aten.layer_norm", "aten.rms_norm"
CLOSE = 1e-9
"""Relative difference of two results in float64 that are the same."""


@dataclass(frozen=True, eq=False)
class FoldNorms(InPlacePass):
    """Take the coordinates out of norms, exactly, where all that write and read them allow it.

    Requires a captured graph and its analysis; ensures equal outputs (to rounding) and parameters
    of the same shapes, without those that were folded. A norm that cannot be folded, in one part or
    both, keeps that part, and `reasons` says why.

    Attributes:
        analysis: of the graph that is passed in.
        reasons: filled by the call: why norms keep a mean or weights, by the norm's node.
    """

    analysis: Analysis
    reasons: dict[str, str] = field(default_factory=dict)

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
        """First the means of whole streams, then the weights of one norm after the other."""
        changed, known = False, dict[Node, str]()
        for norm in _norms(module, LAYER):
            if norm in known:  # of a stream that was looked at
                reason = known[norm]
            else:
                stream = _Stream(self.analysis, norm)
                reason = stream.reason
                known |= dict.fromkeys(stream.norms, reason)
                if not reason:
                    for leaf in stream.leaves:
                        _center(attribute(module, str(leaf.target)), stream.dims[leaf])
            if reason:
                self.reasons[norm.name] = reason
            else:
                _subtract_no_mean(norm)
                changed = True
        for norm in _norms(module, RMS):
            reason = _fold_weights(module, norm)
            if reason:
                self.reasons.setdefault(norm.name, reason)
            changed = changed or not reason
        return PassResult(module, drop_unread(module) or changed)


def _norms(module: GraphModule, name: str) -> list[Node]:
    """Norms over the last dimension alone."""
    return [
        node
        for node in module.graph.nodes
        if operator_name(node.target) == name and len(cast(list[int], argument(node, 1))) == 1
    ]


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
        ids = _channels(analysis.values[source.name], -1)
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
            ids = _channels(value, dim)
            if ids is not None and np.array_equal(np.sort(ids), np.sort(self._ids)):
                return dim
        return None

    def _passes(self, call: Node, carriers: list[Node]) -> bool:
        """Whether a call of centered operands gives its centered result, tried on numbers."""
        draw = torch.Generator().manual_seed(0)
        plain, centered = dict[Node, Any](), dict[Node, Any]()
        for source in call.all_input_nodes:
            value = self._values[source.name]
            plain[source] = centered[source] = _made_up(value, draw)
            if source in carriers:
                dim = self._dim(source)
                assert dim is not None
                centered[source] = plain[source] - plain[source].mean(dim, keepdim=True)
        try:
            before, after = (_run(call, operands) for operands in (plain, centered))
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False
        wanted = before - before.mean(self.dims[call], keepdim=True)
        return bool((after - wanted).norm() <= CLOSE * before.norm())


def _channels(value: Any, dim: int) -> np.ndarray | None:
    """Channel ids along a dimension, where nothing else changes them."""
    for labels in value.axes if isinstance(value, Value) else ():
        if varying(labels) == {dim % value.rank}:
            return np.asarray(narrow_constant(labels).reshape(-1).numpy())
    return None


def _made_up(value: Any, draw: torch.Generator) -> Any:
    """Numbers in place of a node's result."""
    if not isinstance(value, Value):
        return value
    if value.const is not None:
        return value.const
    if not value.dtype.is_floating_point:
        return torch.zeros(value.shape, dtype=value.dtype)
    return torch.randn(value.shape, generator=draw, dtype=torch.float64)


def _run(call: Node, operands: dict[Node, Any]) -> Tensor:
    target: Callable[..., Tensor] = call.target  # type: ignore[assignment]
    args: Any = map_arg(call.args, operands.__getitem__)
    kwargs: Any = map_arg(dict(call.kwargs), operands.__getitem__)
    return target(*args, **kwargs)


def _center(weight: Tensor, dim: int) -> None:
    """Subtract its mean along a dimension, in place."""
    wide = weight.detach().double()
    weight.data.copy_(wide - wide.mean(dim, keepdim=True))


def _subtract_no_mean(norm: Node) -> None:
    """An RMS norm, and what was added behind, in place of a layer norm."""
    graph, source, shape = norm.graph, norm.args[0], norm.args[1]
    weight, bias, eps = argument(norm, 2), argument(norm, 3), argument(norm, 4, 1e-5)
    with graph.inserting_before(norm):
        result = graph.call_function(aten.rms_norm.default, (source, shape, weight, eps))
        result.meta = dict(norm.meta)
        if bias is not None:
            result = graph.call_function(aten.add.Tensor, (result, bias))
            result.meta = dict(norm.meta)
    norm.replace_all_uses_with(result)
    graph.erase_node(norm)


def _fold_weights(module: GraphModule, norm: Node) -> str:
    """Put a norm's scale, and the shift behind it, into the linear layers that read it.

    Returns:
        why not, or nothing.
    """
    scale, last, shift = argument(norm, 2), norm, None
    (user,) = norm.users if len(norm.users) == 1 else (None,)
    if user is not None and user.target is aten.add.Tensor and user.args[0] is norm:
        last, shift = user, user.args[1]
    if scale is None and shift is None:
        return "it has no weights"
    if not all(_is_own(item) for item in (scale, shift) if item is not None):
        return "what it is scaled or shifted by is no parameter"
    for reader in last.users:
        reason = _no_reader(reader, last, needs_bias=shift is not None)
        if reason:
            return f"{reason} ({where(reader)})"

    def tensor(item: Any) -> Tensor:
        found: Tensor = attribute(module, str(item.target))
        return found

    for reader in last.users:
        weight = tensor(reader.args[1])
        wide = weight.detach().double()
        if shift is not None:
            bias = tensor(reader.args[2])
            bias.data.copy_(bias.detach().double() + wide @ tensor(shift).double())
        if scale is not None:
            weight.data.copy_(wide * tensor(scale).double())
    norm.args = (*norm.args[:2], None, *norm.args[3:])
    if last is not norm:
        last.replace_all_uses_with(norm)
        last.graph.erase_node(last)
    return ""


def _is_own(item: Any) -> bool:
    return isinstance(item, Node) and item.op == "get_attr" and not is_made(str(item.target))


def _no_reader(reader: Node, source: Node, needs_bias: bool) -> str:
    """Why a call cannot take a norm's weights, or nothing."""
    if operator_name(reader.target) != "aten.linear" or reader.args[0] is not source:
        return "it is read by something else than linear layers"
    tensors: list[Any] = [argument(reader, 1), *([argument(reader, 2)] if needs_bias else [])]
    if any(not _is_own(tensor) or len(tensor.users) > 1 for tensor in tensors):
        return "a layer that reads it shares its weights, or has no bias for what it is shifted by"
    return ""
