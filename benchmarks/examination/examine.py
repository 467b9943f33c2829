"""One model of the coverage run: capture, labels, removal of random channels, masked equivalence,
compilation.
"""

import copy
import time
from collections import Counter

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from benchmarks.examination.masked import masked, randomize, tensors
from benchmarks.examination.outputs import distance, outputs, resized
from benchmarks.examination.row import FLOPS, TOLERANCE, Row
from benchmarks.models.entry import Entry
from fxprune.calibrate.loader import Calibration
from fxprune.capture.batch import Batch, example_batch
from fxprune.capture.export import Captured, capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.flops import count_flops
from fxprune.label.groups import Analysis
from fxprune.label.keep import keep_random
from fxprune.passes import LiftModules, ReduceChannels
from fxprune.plans.plan import make_plan
from fxprune.profile.costs import CostModel
from fxprune.targets import Passing


def uniform_widths(costs: CostModel, analysis: Analysis, flops: float) -> np.ndarray:
    """The same fraction of every group, as large as leaves at most `flops` of the FLOPs."""

    def widths(fraction: float) -> np.ndarray:
        return np.array([max(1, round(fraction * g.width)) for g in analysis.groups])

    low, high, full = 0.0, 1.0, max(costs.flops(costs.full), 1.0)
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if costs.flops(widths(middle)) / full <= flops else (low, middle)
    return widths(low)


def shares(captured: Captured, analysis: Analysis, row: Row) -> None:
    """Share of parameters with a removable axis, and of those without by reason."""
    sizes = {n: p.numel() for n, p in captured.graph.named_parameters()}
    total = max(sum(sizes.values()), 1)
    free = {name for (name, _), ids in analysis.axes.items() if (ids > 0).any()}
    row.prunable = sum(s for n, s in sizes.items() if n in free) / total
    reasons: Counter[str] = Counter()
    first: dict[str, str] = {}
    for p in analysis.pinned:
        reason = p.reason.partition(" (")[0]
        # The end of the network is the least telling of a weight's reasons.
        if p.parameter not in first or first[p.parameter] in (
            "reads channels that stay",
            "is the model's output",
        ):
            first[p.parameter] = reason
        reasons[reason] += 0
    for name in first.keys() - free:
        reasons[first[name]] += sizes.get(name, 0)
    row.pinned = {r: s / total for r, s in reasons.most_common()}


def compiles(small: nn.Module, batch: Batch, expected: list[Tensor]) -> str:
    """`yes` where torch.compile takes the module as one graph and the result agrees; the error
    otherwise.
    """
    try:
        error = distance(
            expected, outputs(torch.compile(small, backend="eager", fullgraph=True), batch)
        )
    except Exception as caught:
        return (
            f"{type(caught).__name__}: "
            f"{str(caught).strip().splitlines()[0] if str(caught).strip() else ''}"
        )
    return "yes" if error <= TOLERANCE else f"differs by {error:.1e}"


def examine(entry: Entry, row: Row, compiling: bool = True) -> None:
    """Build a model and fill its row as far as it goes; `compiling` tries torch.compile too, which
    takes as long as the rest.

    Raises:
        Exception: whatever building, capturing or compressing the model raises.
    """
    torch.manual_seed(0)
    whole, example = entry.build()
    whole.eval()
    randomize(whole)
    if not entry.target:
        _examine(row, whole, example_batch(whole, example), compiling)
        return
    batch = next(iter(Passing(whole, entry.target, Calibration(whole, example))))
    small = _examine(row, whole.get_submodule(entry.target), batch, compiling)
    parent, _, leaf = entry.target.rpartition(".")
    setattr(whole.get_submodule(parent), leaf, small)
    # Parts of torchvision's detectors compile themselves.
    with torch.compiler.set_stance("force_eager"):
        outputs(whole, example_batch(whole, example))


def _examine(row: Row, model: nn.Module, batch: Batch, compiling: bool) -> GraphModule:
    row.parameters = sum(p.numel() for p in model.parameters())
    start = time.process_time()
    captured = capture(model, batch)
    row.captured, row.notes = True, captured.notes
    middle = time.process_time()
    analysis = analyze_graph(captured.graph, batch.size)
    row.capture_s, row.analysis_s = middle - start, time.process_time() - middle
    row.groups = len(analysis.groups)
    shares(captured, analysis, row)
    costs = CostModel(captured.graph, analysis)
    widths = uniform_widths(costs, analysis, FLOPS)
    row.flops = costs.fractions(widths)["flops"]
    keep_mask = keep_random(analysis, np.random.default_rng(0), widths)
    reduced = ReduceChannels(analysis, keep_mask)(captured.graph).graph_module
    row.counted = count_flops(reduced, batch) / max(count_flops(captured.graph, batch), 1)
    plan = make_plan(analysis, keep_mask, tensors(captured.graph), "random", {})
    small: GraphModule = LiftModules()(reduced).graph_module
    big = masked(model, captured.graph, small, plan)
    found = outputs(small, batch)
    row.effect = distance(outputs(model, batch), outputs(big, batch))
    fixed = captured.fixed is not None
    _compare(row, model, captured.graph, batch, 2)
    for size in (2,) if fixed else (1, 2, 3):
        _compare(row, big, small, batch if size == 2 else resized(batch, size), size)
    if compiling:
        row.compiled = compiles(small, batch, found)
    return small


def _compare(row: Row, expected: nn.Module, small: nn.Module, batch: Batch, size: int) -> None:
    """Whether two modules give the same at one batch size; in double precision too where single
    precision is not enough.
    """
    found = outputs(small, batch)
    error = distance(outputs(expected, batch), found)
    row.error = max(row.error or 0.0, error)
    row.shapes[str(size)] = [list(t.shape) for t in found][:4]
    if not error <= TOLERANCE:
        double = batch.map(lambda t: t.double() if t.is_floating_point() else t)
        exact = outputs(copy.deepcopy(expected).double(), double)
        row.error64 = max(
            row.error64 or 0.0, distance(exact, outputs(copy.deepcopy(small).double(), double))
        )
