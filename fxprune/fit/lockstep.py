"""Sequential fitting: the compressed model runs in lockstep with what the original gave, layer
after layer over the calibration set.

Each layer of the compressed model is fitted from what really reaches it (compressed activations)
to what the original layer gave, so errors made upstream are repaired downstream instead of adding
up. Every layer's activations are computed once.
"""

import functools
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from fxprune.calibrate.recording import VALIDATION, Chunk, Recording, rows_per_example
from fxprune.fit.schedule import gathered
from fxprune.graph.convolution import bias_of, channel_dim, groups, setting
from fxprune.graph.nodes import attribute, constants
from fxprune.graph.operators import operator_name
from fxprune.label.groups import Analysis
from fxprune.label.layers import Layer, own_layers
from fxprune.linalg.gram import SHRINKAGE, Moments, Sums
from fxprune.linalg.pca import truncate
from fxprune.linalg.refit import TINY, Fit, refit, solution
from fxprune.rules.labels import Value, varying

HELD_OUT = 5
"""Where no examples are there to judge the ridge, every fifth does."""
MAX_FEATURES = 6144
"""Unknowns per output above which a layer keeps its one-shot fit."""


@dataclass
class Fits:
    """What the sequential fit did, per weight: its fit, or why it kept the one-shot one."""

    layers: dict[str, Fit] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


