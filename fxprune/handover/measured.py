"""How far every layer's own output is from the original's, on a few held-out examples."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.observe import Observer, arguments
from fxprune.capture.batch import Batch
from fxprune.fit.reduction import Reduction
from fxprune.graph.convolution import channel_dim
from fxprune.graph.nodes import attribute
from fxprune.label.analysis import activations, examples_within
from fxprune.label.layers import Layer, own_layers
from fxprune.plans.factoring import names
from fxprune.rules.labels import Value
from fxprune.session import Session

EXAMPLES = 32
"""Held-out examples that are enough for two digits of an error."""
HELD = 1 << 27
"""Bytes of activations, all layers together, that a batch may take."""


@torch.no_grad()
def measure_layers(session: Session, small: GraphModule, keep_mask: np.ndarray) -> dict[str, float]:
    """Relative squared error of the outputs of every layer, on the channels that it kept, by the
    name of its weight; relative to their variance over examples and positions.

    Args:
        session: it was made in.
        small: the fitted graph of ATen calls.
        keep_mask: (channels + 1,) bool, what it kept.
    """
    reduction = Reduction(session.graph, small, session.analysis, keep_mask)
    own = own_layers(session.graph)
    layers = {call.name: layer for layer in own.values() for call in layer.calls}
    layers = {
        name: layer
        for name, layer in layers.items()
        if isinstance(session.analysis.values.get(name), Value)
    }
    stands_for = _calls(small, layers)
    sums = {layer.weight: _Sums() for layer in layers.values()}
    for batch in _few(session):
        outputs = dict[str, Tensor]()
        watch = {name: partial(outputs.__setitem__, name) for name in layers}
        _run(session.graph, watch, batch)
        compare = {
            call: partial(_add, sums[layers[name].weight], outputs, name, layers[name], reduction)
            for call, name in stands_for.items()
        }
        _run(small, compare, batch)
    return {weight: error for weight, s in sums.items() if (error := s.error()) is not None}


def _calls(small: GraphModule, layers: Mapping[str, Layer]) -> dict[str, str]:
    """Calls of a fitted graph, and what they were in the original: they have its name, or are the
    second of two layers.
    """
    present = {node.name for node in small.graph.nodes}
    readers = {
        str(source.target): node.name
        for node in small.graph.nodes
        for source in node.all_input_nodes
        if source.op == "get_attr"
    }
    found = {name: name for name in layers if name in present}
    for name, layer in layers.items():
        second = readers.get(names(layer.weight)[1]) if name not in present else None
        if second is not None:
            found[second] = name
    return found


class _Sums:
    """Of one layer: squared error, and the original's variance by channel."""

    def __init__(self) -> None:
        self.squared, self.rows = 0.0, 0
        self.first: Tensor | None = None
        self.second: Tensor | None = None

    def add(self, wanted: Tensor, found: Tensor) -> None:
        """Take rows (n, channels) float64 of both."""
        self.squared += float((found - wanted).square().sum())
        self.rows += len(wanted)
        first, second = wanted.sum(0), wanted.square().sum(0)
        self.first = first if self.first is None else self.first + first
        self.second = second if self.second is None else self.second + second

    def error(self) -> float | None:
        """None where nothing varies."""
        if self.first is None or self.second is None:
            return None
        spread = float((self.second - self.first.square() / self.rows).sum())
        return self.squared / spread if spread > 0 else None


def _add(
    sums: _Sums,
    outputs: dict[str, Tensor],
    name: str,
    layer: Layer,
    reduction: Reduction,
    found: Tensor,
) -> None:
    """Compare one call's outputs; the original's is let go."""
    call = next(call for call in layer.calls if call.name == name)
    wanted, kept = outputs.pop(name), reduction.kept(call)
    for dim, index in (kept or {}).items():
        wanted = wanted.index_select(dim, index.to(wanted.device))
    if kept is None or wanted.shape != found.shape:
        return
    channel = channel_dim(call, attribute(reduction.original, layer.weight).dim())
    rows = [t.movedim(channel, -1).flatten(0, -2).double() for t in (wanted, found)]
    if layer.mean is not None:
        # What a fit adds to the outputs lies in the mean of the BatchNorm behind.
        before, after = (attribute(g, layer.mean) for g in (reduction.original, reduction.reduced))
        if channel % found.dim() in kept:
            before = before[kept[channel % found.dim()].to(before.device)]
        rows[1] = rows[1] - (after - before).double().to(rows[1].device)
    sums.add(rows[0], rows[1])


def _run(graph: GraphModule, watch: dict[str, partial[None]], batch: Batch) -> None:
    Observer(graph, watch).run(*arguments(graph, batch), enable_io_processing=False)


def _few(session: Session) -> Iterator[Batch]:
    """The first held-out examples, in batches whose activations do not take much room."""
    chosen = np.flatnonzero(session.split.held_out)[:EXAMPLES]
    mask = np.zeros(len(session.split.held_out), dtype=bool)
    mask[chosen] = True
    each = sum(activations(session.graph, session.analysis))
    step = examples_within(HELD, each, EXAMPLES)
    for batch in session.statistics.batches(mask):
        if session.statistics.calibration.exact:  # the graph takes no other number of examples
            yield batch
            continue
        borders = [*range(0, batch.size, step), batch.size]
        for start, stop in pairwise(borders):
            yield batch.part(start, stop)
