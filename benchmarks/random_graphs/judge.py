"""One random network: reduced at a random keep mask, it must equal the masked original."""

import random
import signal
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import fxprune
from benchmarks.examination.masked import tensors
from benchmarks.examination.outputs import distance, outputs
from benchmarks.random_graphs.precision import doubled, last_bit_effect
from benchmarks.random_graphs.program import build
from benchmarks.random_graphs.recipe import DTYPES, Recipe, Written, examples, write
from benchmarks.random_graphs.tracing import AGAIN, TRACED, UntraceableError, trace
from fxprune.capture.batch import Batch, make_batch
from fxprune.capture.export import capture
from fxprune.errors import FxpruneError
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from fxprune.label.keep import keep_random
from fxprune.passes import LiftModules, ReduceChannels
from fxprune.plans.plan import make_plan, scatter

EXACT = 1e-9
"""Relative difference that is rounding."""
NOISE = 1000.0
"""Times what a change of the inputs in their last bit does to the outputs that is rounding, too, if
it is less than `MOST_NOISE`."""
MOST_NOISE = 1e-4
VANISHED = 1e-12
"""An output that is nowhere larger is zero but for rounding: a mean of what was normalized."""
EXPORTED, COMPRESSED = 40, 100
"""Every so many networks go through torch.export, and through `fxprune.compress`."""
LIMIT = 60
"""Processor seconds for one network."""

EQUAL, NOTHING, REFUSED = "equal", "nothing prunable", "refused"
WRONG, ERROR, SLOW, INVALID = "WRONG", "ERROR", "SLOW", "not a network"
FAILURES = (WRONG, ERROR, SLOW)


@dataclass
class Outcome:
    """What became of one network.

    Attributes:
        verdict: one of the above.
        text: of an error, or by how much it is wrong.
        lane: "traced", "exported" or "compressed".
        operators: calls in its graph.
        error: relative difference to the masked original.
        effect: relative difference of the masked original to the original.
        reasons: why weights stayed.
        prunable: constructs that made or read channels that went.
        trace: of an error.
    """

    seed: int
    verdict: str = INVALID
    text: str = ""
    lane: str = "traced"
    operators: int = 0
    error: float = 0.0
    effect: float = 0.0
    seconds: float = 0.0
    reasons: set[str] = field(default_factory=set)
    used: tuple[str, ...] = ()
    trace: str = ""


class _TooLong(BaseException):
    """Not an Exception, so that nothing on the way takes it for the network's."""


def lane_of(recipe: Recipe) -> str:
    """How a network is captured; by its seed."""
    chance = random.Random(recipe.seed ^ 0x5EED).random()
    if chance < 1 / COMPRESSED:
        return "compressed"
    return "exported" if chance < 1 / COMPRESSED + 1 / EXPORTED else "traced"


def judge(recipe: Recipe, lane: str | None = None, limit: int = LIMIT) -> Outcome:
    """Write, capture, reduce and compare one network, whatever it raises.

    Args:
        recipe: of the network.
        lane: how it is captured; by default as its seed says.
        limit: processor seconds.
    """
    outcome = Outcome(recipe.seed, lane=lane or lane_of(recipe))

    def alarm(*_: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGPROF, alarm)
    signal.setitimer(signal.ITIMER_PROF, limit)
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _judge(recipe, outcome)
    except FxpruneError as error:
        outcome.verdict, outcome.text = REFUSED, f"{type(error).__name__}: {error}"
    except _TooLong:
        outcome.verdict, outcome.text = SLOW, f"more than {limit} s"
    except Exception as error:
        outcome.verdict = ERROR
        outcome.text, outcome.trace = f"{type(error).__name__}: {error}", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    outcome.seconds = time.process_time() - start
    return outcome


def _judge(recipe: Recipe, outcome: Outcome) -> None:
    written = write(recipe)
    outcome.used = written.used
    try:
        found = _network(recipe, written)
    except RuntimeError as error:  # A view or a window that does not fit, whoever runs it.
        outcome.text = f"as it was written: {error}"
        return
    if found is None:
        return
    net, dtype = found
    if outcome.lane == "compressed" and dtype == torch.float64:
        _compress(recipe, net, outcome)
        return
    graph = _graph(net, recipe, dtype, outcome)
    analysis = analyze_graph(graph, TRACED)
    if outcome.lane == "exported":
        _same_groups(net, recipe, dtype, analysis)
    outcome.operators = sum(n.op == "call_function" for n in graph.graph.nodes)
    outcome.reasons = {p.reason.partition(" (")[0] for p in analysis.pinned}
    if not analysis.groups:
        outcome.verdict = NOTHING
        return
    keep_mask = keep_random(analysis, np.random.default_rng(recipe.seed))
    reduce = ReduceChannels(analysis, keep_mask)
    if outcome.lane == "exported":
        small = LiftModules()(reduce(graph).graph_module).graph_module
    else:
        small = reduce.call(graph).graph_module
    # Numbers of another type are rounded where a forward names its inputs' type.
    original = net if dtype == torch.float64 else graph
    before = [outputs(doubled(original), batch) for batch in _batches(recipe, outcome)]
    masked = _mask(original, graph, small, analysis, keep_mask)
    _compare(recipe, outcome, before, masked, small)