class Lockstep:
    """Fits `small` in place.

    Args:
        small: the captured graph with channels removed; node names equal.
        analysis: of the captured graph.
        keep_mask: (channels + 1,) bool.
        dense: the captured graph.
        recording: of the captured graph's outputs.
        ranks: of weights that are to become products of two; each of a convolution's groups has
            this rank.
        unseen: one-shot fits, by weight, that did not see the examples which judge; they stand in
            for those of `small` while a ridge is chosen.
        ridge: of every layer; by default each one's is chosen on held-out examples.
        max_features: layers with more unknowns per output keep their one-shot fit.
    """

    def __init__(
        self,
        dense: GraphModule,
        small: GraphModule,
        analysis: Analysis,
        keep_mask: np.ndarray,
        recording: Recording,
        ranks: Mapping[str, int] = MappingProxyType({}),
        unseen: Mapping[str, Tensor] = MappingProxyType({}),
        ridge: float | None = None,
        max_features: int = MAX_FEATURES,
    ):
        self.ranks, self.unseen, self.ridge, self.recording, self.max_features = (
            ranks,
            unseen,
            ridge,
            recording,
            max_features,
        )
        self.dense, self.small, self.analysis, self.keep_mask = dense, small, analysis, keep_mask
        self.nodes = list(dense.graph.nodes)
        self.twins = {node.name: node for node in small.graph.nodes}
        self.constant = {node.name for node in constants(dense)}
        self.fits = Fits()

    @torch.no_grad()
    def run(
        self, chunks: Sequence[Chunk], advance: Callable[[int], object] = lambda nodes: None
    ) -> Fits:
        """Fit every layer whose input or output differs from the original's, in order; `advance`
        is told of every node.
        """
        layers = self._layers()
        self.chunks, self.store, self.last = chunks, self.recording.store, self._last_uses()
        placeholders = [n.name for n in self.nodes if n.op == "placeholder"]
        self.values: list[dict[str, Any]] = [
            dict(zip(placeholders, chunk.inputs, strict=True)) for chunk in chunks
        ]
        same, reached, waiting = set(placeholders), set[str](), list[Node]()
        for node in self.nodes:
            advance(1)
            if node.op != "call_function" or node.name in self.constant or node.name in reached:
                continue
            layer = layers.get(node.name)
            calls = layer.calls if layer else (node,)
            changed = not all(self._unchanged(call, same) for call in calls)
            if layer and (changed or layer.weight in self.ranks):
                changed = True
                self._execute(waiting)
                waiting = []
                self._fit(layer)
            waiting += calls
            reached.update(call.name for call in calls)
            if not changed:
                same.update(call.name for call in calls)
        # What follows the last fit need not run.
        for held in self.values:
            for name in held.keys() - set(placeholders):
                self.store.drop(held.pop(name))
        return self.fits

    def _execute(self, nodes: Sequence[Node]) -> None:
        """Calls between two fits, chunk after chunk: what only they need stays small, and in the
        processor's cache.
        """
        for held in self.values:
            fresh: dict[str, Any] = {}
            for node in nodes:
                fresh[node.name] = self._call(self.twins[node.name], held, fresh)
                for done in self.last.get(node.name, ()):
                    if done in fresh:
                        del fresh[done]
                    else:
                        self.store.drop(held.pop(done))
            held.update((name, self.store.put(value)) for name, value in fresh.items())

    def _call(
        self, node: Node, held: Mapping[str, Any], fresh: Mapping[str, Any] = MappingProxyType({})
    ) -> Any:
        """One call on one chunk; weights and what follows from them alone are read afresh, since
        fitting changes them.

        Args:
            held: handles of the chunk's values, by node.
            fresh: values that are not in the store yet.
        """
        value = functools.partial(self._value, held, fresh)
        return node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))  # type: ignore[operator]

    def _value(self, held: Mapping[str, Any], fresh: Mapping[str, Any], source: Node) -> Any:
        """What a node gives to those that read it. No closure in `_call`: one that calls itself
        would keep `fresh` until the next collection.
        """
        if source.op == "get_attr":
            return attribute(self.small, str(source.target))
        if source.name in self.constant:
            return self._call(source, held, fresh)
        return fresh[source.name] if source.name in fresh else self.store.get(held[source.name])

    def _unchanged(self, node: Node, same: set[str]) -> bool:
        """Whether the compressed model provably computes the same here."""
        twin = self.twins[node.name]
        for source in node.all_input_nodes:
            if source.name in self.constant:
                for name in _weights(source):
                    if attribute(self.dense, name).shape != attribute(self.small, name).shape:
                        return False
            elif source.name not in same:
                return False
        return (
            str(twin.args) == str(node.args)
            and str(twin.kwargs) == str(node.kwargs)
            and twin.target == node.target
        )

    def _last_uses(self) -> dict[str, list[str]]:
        """Names whose values may go after each node."""
        last: dict[str, str] = {}
        for node in self.nodes:
            if node.op == "output":
                continue
            last.setdefault(node.name, node.name)
            for source in node.all_input_nodes:
                last[source.name] = node.name
        result: dict[str, list[str]] = defaultdict(list)
        for name, user in last.items():
            if name not in self.constant and self.twins[name].op != "placeholder":
                result[user].append(name)
        return result

    def _layers(self) -> dict[str, Layer]:
        """Weights that one closed-form fit can change, by their first calls; puts calls that share
        a weight together.
        """
        layers = own_layers(self.dense)
        self.nodes, together = gathered(
            self.nodes, [layer.calls for layer in layers.values() if len(layer.calls) > 1]
        )
        return {
            name: layer
            for name, layer in layers.items()
            if len(layer.calls) == 1 or layer.calls in together
        }

    def _fit(self, layer: Layer) -> None:
        """Refit a layer, and lower its rank where that is asked."""
        weight, rank = attribute(self.small, layer.weight), self.ranks.get(layer.weight)
        parts = groups(self.twins[layer.node.name])
        taps_first = weight.detach().to(torch.float64, copy=True).movedim(1, -1)
        prior = taps_first.reshape(parts, len(weight) // parts, -1)
        features = prior.shape[2]
        moments = self._moments(layer, weight) if features <= self.max_features else None
        if moments is None:
            fitted = None
        elif self.ridge is None:
            unseen = (
                self.unseen.get(layer.weight, weight)
                .detach()
                .double()
                .movedim(1, -1)
                .reshape(prior.shape)
            )
            fitted = refit(moments[0], moments[1], prior, layer.intercept, unseen)
        else:
            fitted = solution(moments[0], prior, layer.intercept, self.ridge, torch.float32)
        if moments is not None and fitted is not None and bool(torch.isfinite(fitted.weight).all()):
            self.fits.layers[layer.weight] = fitted
            new, shift = fitted.weight, fitted.bias
            if rank is not None:
                new, shift = truncate(
                    new,
                    shift,
                    *functools.reduce(operator.add, moments).outputs(new),
                    rank,
                    layer.intercept,
                )
        else:
            too_many = f"{features} unknowns per output" if features > self.max_features else ""
            self.fits.kept[layer.weight] = too_many or (
                "the fit is not finite"
                if fitted
                else "its outputs cannot be matched to the original's"
            )
            if rank is None:
                return
            bias = self._bias(layer)
            shift = (prior.new_zeros(len(weight)) if bias is None else bias.detach().double()).view(
                parts, -1
            )
            new, shift = truncate(
                prior, shift, *self._outputs(layer, prior, shift), rank, layer.intercept
            )
        weight.data.copy_(new.view(taps_first.shape).movedim(-1, 1))
        if layer.bias is not None:
            attribute(self.small, layer.bias).data.copy_(shift.reshape(-1))
        elif layer.mean is not None:
            mean = attribute(self.small, layer.mean)
            mean.data.copy_(mean.double() - shift.reshape(-1).to(mean.device))

    def _outputs(self, layer: Layer, prior: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Covariance and mean of what the compressed layer gives as it stands, without its bias,
        per group.
        """
        node = self.twins[layer.node.name]
        rank, held = attribute(self.small, layer.weight).dim(), []
        for chunk, values in zip(self.chunks, self.values, strict=True):
            y = self._call(node, values).movedim(channel_dim(layer.node, rank), -1)
            at = self.recording.sample(chunk, layer.node.name)[0]
            # Removed channels among the positions shorten them; which positions are looked at does
            # not matter here.
            held.append(y[tuple(torch.minimum(at, torch.tensor(y.shape[:-1])[:, None] - 1))])
        rows = _grouped(torch.cat(held).double(), len(prior)) - shift[:, None]
        mean = rows.mean(1)
        covariance = (rows - mean[:, None]).mT @ (rows - mean[:, None]) / rows.shape[1]
        isotropic = prior @ prior.mT
        scale = (
            SHRINKAGE
            * prior.shape[2]
            / rows.shape[1]
            * float(_trace(covariance).sum() / _trace(isotropic).sum().clamp(min=TINY))
        )
        return covariance + scale * isotropic, mean

    def _moments(self, layer: Layer, weight: Tensor) -> list[Moments] | None:
        """Sums over sampled rows of the compressed layer's input and the original layer's output:
        for fitting, and where a ridge is chosen for judging.
        """
        wanted = rows_per_example(weight[0].numel(), len(layer.calls), self.recording.examples)
        fixed = self._bias(layer) if layer.bias is None else None
        sums = [Sums() for _ in range(1 if self.ridge is not None else 2)]
        count = groups(self.twins[layer.node.name])
        for node in layer.calls:
            source = node.args[0]
            assert isinstance(source, Node)
            kept = self._kept(node)
            if kept is None:
                return None
            channel = channel_dim(node, weight.dim()) % node.meta["val"].dim()
            for chunk, values in zip(self.chunks, self.values, strict=True):
                x = self.store.get(values[source.name])
                at, target = self.recording.sample(chunk, node.name)
                at = at[:, : math.ceil(wanted * chunk.size)]
                example = at[0] * chunk.size // max(x.shape[0], 1) + chunk.first
                at, target, surviving = _surviving(at, target[: at.shape[1]], kept, channel)
                if fixed is not None:
                    target = target - fixed
                for which, mask in self._roles(chunk, example[surviving]):
                    if len(target[mask]):
                        sums[which].add(
                            _grouped(_features(node, x, weight, at[:, mask]), count),
                            _grouped(target[mask], count),
                        )
        found = [part.total() for part in sums]
        return None if None in found else found  # type: ignore[return-value]

    def _roles(self, chunk: Chunk, example: Tensor) -> list[tuple[int, Tensor | slice]]:
        """Which of a chunk's rows are for fitting (0) and which for judging (1)."""
        if self.ridge is not None or any(other.part == VALIDATION for other in self.chunks):
            return [(int(self.ridge is None and chunk.part == VALIDATION), slice(None))]
        judge = example % HELD_OUT == 0
        return [(0, ~judge), (1, judge)]

    def _bias(self, layer: Layer) -> Tensor | None:
        """The bias as it stands, shared with another call or not."""
        bias = bias_of(layer.node)
        held: Tensor | None = attribute(self.small, bias) if bias else None
        return held

    def _kept(self, node: Node) -> dict[int, Tensor] | None:
        """Indices of a tensor that survive, by dimension; None where they do not form a box."""
        value = self.analysis.values[node.name]
        if not isinstance(value, Value):
            return None
        result = {}
        for labels in value.axes:
            dims = varying(labels)
            if len(dims) != 1:
                return None
            (dim,) = dims
            ids = labels.movedim(dim, 0).reshape(labels.shape[dim], -1)[:, 0].numpy()
            if not self.keep_mask[ids].all():
                result[dim] = torch.from_numpy(np.flatnonzero(self.keep_mask[ids]))
        return result


def _weights(node: Node) -> list[str]:
    """Names of the parameters a constant node follows from."""
    if node.op == "get_attr":
        return [str(node.target)]
    return [name for source in node.all_input_nodes for name in _weights(source)]


def _grouped(x: Tensor, count: int) -> Tensor:
    """(rows, ..., columns) as (groups, rows, ... x columns / groups)."""
    return x.reshape(*x.shape[:-1], count, -1).movedim(-2, 0).flatten(2)


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def _surviving(
    at: Tensor, target: Tensor, kept: dict[int, Tensor], channel: int
) -> tuple[Tensor, Tensor, Tensor | slice]:
    """Positions and outputs of the original as the compressed model numbers them, and which
    positions it still has.

    Args:
        at: (dimensions, picks) coordinates without the channels.
        target: (picks, channels).
        kept: indices that survive, by dimension of the output.
        channel: the dimension of the channels.
    """
    if channel in kept:
        target = target.index_select(1, kept[channel].to(target.device))
    places = {dim - (dim > channel): index for dim, index in kept.items() if dim != channel}
    if not places:
        return at, target, slice(None)
    keep_mask = torch.ones(at.shape[1], dtype=torch.bool)
    at = at.clone()
    for row, index in places.items():
        place = torch.searchsorted(index, at[row]).clamp(max=len(index) - 1)
        keep_mask &= index[place] == at[row]
        at[row] = place
    return at[:, keep_mask], target[keep_mask.to(target.device)], keep_mask


def _features(node: Node, x: Tensor, weight: Tensor, at: Tensor) -> Tensor:
    """What the layer reads at some output positions, (rows, taps, channels): one tap for each
    place in a convolution's kernel.

    Args:
        at: (dimensions, rows) coordinates without the channels.
    """
    rows: Tensor
    if operator_name(node.target) == "aten.linear":
        rows = x[tuple(at)]
        return rows[:, None]
    rank = weight.dim() - 2
    stride, dilation = setting(node, 3, 1, rank), setting(node, 5, 1, rank)
    padding: Any = node.args[4] if len(node.args) > 4 else 0
    if padding == "same":
        before = [d * (k - 1) // 2 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    else:
        before = [0] * rank if padding == "valid" else setting(node, 4, 0, rank)
    if x.dim() == rank + 1:
        x, at = x[None], F.pad(at, (0, 0, 1, 0))
    places, outside = at[0][:, None], torch.zeros(at.shape[1], 1, dtype=torch.bool)
    for dim in range(rank):
        size = x.shape[2 + dim]
        # (rows, taps along this dimension): where they read.
        reads = (
            at[1 + dim][:, None] * stride[dim]
            - before[dim]
            + torch.arange(weight.shape[2 + dim]) * dilation[dim]
        )
        places = (places[:, :, None] * size + reads[:, None]).flatten(1)
        outside = (outside[:, :, None] | ((reads < 0) | (reads >= size))[:, None]).flatten(1)
    padded = outside.flatten().nonzero()[:, 0].to(x.device)
    # Images are laid out with their channels last: each read is one run of memory.
    last = x.movedim(1, -1).reshape(-1, x.shape[1])
    rows = last.index_select(
        0, places.flatten().to(x.device).index_fill_(0, padded, 0)
    ).index_fill_(0, padded, 0)
    return rows.view(*places.shape, -1)
