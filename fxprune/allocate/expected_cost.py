"""What a call will cost, in plain forward passes over the calibration examples, before it starts.

The work of every station is counted in operations of a few kinds (`fxprune.timing.speeds.Work`),
from the sizes of the layers and the number of examples; how fast the machine does each kind is
measured. A forward pass is the captured graph on all calibration examples.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from torch.fx import Node

from fxprune.allocate.ranks import EIGENVALUES, components_work
from fxprune.calibrate.batching import Planned, Shared
from fxprune.calibrate.moments import POSITIONS, POSITIONS_PER_CHANNEL, sites
from fxprune.calibrate.observe import at_inputs
from fxprune.calibrate.recording import VALIDATION, rows_per_example
from fxprune.calibrate.split import TRIAL
from fxprune.calibrate.strata import strata
from fxprune.graph.convolution import channel_dim, groups
from fxprune.graph.nodes import attribute
from fxprune.label.layers import MOST_OUTPUTS, Layer, own_layers
from fxprune.profile.selectors import ROUNDS
from fxprune.profile.statistics import PROBED_EXAMPLES, SHARES
from fxprune.progress import ExpectedCost
from fxprune.rules.labels import Value
from fxprune.session import Session
from fxprune.timing.speeds import Speeds, Work, measure_speeds

BACKWARD = 4.0
"""Forward passes that one with its derivatives costs, and the products of these."""
FURTHER = 0.5
"""Candidates tried beyond the effort, on average."""
THINNER = 0.6
"""Exponent of a reduced graph's time in its FLOPs: thinner layers do fewer a second."""
RIDGES_TRIED = 4
"""Ridges that a layer's fit compares, typically; half of them in single precision."""
CURVES = 8
"""Widths at which ranks are foreseen."""
CALLS_A_NODE, CALLS_A_FIT, CALLS_A_REWRITE, CALLS_A_REMOVAL = 40, 200, 200, 150
"""Operators on next to nothing that one call of a pass, one layer of a fit, one node of a rewritten
graph, and one step of an order of removal take.
"""
CALLS_A_READING, CALLS_A_SUM, COPIES = 100, 60, 3
"""Likewise what one layer of a fit takes for each batch, and for each leaf of its sums; and how
often what a row holds is moved.
"""
READ = 10.0
"""Multiples of n^3 / 3 that a reader of a group takes: its inverse, its metric, updates of both."""
SHOWN = 64
"""Examples that say what is decided, and on which layers are compared."""
TIMED, QUICK = (16, 128), 0.02
"""Examples of the pass that is timed: more where the first take less than so many seconds, most of
which are then not the examples'.
"""
TOUCHED = 24
"""Numbers that are read or written for each entry of a system that is summed, scaled and solved at
several ridges, in double precision; a third of them at one ridge, or where a chunk's products are
added to those before.
"""


def expect_cost(session: Session, limits: Mapping[str, float]) -> ExpectedCost:
    """Foresee what deciding, fitting and verifying one size takes.

    Args:
        session: opened, with nothing observed yet.
        limits: fractions of the original to keep at most.
    """
    speeds = _time(session)
    forward = speeds.example * session.statistics.calibration.size
    work: dict[str, Work] = {}
    for station, part in _stations(session, limits):
        work[station] = work.get(station, Work()) + part
    return ExpectedCost({k: speeds.seconds(part) for k, part in work.items()}, forward)


def _time(session: Session) -> Speeds:
    """Of the model and of everything else here."""
    for examples in TIMED:
        batch = next(iter(session.statistics.batches(session.split.first(examples))))
        speeds = measure_speeds(
            partial(at_inputs(session.graph), *batch.args, **batch.kwargs),
            batch.own,
            batch.tensors()[0].device,
        )
        if speeds.example * batch.own > QUICK:
            break
    return speeds


