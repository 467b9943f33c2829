"""Sequential fitting: the original and the compressed model run in lockstep, layer after layer over the calibration set.

Each layer of the compressed model is fitted from what really reaches it (compressed activations) to what the original layer
gives, so errors made upstream are repaired downstream instead of adding up. Every layer's activations are computed once per model.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from fxprune.analysis import Analysis, attribute
from fxprune.calibrate import arguments
from fxprune.inputs import Batch
from fxprune.layers import Layer, bias_of, channel_dim, groups, own_layers, setting
from fxprune.linalg.pca import truncate
from fxprune.linalg.refit import SHRINKAGE, TINY, Moments, Refit, refit
from fxprune.rules.labels import Value, varying
from fxprune.rules.registry import operator_name
from fxprune.schedule import gathered
from fxprune.spill import Spill

HELD_OUT = 5
"""Every fifth example judges the ridge."""


@dataclass(frozen=True)
class LockstepOptions:
    """How the sequential fit works.

    Attributes:
        rows: most observations per feature that enter a fit (the solution's error falls with their square root).
        memory: bytes of activations held before they spill to disk.
        max_features: layers with more unknowns per output keep their one-shot fit.
        seed: of the choice of observations.
    """

    rows: int = 24
    memory: float = 2e9
    max_features: int = 6144
    seed: int = 0


@dataclass
class Fits:
    """What the sequential fit did: per weight name, the held-out relative error before and after."""

    layers: dict[str, Refit] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    spilled: int = 0


class Lockstep:
    """Fits `small` in place.

    Args:
        dense: the captured graph.
        small: the same graph with channels removed; node names equal.
        analysis: of the dense graph.
        alive: (channels + 1,) bool.
        options: see `LockstepOptions`.
        ranks: of weights that are to become products of two; each of a convolution's groups has this rank.
    """

    def __init__(
        self, dense: GraphModule, small: GraphModule, analysis: Analysis, alive: np.ndarray, options: LockstepOptions,
        ranks: Mapping[str, int] = MappingProxyType({}),
    ):  # fmt: skip
        self.ranks = ranks
        self.dense, self.small, self.analysis, self.alive, self.options = dense, small, analysis, alive, options
        self.nodes = list(dense.graph.nodes)
        self.twins = {node.name: node for node in small.graph.nodes}
        self.constant = self._constants()
        self.fits = Fits()
        self.generator = torch.Generator().manual_seed(options.seed)

    def _constants(self) -> set[str]:
        found = set()
        for node in self.nodes:
            inputs = node.all_input_nodes
            if node.op == "get_attr" or (node.op == "call_function" and all(i.name in found for i in inputs)):
                found.add(node.name)
        return found

    @torch.no_grad()
    def run(self, batches: Iterable[Batch], advance: Callable[[int], object] = lambda nodes: None) -> Fits:
        """Fit every layer whose input or output differs from the original's, in order; `advance` is told of every node."""
        layers = self._layers()
        last = self._last_uses()
        with Spill(self.options.memory) as store:
            dense: dict[str, list[Any]] = {}
            small: dict[str, list[Any]] = {}
            feeds = [[store.put(x) for x in arguments(self.dense, batch)] for batch in batches]
            placeholders = [n for n in self.nodes if n.op == "placeholder"]
            for i, node in enumerate(placeholders):
                dense[node.name] = small[node.name] = [feed[i] for feed in feeds]
            self.chunks = len(feeds)
            del feeds
            same = {n.name for n in placeholders}
            ran: set[str] = set()
            for node in self.nodes:
                advance(1)
                if node.op != "call_function" or node.name in self.constant or node.name in ran:
                    continue
                layer = layers.get(node.name)
                calls = layer.calls if layer else (node,)
                for call in calls:
                    dense[call.name] = [store.put(self._execute(call, dense, i, self.dense, store)) for i in range(self.chunks)]
                ranked = layer is not None and layer.weight in self.ranks
                changed = ranked or not all(self._unchanged(call, same) for call in calls)
                if changed and layer:
                    self._fit(layer, dense, small, store)
                for call in calls:
                    if changed:
                        twin = self.twins[call.name]
                        small[call.name] = [store.put(self._execute(twin, small, i, self.small, store)) for i in range(self.chunks)]
                    else:
                        small[call.name] = dense[call.name]
                        same.add(call.name)
                    ran.add(call.name)
                    self._forget(last.get(call.name, ()), dense, small, same, store)
            self.fits.spilled = store.spilled
        return self.fits

    def _forget(
        self, names: Iterable[str], dense: dict[str, list[Any]], small: dict[str, list[Any]], same: set[str], store: Spill
    ) -> None:
        """Drop values after their last use."""
        for done in names:
            for item in dense.pop(done, ()):
                store.drop(item)
            held = small.pop(done, ())
            if done not in same:
                for item in held:
                    store.drop(item)

    def _execute(self, node: Node, env: dict[str, list[Any]], chunk: int, module: GraphModule, store: Spill) -> Any:
        """One call on one chunk; weights and what follows from them alone are read afresh, since fitting changes them."""

        def value(source: Node) -> Any:
            if source.op == "get_attr":
                return attribute(module, str(source.target))
            if source.name in self.constant:
                return source.target(*map_arg(source.args, value), **map_arg(source.kwargs, value))  # type: ignore[operator]
            return store.get(env[source.name][chunk])

        return node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))  # type: ignore[operator]

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
        return str(twin.args) == str(node.args) and str(twin.kwargs) == str(node.kwargs) and twin.target == node.target

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
            if name not in self.constant:
                result[user].append(name)
        return result

    def _layers(self) -> dict[str, Layer]:
        """Weights that one closed-form fit can change, by their first calls; puts calls that share a weight together."""
        layers = own_layers(self.dense)
        self.nodes, together = gathered(self.nodes, [layer.calls for layer in layers.values() if len(layer.calls) > 1])
        return {name: layer for name, layer in layers.items() if len(layer.calls) == 1 or layer.calls in together}

    def _fit(self, layer: Layer, dense: dict[str, list[Any]], small: dict[str, list[Any]], store: Spill) -> None:
        """Refit a layer, and lower its rank where that is asked."""
        weight, rank = attribute(self.small, layer.weight), self.ranks.get(layer.weight)
        parts = groups(self.twins[layer.node.name])
        prior = weight.detach().double().reshape(parts, len(weight) // parts, -1)
        features = prior.shape[2]
        moments = self._moments(layer, weight, dense, small, store) if features <= self.options.max_features else None
        fitted = None if moments is None else refit(*moments, prior, layer.intercept)
        if fitted is not None and bool(torch.isfinite(fitted.weight).all()):
            assert moments is not None
            self.fits.layers[layer.weight] = fitted
            new, shift = fitted.weight, fitted.bias
            if rank is not None:
                new, shift = truncate(new, shift, *(moments[0] + moments[1]).outputs(new), rank, layer.intercept)
        else:
            too_many = f"{features} unknowns per output" if features > self.options.max_features else ""
            self.fits.kept[layer.weight] = too_many or (
                "the fit is not finite" if fitted else "its outputs cannot be matched to the original's"
            )
            if rank is None:
                return
            bias = self._bias(layer)
            shift = (prior.new_zeros(len(weight)) if bias is None else bias.detach().double()).view(parts, -1)
            new, shift = truncate(prior, shift, *self._outputs(layer, prior, shift, small, store), rank, layer.intercept)
        weight.data.copy_(new.view(weight.shape))
        if layer.bias is not None:
            attribute(self.small, layer.bias).data.copy_(shift.reshape(-1))
        elif layer.mean is not None:
            mean = attribute(self.small, layer.mean)
            mean.data.copy_(mean.double() - shift.reshape(-1).to(mean.device))

    def _outputs(self, layer: Layer, prior: Tensor, shift: Tensor, small: dict[str, list[Any]], store: Spill) -> tuple[Tensor, Tensor]:
        """Covariance and mean of what the compressed layer gives as it stands, without its bias, per group."""
        node = self.twins[layer.node.name]
        parts, rank, held = len(prior), attribute(self.small, layer.weight).dim(), []
        for chunk in range(self.chunks):
            y = self._execute(node, small, chunk, self.small, store).movedim(channel_dim(layer.node, rank), -1)
            flat = y.reshape(-1, y.shape[-1])
            wanted = max(1, self.options.rows * parts * prior.shape[1] // self.chunks)
            held.append(flat[torch.randperm(len(flat), generator=self.generator)[:wanted].to(flat.device)])
        rows = _grouped(torch.cat(held).double(), parts) - shift[:, None]
        mean = rows.mean(1)
        covariance = (rows - mean[:, None]).mT @ (rows - mean[:, None]) / rows.shape[1]
        isotropic = prior @ prior.mT
        scale = SHRINKAGE * prior.shape[2] / rows.shape[1] * float(_trace(covariance).sum() / _trace(isotropic).sum().clamp(min=TINY))
        return covariance + scale * isotropic, mean

    def _moments(
        self, layer: Layer, weight: Tensor, dense: dict[str, list[Any]], small: dict[str, list[Any]], store: Spill
    ) -> tuple[Moments, Moments] | None:
        """Sums over sampled rows of the compressed layer's input and the original layer's output, for fitting and for judging."""
        wanted = max(self.options.rows * weight[0].numel(), 8192)
        per_chunk = max(1, wanted // (self.chunks * len(layer.calls)))
        fixed = self._bias(layer)
        parts: list[Moments | None] = [None, None]
        count = groups(self.twins[layer.node.name])
        for node in layer.calls:
            source = node.args[0]
            assert isinstance(source, Node)
            channel = channel_dim(node, weight.dim())
            outputs = self._kept(node)
            if outputs is None:
                return None
            seen = 0
            for chunk in range(self.chunks):
                x = store.get(small[source.name][chunk])
                y = _restrict(store.get(dense[node.name][chunk]), outputs)
                positions = y.movedim(channel, -1)
                batch = x.shape[0]
                total = positions[..., 0].numel()
                pick = torch.randint(total, (per_chunk,), generator=self.generator) if total > per_chunk else torch.arange(total)
                target = positions.reshape(total, -1)[pick]
                rows = _features(node, x, weight, pick, tuple(positions.shape[:-1]))
                example = pick // max(total // batch, 1) + seen
                seen += batch
                if fixed is not None and layer.bias is None:
                    target = target - fixed
                judge = example % HELD_OUT == 0
                for which, mask in enumerate((~judge, judge)):
                    part = Moments.of(_grouped(rows[mask], count), _grouped(target[mask], count))
                    held = parts[which]
                    parts[which] = part if held is None else held + part
        if parts[0] is None or parts[1] is None:
            return None
        return parts[0], parts[1]

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
            if not self.alive[ids].all():
                result[dim] = torch.from_numpy(np.flatnonzero(self.alive[ids]))
        return result


def _weights(node: Node) -> list[str]:
    """Names of the parameters a constant node follows from."""
    if node.op == "get_attr":
        return [str(node.target)]
    return [name for source in node.all_input_nodes for name in _weights(source)]


def _grouped(x: Tensor, count: int) -> Tensor:
    """(rows, columns) as (groups, rows, columns / groups)."""
    return x.reshape(len(x), count, -1).transpose(0, 1)


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def _restrict(x: Tensor, kept: dict[int, Tensor]) -> Tensor:
    for dim, index in kept.items():
        x = x.index_select(dim, index.to(x.device))
    return x


def _features(node: Node, x: Tensor, weight: Tensor, pick: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What the layer reads at the picked output positions, (rows, features) in the weight's order."""
    if operator_name(node.target) == "aten.linear":
        return x.reshape(-1, x.shape[-1])[pick]
    rank = weight.dim() - 2

    stride, dilation = setting(node, 3, 1, rank), setting(node, 5, 1, rank)
    kernel = list(weight.shape[2:])
    padding: Any = node.args[4] if len(node.args) > 4 else 0
    if isinstance(padding, str):
        spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [(s // 2, s - s // 2) if padding == "same" else (0, 0) for s in spans]
    else:
        sides = [(p, p) for p in setting(node, 4, 0, rank)]
    if x.dim() == rank + 1:
        x = x.unsqueeze(0)
        shape = (1, *shape)
    x = F.pad(x, [p for side in reversed(sides) for p in side])
    for i in range(rank):
        x = x.unfold(2 + i, dilation[i] * (kernel[i] - 1) + 1, stride[i])
    for i in range(rank):
        index: Any = (..., slice(None, None, dilation[i]), *[slice(None)] * (rank - 1 - i))
        x = x[index]
    at = np.unravel_index(pick.numpy(), shape)
    first, *rest = (torch.from_numpy(np.ascontiguousarray(a)) for a in at)
    place: Any = (first, slice(None), *rest)
    return x[place].reshape(len(pick), -1)
