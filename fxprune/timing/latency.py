"""Latency as a budget: measured layer times as functions of the widths, and whole graphs measured
against the original.

Every call's time is written as c0 + c1 * (its FLOPs) + c2 * (elements that it reads and writes)
with non-negative coefficients, fitted to times measured at a few widths. Like FLOPs, it is then a
sum of products of kept shares, and widths are allocated under it in the same way. What the table
cannot know (fusion, caches, overhead of Python) is closed by measuring whole rewritten graphs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn
from torch.fx import GraphModule, Node

from fxprune.capture.batch import Batch
from fxprune.errors import BudgetError
from fxprune.label.analysis import Analysis
from fxprune.label.groups import Cost
from fxprune.passes import LiftModules, ReduceChannels
from fxprune.rules.labels import Value, narrow_constant
from fxprune.timing.layer_times import LayerTimes, layer_times
from fxprune.timing.measure import Call, Workload, interleaved, moved, placed, prepared, running

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Fractions of every group's width that layers are timed at."""
ROUNDS, TURN = 11, 0.1
"""Interleaved rounds of a whole graph and the original, and seconds of a turn."""
RANGE = (0.94, 1.02)
"""Measured latency over the budget that needs no correction."""
CORRECTIONS = 4
CLOSE = 1.1
"""Where widths in multiples leave nothing in the range, the nearest below this times the budget is
taken.
"""


class LatencyProbe:
    """Measures models against one original on one workload.

    Args:
        model: the original; a copy is kept, compiled where the workload is.
        example: a batch of its inputs.
        workload: what both run on.
    """

    def __init__(self, model: nn.Module, example: Batch, workload: Workload):
        self.example, self.workload = example, workload
        with running(workload):
            self.device = torch.device(workload.device or next(model.parameters()).device)
            self._original: Call = prepared(model, example, workload)
            self.seconds = float(np.median(interleaved([self._original], ROUNDS, TURN)))

        self._known: dict[tuple[int, ...], float] = {}

    def ratio(self, small: nn.Module) -> float:
        """Time of a model over the original's: the median over interleaved rounds."""
        with running(self.workload):
            times = interleaved(
                [prepared(small, self.example, self.workload), self._original], ROUNDS, TURN
            )
        return float(np.median(times[:, 0] / times[:, 1]))

    def ratio_at(self, graph: GraphModule, analysis: Analysis, widths: np.ndarray) -> float:
        """`ratio` of the rewritten graph, measured once for the same widths."""
        key = tuple(int(w) for w in widths)
        if key not in self._known:
            small = ReduceChannels(analysis, narrowed(analysis, widths))(graph).graph_module
            self._known[key] = self.ratio(LiftModules()(small).graph_module)
        return self._known[key]


def narrowed(analysis: Analysis, widths: np.ndarray) -> np.ndarray:
    """(channels + 1,) bool: the first channels of every block, which is as good as any for time."""
    keep_mask = np.ones(len(analysis.group_of()), dtype=bool)
    for group, width in zip(analysis.groups, widths, strict=True):
        keep_mask[group.blocks[:, int(width) :].reshape(-1)] = False
    return keep_mask


def seconds_of_calls(
    graph: GraphModule,
    analysis: Analysis,
    example: Batch,
    gauge: LatencyProbe,
    multiple: np.ndarray,
    table: LayerTimes,
) -> tuple[Cost, ...]:
    """The time of every call as a function of the widths.

    Args:
        graph: the captured graph.
        analysis: of it.
        example: a batch of inputs.
        gauge: of the original.
        multiple: of which widths are, one or per group: layers are timed at widths that may be
            chosen.
        table: of measured times; filled and saved.

    Returns:
        terms as of FLOPs, in seconds. Calls that are no contraction are scaled so that all add up
        to the original's measured time: that is where fusion, and the overhead between calls, act.
    """
    full = np.array([g.width for g in analysis.groups], dtype=float)
    step = np.maximum(
        np.broadcast_to(multiple, full.shape) // [len(g.blocks) for g in analysis.groups], 1
    )
    observed: list[dict[str, float]] = []
    kept: list[np.ndarray] = []
    with running(gauge.workload):
        for share in SHARES:
            widths = np.minimum(np.maximum(np.round(share * full / step), 1) * step, full)
            # Widths of an earlier share come again where groups are too narrow.
            if any(np.array_equal(widths / full, k) for k in kept):
                continue
            small = ReduceChannels(analysis, narrowed(analysis, widths))(graph).graph_module
            held, device = moved(small, gauge.workload)
            assert isinstance(held, GraphModule)
            observed.append(layer_times(held, placed(example, gauge.workload, device), table))
            kept.append(widths / full)
    table.save()
    owner = analysis.group_of()
    fitted = {
        node.name: _fitted(
            _features(node, analysis), [o[node.name] for o in observed], owner, np.array(kept)
        )
        for node in graph.graph.nodes
        if node.name in observed[0]
    }
    contractions = {cost.node for cost in analysis.costs}
    heavy = sum(observed[0][name] for name in contractions & set(fitted))
    light = sum(observed[0][name] for name in set(fitted) - contractions)
    scale = max(gauge.seconds - heavy, 0.0) / max(light, 1e-12)
    return tuple(
        Cost(name, cost.flops * (1.0 if name in contractions else scale), cost.factors)
        for name, costs in fitted.items()
        for cost in costs
    )