def _stations(session: Session, limits: Mapping[str, float]) -> Iterator[tuple[str, Work]]:
    """Work by station, in the order of the pipeline."""
    method, split, effort = session.options.method, session.split, session.options.effort
    kept = min((v for k, v in limits.items() if k != "latency"), default=1.0)
    narrow = math.sqrt(kept) if method.widths else 1.0
    # Layers are made two when all are fitted; till then they are wider.
    wide, fitted = (v ** (0.5 if method.ranks else 1.0) for v in (kept, narrow))
    searched = method.allocation == "search" and effort > 1
    # What can be rotated is ordered and searched once more so, and with narrower streams once more.
    orders = 1 + session.may_rotate if searched else 1
    searches = orders + bool(session.analysis.normalized) if searched else 1
    # Rotated streams are those of another graph, which is observed, ordered and searched as well.
    streams = int(searched and session.may_rotate_streams)
    orders, searches = orders + streams, searches + streams
    sequential = method.fit == "sequential"
    parts = session.statistics.parts
    every = tuple(parts.values())
    fitting = [batch for part in every for batch in part.mine]
    if method.fit != "none" or method.selector != "magnitude":
        observed = _pass(session, fitting) + _moments(session, fitting)
        yield "calibrate", observed.times(1 + streams)
        if method.widths:
            aware = session.options.chosen_selector == "output-aware"
            if aware:
                probed = session.statistics.planned(split.first(PROBED_EXAMPLES), SHARES).mine
                yield "calibrate", _pass(session, probed).times(BACKWARD * (1 + streams))
            yield "profile", _selection(session, aware).times(orders)
            if searched:  # whose candidates include the reference's
                yield "profile", _selection(session, aware=False).times(orders)
    if searched and method.ranks:
        costly = components_work(session) > (effort - 1) * session.statistics.work
        curves = _ranks(session, 1.0) if costly else _ranks(session, narrow).times(CURVES)
        yield "allocate", curves.times(searches)
    trials = searches * (effort + FURTHER) if searched else 0
    yield "rewrite", _rewrite(session).times(1 + trials)
    if searched:
        tried = (parts[TRIAL],) if parts[TRIAL].batches else every
        trial = _fits(session, tried, fitted, ridges=0) + _folds(session, fitted)
        trial += _pass(session, [batch for part in tried for batch in part.mine], wide)
        yield "fit", trial.times(trials)
        yield "allocate", _pass(session, parts[VALIDATION].mine, wide).times(trials)
    if sequential:
        yield "fit", _pass(session, fitting, wide)
        yield "fit", _fits(session, every, fitted, RIDGES_TRIED)
    if method.widths and method.fit != "none":
        yield "fit", _folds(session, narrow).times(2 if sequential else 1)
    for examples in (split.held_out, split.first(SHOWN)):
        shown = session.statistics.planned(examples).mine
        yield "verify", _pass(session, shown) + _pass(session, shown, kept)


def _pass(session: Session, batches: Sequence[Planned], kept: float = 1.0) -> Work:
    """The graph on these batches, node by node, with this share of its FLOPs."""
    examples = sum(batch.size for batch in batches)
    nodes = sum(node.op == "call_function" for node in session.graph.graph.nodes)
    calls = CALLS_A_NODE * len(batches) * nodes
    return Work(examples=kept**THINNER * examples, calls=calls)


def _rewrite(session: Session) -> Work:
    """Removing channels, with the labels that check it."""
    return Work(calls=CALLS_A_REWRITE * len(session.graph.graph.nodes))


def _ranks(session: Session, narrow: float) -> Work:
    """Principal components of every layer's outputs."""
    found = Work()
    for layer in own_layers(session.graph).values():
        outputs = narrow * len(attribute(session.graph, layer.weight))
        if outputs < MOST_OUTPUTS:
            found += Work(solves=EIGENVALUES * outputs**3, calls=CALLS_A_FIT)
    return found


def _moments(session: Session, batches: Sequence[Planned]) -> Work:
    """Second moments of what every consumer reads, on these batches."""
    analysis, fitting = session.analysis, session.split.fitting
    found, seen = Work(), set[tuple[str, int, bytes]]()
    share = sum(batch.size for batch in batches) / max(fitting, 1)
    for site, consumers in sites(analysis).items():
        ids = analysis.axes[site]
        for consumer in consumers:
            way = consumer.source, consumer.dim, ids.tobytes()
            if way in seen:
                continue
            seen.add(way)
            value = analysis.values[consumer.source]
            if not isinstance(value, Value):
                continue
            columns = value.shape[consumer.dim]
            positions = math.prod(value.shape) / columns / analysis.batch * fitting
            wanted = max(POSITIONS, POSITIONS_PER_CHANNEL * columns)
            rows = share * (positions if positions <= 2 * wanted else wanted)
            for stratum in strata(ids):
                channels, each = stratum.columns.shape
                found += Work(
                    products=rows * each * channels**2,
                    moved=rows * each * channels + len(batches) * TOUCHED / 3 * channels**2,
                )
    return found


