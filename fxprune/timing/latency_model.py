"""Latency as a function of the widths: seconds of every call, fitted to measured layer times.

Every call's time is written as c0 + c1 * (its FLOPs) + c2 * (elements that it reads and writes)
with non-negative coefficients, fitted to times measured at a few widths. Like FLOPs, it is then a
sum of products of kept shares, and widths are allocated under it in the same way. What the table
cannot know (fusion, caches, overhead of Python), `latency_target` corrects.
"""

from dataclasses import replace

import numpy as np
from torch.fx import GraphModule, Node

from fxprune.capture.batch import Batch
from fxprune.label.groups import Analysis, CostTerm
from fxprune.label.keep import keep_first
from fxprune.passes import ReduceChannels
from fxprune.rules.labels import Value, narrow_constant
from fxprune.timing.latency_probe import LatencyProbe
from fxprune.timing.layer_times import LayerTimes, time_layers
from fxprune.timing.workload import place_batch, place_model, use_settings

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Fractions of every group's width that layers are timed at (docs/decisions/0005)."""

NOTHING = 1e-100
"""Share of a call's work below which a feature is none."""


def fit_call_seconds(
    graph: GraphModule,
    analysis: Analysis,
    example: Batch,
    probe: LatencyProbe,
    multiple: np.ndarray,
    table: LayerTimes,
) -> tuple[CostTerm, ...]:
    """The time of every call as a function of the widths.

    Args:
        graph: the captured graph.
        analysis: of it.
        example: a batch of inputs.
        probe: of the original.
        multiple: of which widths are, one or per group: layers are timed at widths that may be
            chosen.
        table: of measured times; filled and saved.

    Returns:
        terms as of FLOPs, in seconds. Calls that are no contraction are scaled so that all add up
        to the original's measured time: that is where fusion, and the overhead between calls, act.
    """
    widths, seconds = _time_at_shares(graph, analysis, example, probe, multiple, table)
    full = seconds[0]
    terms = [
        fit_terms(_features(node, analysis), [s[node.name] for s in seconds], analysis, widths)
        for node in graph.graph.nodes
        if node.name in full
    ]
    contractions = {cost.node for cost in analysis.costs}
    heavy = sum(full[name] for name in full if name in contractions)
    light = sum(full[name] for name in full if name not in contractions)
    scale = max(probe.seconds - heavy, 0.0) / max(light, 1e-12)
    return tuple(
        cost if cost.node in contractions else replace(cost, amount=cost.amount * scale)
        for costs in terms
        for cost in costs
    )


def _time_at_shares(
    graph: GraphModule,
    analysis: Analysis,
    example: Batch,
    probe: LatencyProbe,
    multiple: np.ndarray,
    table: LayerTimes,
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Kept shares of the groups, (times, groups), full widths first; and the seconds of every call
    there, by node name.
    """
    full = np.array([g.width for g in analysis.groups], dtype=float)
    step = np.maximum(
        np.broadcast_to(multiple, full.shape) // [len(g.blocks) for g in analysis.groups], 1
    )
    kept: list[np.ndarray] = []
    seconds: list[dict[str, float]] = []
    with use_settings(probe.workload):
        for share in SHARES:
            widths = np.minimum(np.maximum(np.round(share * full / step), 1) * step, full)
            # Widths of an earlier share come again where groups are too narrow.
            if any(np.array_equal(widths / full, k) for k in kept):
                continue
            keep_mask = keep_first(analysis, widths)
            reduced, device = place_model(
                ReduceChannels(analysis, keep_mask)(graph).graph_module, probe.workload
            )
            assert isinstance(reduced, GraphModule)
            batch = place_batch(example, probe.workload, device)
            seconds.append(time_layers(reduced, batch, table))
            kept.append(widths / full)
    table.save()
    return np.array(kept), seconds


def _features(node: Node, analysis: Analysis) -> list[list[CostTerm]]:
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
        CostTerm(
            node.name,
            size / max(sum(sizes), 1.0),
            tuple(narrow_constant(labels).reshape(-1).numpy() for labels in tensor.axes),
        )
        for size, tensor in zip(sizes, tensors, strict=True)
    ]
    contracted = [
        [CostTerm(node.name, 1.0, cost.axes)] for cost in analysis.costs if cost.node == node.name
    ]
    return [[CostTerm(node.name, 1.0, ())], *contracted, moves]


def fit_terms(
    features: list[list[CostTerm]], seconds: list[float], analysis: Analysis, kept: np.ndarray
) -> list[CostTerm]:
    """Non-negative coefficients of the features, as terms in seconds.

    Args:
        features: sums of terms, each 1 at full width.
        seconds: of the call at every row of `kept`.
        analysis: whose channels the terms' factors name.
        kept: (times, groups) shares of the groups' widths.
    """
    owner = analysis.group_of()
    columns = [
        [sum(evaluate(cost, owner, shares) for cost in feature) for shares in kept]
        for feature in features
    ]
    # What is next to nothing at full width would need a coefficient beyond all numbers.
    columns = [c if max(c) > NOTHING else [0.0] * len(c) for c in columns]
    weights = 1 / np.maximum(np.array(seconds), 1e-9)
    # Relative errors count: a layer at a quarter of its width matters as much as at full width.
    from scipy.optimize import nnls

    coefficients, _ = nnls(np.array(columns).T * weights[:, None], np.ones(len(weights)))
    return [
        CostTerm(cost.node, float(c) * cost.amount, cost.axes)
        for c, feature in zip(coefficients, features, strict=True)
        for cost in feature
        if c
    ]


def evaluate(cost: CostTerm, owner: np.ndarray, kept: np.ndarray) -> float:
    """A term where these shares of the groups, (groups,), are kept."""
    shares = np.append(kept, 1.0)  # index -1: what stays
    return cost.amount * float(np.prod([shares[owner[ids]].mean() for ids in cost.axes]))
