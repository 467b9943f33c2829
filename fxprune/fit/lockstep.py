"""Sequential fitting: the reduced graph runs in lockstep with what the original gave, layer after
layer over the calibration set.

Each layer of the reduced graph is fitted from what really reaches it to what the original layer
gave, so errors made upstream are repaired downstream instead of adding up (docs/decisions/0002).
Every layer's activations are computed once, and where what the reduced model returns is asked for,
it follows from them. Here is which layers are fitted and in which order;
`execution` runs what lies between two fits and `layer` makes one.
"""

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule, Node

from fxprune.calibrate.recording import VALIDATION, Chunk, Recording
from fxprune.fit.execution import Execution
from fxprune.fit.layer import FitOptions, FittedTensors, fit_layer
from fxprune.fit.reduction import Reduction
from fxprune.fit.schedule import gather_calls
from fxprune.graph.nodes import constants
from fxprune.label.layers import Layer, own_layers


@dataclass
class Fits:
    """What the sequential fit did, per weight: the ridge of its fit, or why it kept the one-shot
    one. Layers that were fitted before, in a run that goes on, are in neither.

    The fits themselves, in float64, would take twice the memory of the graph that they are for.
    """

    ridges: dict[str, float] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    def add(self, weight: str, outcome: float | str) -> None:
        """Note what became of a layer."""
        if isinstance(outcome, float):
            self.ridges[weight] = outcome
        else:
            self.kept[weight] = outcome


@torch.no_grad()
def fit_in_lockstep(
    reduction: Reduction,
    recording: Recording,
    parts: Container[str] | None = None,
    options: FitOptions | None = None,
    advance: Callable[[int], object] = lambda nodes: None,
    returned: Callable[[Chunk, Any], object] | None = None,
) -> Fits:
    """Fit every layer of the reduced graph whose input or output differs from the original's, in
    order and in place.

    Args:
        reduction: the two graphs.
        recording: of the original's outputs.
        parts: of the recorded examples, those to fit on; all by default.
        options: how layers are fitted.
        advance: told of every layer, in the order of `order_layers`.
        returned: told what the reduced graph returns, flat, on every chunk of which the original's
            outputs are recorded, once all is fitted.
    """
    options = options or FitOptions()
    order, layers = order_layers(reduction.original)
    chunks, everywhere = (
        [chunk for chunk in known if parts is None or chunk.part in parts]
        for known in (recording.chunks, recording.everywhere)
    )
    more = returned is not None, _unread(everywhere, options.judged)
    execution, fits = Execution(reduction, order, recording, chunks, everywhere, *more), Fits()
    unchanged = {node.name for node in order if node.op == "placeholder"}
    reached, waiting = set[str](), list[Node]()
    for node in order:
        if (
            node.op != "call_function"
            or node.name in reduction.constant
            or node.name in reached  # with another call of its weight
        ):
            continue
        layer = layers.get(node.name)
        calls = layer.calls if layer else (node,)
        changed = not all(reduction.is_unchanged(call, unchanged) for call in calls)
        if layer and (changed or layer.weight in options.ranks):
            changed = True

            def fit(layer: Layer = layer) -> FittedTensors:
                execution.run(waiting)
                waiting.clear()
                fits.add(layer.weight, fit_layer(layer, execution, options))
                return FittedTensors.of(layer, reduction)

            options.step(layer.weight, fit).place(reduction)
        if layer:
            advance(1)
        waiting.extend(call for call in calls if call.name not in reduction.constant)
        reached.update(call.name for call in calls)
        if not changed:
            unchanged.update(call.name for call in calls)
    # What follows the last fit runs only where it is asked for.
    if returned is not None:
        for chunk, outputs in execution.outputs(waiting):
            returned(chunk, outputs)
    execution.clear()
    return fits


def _unread(everywhere: Iterable[Chunk], judged: int) -> set[int]:
    """First examples of the validation split's chunks that fits do not look at."""
    validating = sorted(chunk.first for chunk in everywhere if chunk.part == VALIDATION)
    return set(validating).difference(validating[::judged])


def order_layers(graph: GraphModule) -> tuple[list[Node], dict[str, Layer]]:
    """An order of execution in which the calls that share a weight follow each other.

    Returns:
        the order, and by their first calls that depend on an input the layers that one closed-form
        fit can change: those of one call, or of calls that stand together.
    """
    constant = constants(graph)
    layers = own_layers(graph)
    shared = [layer.calls for layer in layers.values() if len(layer.calls) > 1]
    order, together = gather_calls(list(graph.graph.nodes), shared)
    return order, {
        next((call.name for call in layer.calls if call not in constant), name): layer
        for name, layer in layers.items()
        if len(layer.calls) == 1 or layer.calls in together
    }
