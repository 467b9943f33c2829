"""What the labels claim of a captured graph, checked by perturbation.

Labels say of every element of every tensor which channel it belongs to. When channels go,

- nothing that is kept may depend on what made them: their producers' rows are given other values,
  and no element with a kept label may change, up to the outputs;
- the reduced graph must give what the original gives where the weights that read them are zero.

Neither asks `fxprune.label.trial` or `fxprune.masked`: the weights are changed here.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from benchmarks.opinfo.comparing import (
    Running,
    Weights,
    items,
    jumps,
    layers_of,
    removed,
    stays_finite,
    tensors,
    worst,
)
from benchmarks.opinfo.nets import MADE
from fxprune.errors import FxpruneError
from fxprune.graph.nodes import attribute
from fxprune.graph.operators import operator_name
from fxprune.label.groups import Analysis
from fxprune.label.keep import keep_random
from fxprune.passes import ReduceChannels
from fxprune.rules.labels import Value

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Of the largest value, by the dtype of the weights."""
PRODUCTS = frozenset(
    f"aten.{name}"
    for name in "matmul mm bmm mv dot einsum addmm baddbmm scaled_dot_product_attention".split()
)
"""What sums over channels of two tensors that a net made: what goes there goes as zeros."""
UNWRITTEN = frozenset(
    f"aten.{name}"
    for name in "empty empty_like empty_permuted empty_strided new_empty new_empty_strided".split()
)
"""What holds any numbers."""
NOISE = 1e-7
"""Of the largest output, when inputs change by 1e-12."""
MASKS = 2
"""Choices of what stays, per analysis."""


class Violation(Exception):
    """A claim of the labels does not hold."""


class Unstable(Exception):
    """Why the net's own outputs are none to compare with."""