def _selection(session: Session, aware: bool) -> Work:
    """Orders of removal: every group's channels are eliminated one after another, for each reader.

    Where one method's widths are compared with another's, both orders are made.
    """
    found = Work()
    for group in session.analysis.groups:
        width = group.channels
        each = width**3 / 3
        readers = len({(c.parameter, c.axis) for c in group.consumers})
        steps = CALLS_A_REMOVAL * (1 + readers) * min(group.width, ROUNDS)
        found += (
            Work(solves=each * (2 + READ * readers), calls=steps) if aware else Work(solves=each)
        )
    return found


def _folds(session: Session, narrow: float) -> Work:
    """Interpolation matrices of every consumer."""
    analysis, found = session.analysis, Work()
    for site in sites(analysis):
        ids = analysis.axes[site]
        weight = attribute(session.graph, site[0])
        for stratum in strata(ids):
            channels = len(stratum.keys)
            kept = channels * narrow
            # Once with the ridge, and once without to see what is rebuilt exactly.
            folded = 2 * (kept**3 / 3) + 6 * kept**2 * (channels - kept)
            found += Work(solves=folded + 2 * weight.numel() / max(ids.shape[-1], 1) * channels)
    return found


def _fits(session: Session, parts: Sequence[Shared], narrow: float, ridges: int) -> Work:
    """Refits of every layer on these parts of the examples.

    Args:
        narrow: widths as a share of the original's.
        ridges: that are compared.
    """
    analysis, graph, found = session.analysis, session.graph, Work()
    read = {name for name, _ in sites(analysis)}
    written = {name for group in analysis.groups for name, axis in group.members if axis == 0}
    work = session.statistics.work
    mine = [batch for part in parts for batch in part.mine]
    examples, leaves = sum(part.size for part in parts), len({b.place.leaf for b in mine})
    share = sum(batch.size for batch in mine) / max(examples, 1)
    for layer in own_layers(graph).values():
        outputs, features = float(len(attribute(graph, layer.weight))), _features(session, layer)
        features *= narrow if layer.weight in read else 1.0
        outputs *= narrow if layer.weight in written else 1.0
        wanted = rows_per_example(
            math.ceil(features), len(layer.calls), session.split.fitting, work
        )
        rows = sum(min(wanted, _positions(session, layer, call)) for call in layer.calls) * examples
        count = groups(layer.node)
        rowwise, system = (
            own.times(count) for own in _fit(rows, features, outputs / count, ridges)
        )
        added = count * leaves * features * (features / 2 + outputs / count)
        calls = CALLS_A_FIT * (1 + ridges) + CALLS_A_READING * len(mine) + CALLS_A_SUM * leaves
        # What goes by rows is this rank's share of them.
        found += rowwise.times(share) + Work(moved=added, calls=calls) + system
    return found


def _features(session: Session, layer: Layer) -> float:
    """Unknowns per output of a layer."""
    return float(attribute(session.graph, layer.weight)[0].numel())


def _positions(session: Session, layer: Layer, call: Node) -> float:
    """Positions in a call's output for one example; none where it has no labels."""
    value = session.analysis.values.get(call.name)
    if not isinstance(value, Value):
        return 0.0
    shape, weight = value.shape, attribute(session.graph, layer.weight)
    channels = shape[channel_dim(call, weight.dim()) % len(shape)]
    return math.prod(shape) / max(channels, 1) / session.analysis.batch


def _fit(rows: float, features: float, outputs: float, ridges: int) -> tuple[Work, Work]:
    """One group of one layer: what goes by rows, products of features, or of rows where those are
    fewer; and the system that they make.
    """
    size, other = sorted((rows, features))
    solve = size**3 / 3 + 2 * size**2 * outputs
    products = other * size**2 + 2 * rows * features * outputs
    system = Work(
        solves=solve * (1 + ridges / 2) + ridges * 2 * size**2 * outputs,
        moved=(TOUCHED if ridges else TOUCHED / 3) * size**2,
    )
    return Work(products=products, moved=COPIES * rows * features), system