def _network(recipe: Recipe, written: Written) -> tuple[nn.Module, torch.dtype] | None:
    """The network and the type it runs in: one that torch has all kernels of; None where it does
    not run.
    """
    for name in (recipe.dtype, "float64"):
        net = build(written.source, recipe.seed, DTYPES[name])
        try:
            with torch.no_grad():
                net(*_examples(recipe, TRACED, 0, DTYPES[name]))
        except NotImplementedError:
            continue
        return net, DTYPES[name]
    return None


def _examples(recipe: Recipe, count: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    given = examples(recipe, count, recipe.seed + seed)
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in given)


def _graph(net: nn.Module, recipe: Recipe, dtype: torch.dtype, outcome: Outcome) -> GraphModule:
    """The canonical graph, by the lane; by torch.export where the cheaper way fails."""
    two = _examples(recipe, TRACED, 0, dtype)
    if outcome.lane == "traced":
        try:
            return trace(net, two, _examples(recipe, AGAIN, 0, dtype))
        except UntraceableError:
            outcome.lane = "exported"
    return capture(net, make_batch(two, {})).graph


def _same_groups(net: nn.Module, recipe: Recipe, dtype: torch.dtype, analysis: Analysis) -> None:
    """Insist that the cheaper tracer, where it takes the network, gives the groups of torch.export.

    Raises:
        AssertionError: it gives others.
    """
    two, five = (_examples(recipe, count, 0, dtype) for count in (TRACED, AGAIN))
    try:
        other = analyze_graph(trace(net, two, five), TRACED)
    except UntraceableError:
        return
    if _groups(other) != _groups(analysis):
        raise AssertionError(f"the tracer's groups are {other}, those of torch.export {analysis}")


def _groups(analysis: Analysis) -> set[tuple[int, int, frozenset[tuple[str, int]]]]:
    """Sizes and weights of the groups, in whatever order; weights that were computed have names of
    the graph's own.
    """
    return {
        (g.width, len(g.blocks), frozenset(m for m in g.members if not m[0].startswith("computed")))
        for g in analysis.groups
    }


def _mask(
    original: nn.Module,
    graph: GraphModule,
    small: nn.Module,
    analysis: Analysis,
    keep_mask: np.ndarray,
) -> nn.Module:
    """The original, from now on with zeros where channels went."""
    plan = make_plan(analysis, keep_mask, tensors(graph), "random", {})
    held = tensors(original)
    if not set(plan.kept) <= set(held):
        original, held = graph, tensors(graph)
    reduced = tensors(small)
    for name, kept in plan.kept.items():
        held[name].copy_(scatter(reduced[name], plan.shapes[name], kept))
    return original


def _batches(recipe: Recipe, outcome: Outcome) -> list[Batch]:
    """Other examples, and other numbers of them, than were traced."""
    counts = (3,) if outcome.lane == "traced" else (1, 3)
    return [make_batch(_examples(recipe, n, n, torch.float64), {}) for n in counts]


def _compare(
    recipe: Recipe,
    outcome: Outcome,
    before: Sequence[Sequence[Tensor]],
    masked: nn.Module,
    small: nn.Module,
) -> None:
    """Whether both give the same in double precision; `before` is what the original gave."""
    outcome.verdict = EQUAL
    masked, small = doubled(masked), doubled(small)
    for first, batch in zip(before, _batches(recipe, outcome), strict=True):
        expected = outputs(masked, batch)
        if not all(bool(torch.isfinite(t).all()) for t in expected):
            outcome.verdict, outcome.text = INVALID, "its outputs are not finite"
            return
        if any(t.numel() and 0 < float(t.abs().max()) < VANISHED for t in expected):
            outcome.verdict, outcome.text = INVALID, "an output is rounding alone"
            return
        try:
            error = distance(expected, outputs(small, batch))
        except ValueError as wrong:
            outcome.verdict, outcome.text = WRONG, str(wrong)
            return
        outcome.error = max(outcome.error, error)
        outcome.effect = max(outcome.effect, distance(list(first), expected))
        if error <= EXACT:
            continue
        noise = last_bit_effect(masked, batch, expected)
        if not error <= min(NOISE * noise, MOST_NOISE):
            outcome.verdict = WRONG
            outcome.text = f"differs by {error:.1e} on {batch.size} examples"
            return


def _compress(recipe: Recipe, net: nn.Module, outcome: Outcome) -> None:
    """The whole way: decided, reduced, folded and refitted on a few examples."""
    fitted = [_examples(recipe, 8, 10 + i, torch.float64) for i in range(4)]
    small = fxprune.compress(net, fitted, flops=0.7, progress=False)
    outcome.operators = len(small.graph.nodes)
    before = [outputs(net, batch) for batch in _batches(recipe, outcome)]
    _compare(recipe, outcome, before, fxprune.masked(net, small), small)