@dataclass(frozen=True)
class Claims:
    """The labels of one captured graph, to be held against it.

    Attributes:
        graph: as captured.
        analysis: of it.
        inputs: of the net.
    """

    graph: GraphModule
    analysis: Analysis
    inputs: tuple[Tensor, ...]

    def check(self, seed: int) -> None:
        """Hold the claims against several choices of what stays.

        Raises:
            Violation: one does not hold.
            Unstable: the net rounds or compares, and values stand at its jumps.
        """
        weights = self._weights()
        self._require_stable(weights)
        for number in range(MASKS):
            draw = np.random.default_rng((seed, number))
            keep_mask = keep_random(self.analysis, draw)
            self._check_mask(weights, keep_mask, draw)

    def _weights(self) -> Weights:
        names = [str(n.target) for n in self.graph.graph.nodes if n.op == "get_attr"]
        found = {name: attribute(self.graph, name) for name in dict.fromkeys(names)}
        return {n: t.detach() for n, t in found.items() if isinstance(t, Tensor)}

    def _require_stable(self, weights: Weights) -> None:
        if any(operator_name(node.target) in UNWRITTEN for node in self.graph.graph.nodes):
            raise Unstable("memory that nothing was written to")
        base = self._values(weights, self.inputs)["output"]
        if worst(base, self._values(weights, self.inputs)["output"]) > 0:
            raise Unstable("random: no two runs agree")
        near = tuple(t + 1e-12 * _wave(t) * t.abs().max() for t in self.inputs)
        if worst(base, self._values(weights, near)["output"]) > NOISE:
            raise Unstable("its values jump with rounding")

    def _check_mask(
        self, weights: Weights, keep_mask: np.ndarray, draw: np.random.Generator
    ) -> None:
        try:
            small = ReduceChannels(self.analysis, keep_mask)(self.graph).graph_module
        except FxpruneError as error:
            raise Violation(f"cannot be reduced as the groups say: {error}") from error
        with torch.no_grad():
            reduced = tensors(small(*self.inputs))
        failures = []
        for masking in self._maskings(weights, keep_mask):
            failure = self._failure(masking, keep_mask, draw, reduced)
            if not failure:
                return
            failures.append(failure)
        raise Violation(failures[0])

    def _maskings(self, weights: Weights, keep_mask: np.ndarray) -> Iterator["Masking"]:
        """Ways to take the channels out of the original: where they are read; there and in the
        operator's own tensors; and in products and norms, which sum over them, everywhere.
        """
        read = {(c.parameter, c.axis) for c in self.analysis.consumers}
        made = {
            key for key in self.analysis.axes if key[0].startswith(f"{MADE}.") and key not in read
        }
        every = set(self.analysis.axes)
        rows = {key for key in made if not keep_mask[self.analysis.axes[key]].all()}
        layers = sorted({name.rpartition(".")[0] for name, _ in rows})
        zeroed = [self._zeroed(weights, keys, keep_mask) for keys in (read, every - made, every)]
        for at in (0, 1):
            yield Masking(zeroed[at], rows, [set(layers)])
        factors, summed = self._factors(), self._summed()
        if factors or summed:
            both = summed.union(*(left & right for left, right in factors))
            alone = [{layer} for layer in layers if layer not in both]
            yield Masking(zeroed[2], rows, alone)

    def _summed(self) -> set[str]:
        """The layers that make channels over which a norm, a sum or a mean is taken."""
        groups = [g for g in self.analysis.groups if g.name in self.analysis.normalized]
        return {name.rpartition(".")[0] for group in groups for name, _ in group.members}

    def _factors(self) -> list[tuple[set[str], set[str]]]:
        """The layers on which each factor depends, of every product of two tensors that are no
        weights.
        """
        found = []
        for node in self.graph.graph.nodes:
            made = [n for n in node.all_input_nodes if n.op == "call_function"]
            if operator_name(node.target) in PRODUCTS and len(made) > 1:
                found += [(layers_of(a), layers_of(b)) for a, b in itertools.combinations(made, 2)]
        return found

    def _zeroed(
        self, weights: Weights, keys: set[tuple[str, int]], keep_mask: np.ndarray
    ) -> Weights:
        """The weights with zeros where these axes lose channels."""
        result = dict(weights)
        for name, axis in keys:
            lost = self._lost(weights[name], (name, axis), keep_mask)
            result[name] = torch.where(lost, 0, result[name])
        return result

    def _lost(self, tensor: Tensor, key: tuple[str, int], keep_mask: np.ndarray) -> Tensor:
        """Which elements of a weight lie at removed channels of one of its axes."""
        ids, axis = self.analysis.axes[key], key[1]
        lost = torch.from_numpy(~keep_mask[ids])
        view = [1] * tensor.dim()
        view[axis] = tensor.shape[axis]
        if ids.ndim == 1:
            return lost.view(view).expand(tensor.shape)
        view[0] = tensor.shape[0]
        return (
            lost.repeat_interleave(tensor.shape[0] // len(ids), 0).view(view).expand(tensor.shape)
        )

    def _failure(
        self,
        masking: "Masking",
        keep_mask: np.ndarray,
        draw: np.random.Generator,
        reduced: list[Tensor],
    ) -> str:
        """What does not hold of the original masked in this way; empty where all does."""
        base = self._values(masking.weights, self.inputs)
        tolerance = TOLERANCE[self.inputs[0].dtype]
        off = worst(base["output"], reduced)
        if off > tolerance:
            return f"the reduced net differs from the masked one by {off:.1e} of its outputs"
        for layers in masking.apart:
            for change in (_borrowed, _noise):
                rows = {key for key in masking.rows if key[0].rpartition(".")[0] in layers}
                changed = self._changed(masking.weights, rows, keep_mask, draw, change)
                values = self._values(changed, self.inputs)
                if change is _noise and not stays_finite(base, values):
                    continue  # outside of what the operator takes
                found = self._dependence(base, values, keep_mask, tolerance)
                if found:
                    return found
        return ""

    def _changed(
        self,
        weights: Weights,
        rows: set[tuple[str, int]],
        keep_mask: np.ndarray,
        draw: np.random.Generator,
        change: Callable[[Tensor, int, np.random.Generator], Tensor],
    ) -> Weights:
        """The weights with other values in the rows that make removed channels."""
        result = dict(weights)
        order: dict[str, int] = {}
        for key in sorted(rows):
            name, axis = key
            # Weight and bias of a layer borrow from the same channels.
            seed = order.setdefault(name.rpartition(".")[0], int(draw.integers(1 << 30)))
            other = change(self._original(name), axis, np.random.default_rng(seed))
            result[name] = torch.where(self._lost(other, key, keep_mask), other, result[name])
        return result

    def _original(self, name: str) -> Tensor:
        tensor: Tensor = attribute(self.graph, name).detach()
        return tensor

    def _dependence(
        self,
        base: dict[str, Any],
        values: dict[str, Any],
        keep_mask: np.ndarray,
        tolerance: float,
    ) -> str:
        """The first element with a kept label that changed; empty where none did."""
        for node in self.graph.graph.nodes:
            if node.op != "call_function" or _draws(node):
                continue
            labels = self.analysis.values.get(node.name)
            named = labels if isinstance(labels, tuple) else (labels,)
            pairs = zip(items(base[node.name]), items(values[node.name]), named, strict=True)
            for old, new, value in pairs:
                if isinstance(old, Tensor) and isinstance(value, Value):
                    wrong = jumps(old, new, tolerance) & ~removed(value, old, keep_mask)
                    if wrong.any():
                        count = f"{int(wrong.sum())} kept elements of {node.target}"
                        return f"{count} change with removed channels"
        off = worst(base["output"], values["output"])
        return "" if off <= tolerance else f"outputs change with removed channels by {off:.1e}"

    def _values(self, weights: Weights, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        """Every node's result under these weights; the outputs as `output`."""
        return Running(self.graph, weights).values(inputs)


@dataclass(frozen=True)
class Masking:
    """The original without channels.

    Attributes:
        weights: with zeros.
        rows: weight axes that make removed channels and may hold anything there.
        apart: sets of layers that are changed together.
    """

    weights: Weights
    rows: set[tuple[str, int]]
    apart: list[set[str]]


def _draws(node: Node) -> bool:
    """Whether a call makes random numbers, of which no two runs give the same."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _wave(tensor: Tensor) -> Tensor:
    """Numbers between -1 and 1 for every element."""
    return torch.sin(torch.arange(tensor.numel(), dtype=tensor.dtype)).view(tensor.shape)


def _borrowed(tensor: Tensor, axis: int, draw: np.random.Generator) -> Tensor:
    """Every channel holds what another one holds: values that the operator takes."""
    size = tensor.shape[axis]
    order = (np.arange(size) + draw.integers(1, size)) % size
    return tensor.index_select(axis, torch.from_numpy(order))


def _noise(tensor: Tensor, axis: int, draw: np.random.Generator) -> Tensor:
    """Other values of the same size."""
    scale = float(tensor.abs().mean()) * 2
    return torch.from_numpy(draw.standard_normal(tensor.shape)).to(tensor.dtype) * scale