def _features(node: Node, analysis: Analysis) -> list[list[Cost]]:
    """What a call's time may grow with, each a sum of terms that is 1 at full width: nothing, its
    FLOPs, the elements it moves.
    """
    values = [analysis.values[n.name] for n in (*node.all_input_nodes, node)]
    tensors = [
        v
        for value in values
        for v in (value if isinstance(value, tuple) else (value,))
        if isinstance(v, Value)
    ]
    sizes = [float(np.prod(v.shape)) for v in tensors]
    moves = [
        Cost(
            node.name,
            size / max(sum(sizes), 1.0),
            tuple(narrow_constant(labels).reshape(-1).numpy() for labels in tensor.axes),
        )
        for size, tensor in zip(sizes, tensors, strict=True)
    ]
    contracted = [
        [Cost(node.name, 1.0, cost.factors)] for cost in analysis.costs if cost.node == node.name
    ]
    return [[Cost(node.name, 1.0, ())], *contracted, moves]


def _fitted(
    features: list[list[Cost]], seconds: list[float], owner: np.ndarray, kept: np.ndarray
) -> list[Cost]:
    """Non-negative coefficients of the features, as terms in seconds."""
    columns = [
        [sum(_at(cost, owner, shares) for cost in feature) for shares in kept]
        for feature in features
    ]
    weights = 1 / np.maximum(np.array(seconds), 1e-9)
    # Relative errors count: a layer at a quarter of its width matters as much as at full width.
    coefficients, _ = nnls(np.array(columns).T * weights[:, None], np.ones(len(weights)))
    return [
        Cost(cost.node, float(c) * cost.flops, cost.factors)
        for c, feature in zip(coefficients, features, strict=True)
        for cost in feature
        if c
    ]


def _at(cost: Cost, owner: np.ndarray, kept: np.ndarray) -> float:
    shares = np.append(kept, 1.0)  # index -1: what stays
    return cost.flops * float(np.prod([shares[owner[ids]].mean() for ids in cost.factors]))


@dataclass(frozen=True)
class Closed:
    """Widths whose rewritten graph was measured.

    Attributes:
        widths: of every group.
        limit: the modeled latency they were allocated under.
        measured: time over the original's.
    """

    widths: np.ndarray
    limit: float
    measured: float


def close(
    measure: Callable[[np.ndarray], float],
    target: float,
    smallest: np.ndarray,
    modeled: Callable[[np.ndarray], float],
    allocate: Callable[[float], np.ndarray],
    workload: Workload,
    start: float | None = None,
) -> Closed:
    """Correct the modeled limit until the measured latency is the target's: regula falsi on
    measurements of whole graphs.

    Args:
        measure: time of the graph with these widths over the original's.
        target: time to reach, over the original's.
        smallest: widths below which nothing goes.
        modeled: the cost model's latency of widths, as a fraction.
        allocate: widths under a modeled limit.
        workload: for messages.
        start: modeled limit to try first.

    Raises:
        BudgetError: not even the smallest widths are as fast.
    """
    low, high = Closed(smallest, modeled(smallest), measure(smallest)), Closed(smallest, 1.0, 1.0)
    if low.measured > RANGE[1] * target:
        raise BudgetError(
            f"latency={target:g} cannot be reached: at the smallest widths, one multiple per "
            f"group, the model takes {low.measured:.2f} of the original's "
            f"time ({workload}). The rest is the overhead of calls, and layers that keep their "
            "width; it weighs less in larger batches and "
            "where the model is compiled (workload=)."
        )
    tried: list[Closed] = []
    limit = start
    for _ in range(4 * CORRECTIONS):
        if limit is None:
            step = (target - low.measured) / max(high.measured - low.measured, 1e-9)
            limit = low.limit + min(max(step, 0.02), 0.98) * (high.limit - low.limit)
        widths = allocate(limit)
        again = next((t for t in tried if np.array_equal(widths, t.widths)), None)
        found = Closed(widths, limit, measure(widths) if again is None else again.measured)
        if RANGE[0] * target <= found.measured <= RANGE[1] * target:
            return found
        low, high = (low, found) if found.measured > target else (found, high)
        # Widths in coarse multiples come again: the jump between two of them is looked for by
        # halves.
        limit = None if again is None else (low.limit + high.limit) / 2
        tried += [found] if again is None else []
        if len(tried) == CORRECTIONS:
            break
    return min(tried, key=lambda t: (t.measured > CLOSE * target, abs(t.measured - target)))


def multiples(analysis: Analysis, model: nn.Module, workload: Workload) -> list[int]:
    """Widths that the device's kernels use well, per group.

    On a CPU one vector register of float32, which oneDNN pads channels to (nChw16c, nChw8c): 20 or
    28 channels take the time of 32. On a GPU 32 bytes or 16 half-precision values, which tensor
    cores read at a time. Narrow groups take the largest power of two that halves them.
    """
    first = next(model.parameters())
    device, dtype = torch.device(workload.device or first.device), workload.dtype or first.dtype
    if device.type == "cpu":
        step = {"AVX512": 16}.get(torch.backends.cpu.get_cpu_capability(), 8)
    else:
        step = 8 if dtype.itemsize >= 4 else 16
    return [
        max(1, min(step, 1 << max(g.channels // 2, 1).bit_length() - 1)) for g in analysis.groups
    ]
