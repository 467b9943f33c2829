"""How much work the parts of a call are, counted in operations of a few kinds
(`fxprune.timing.speeds.Work`) from the sizes of the layers and the number of examples.
"""

import math
from collections.abc import Sequence

from torch.fx import Node

from fxprune.allocate.ranks import EIGENVALUES
from fxprune.calibrate.batching import Planned, Shared
from fxprune.calibrate.moments import POSITIONS, POSITIONS_PER_CHANNEL, sites
from fxprune.calibrate.recording import rows_per_example
from fxprune.calibrate.strata import strata
from fxprune.fit.plateaus import flat_behind
from fxprune.graph.convolution import channel_dim, groups
from fxprune.graph.nodes import attribute
from fxprune.label.layers import MOST_OUTPUTS, Layer, own_layers
from fxprune.profile.selectors import ROUNDS
from fxprune.rules.labels import Value
from fxprune.session import Session
from fxprune.timing.speeds import Work

THINNER = 0.6
"""Exponent of a reduced graph's time in its FLOPs: thinner layers do fewer a second."""
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
TOUCHED = 24
"""Numbers that are read or written for each entry of a system that is summed, scaled and solved at
several ridges, in double precision; a third of them at one ridge, or where a chunk's products are
added to those before.
"""


def pass_work(session: Session, batches: Sequence[Planned], kept: float = 1.0) -> Work:
    """The graph on these batches, node by node, with this share of its FLOPs."""
    examples = sum(batch.size for batch in batches)
    nodes = sum(node.op == "call_function" for node in session.graph.graph.nodes)
    calls = CALLS_A_NODE * len(batches) * nodes
    return Work(examples=kept**THINNER * examples, calls=calls)


def rewrite_work(session: Session) -> Work:
    """Removing channels, with the labels that check it."""
    return Work(calls=CALLS_A_REWRITE * len(session.graph.graph.nodes))


def ranks_work(session: Session, narrow: float) -> Work:
    """Principal components of every layer's outputs."""
    found = Work()
    for layer in own_layers(session.graph).values():
        outputs = narrow * len(attribute(session.graph, layer.weight))
        if outputs < MOST_OUTPUTS:
            found += Work(solves=EIGENVALUES * outputs**3, calls=CALLS_A_FIT)
    return found


def moments_work(session: Session, batches: Sequence[Planned]) -> Work:
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


def selection_work(session: Session, aware: bool) -> Work:
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


def folds_work(session: Session, narrow: float) -> Work:
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


def fits_work(
    session: Session, parts: Sequence[Shared], narrow: float, ridges: int, aimed: bool = False
) -> Work:
    """Refits of every layer on these parts of the examples.

    Args:
        narrow: widths as a share of the original's.
        ridges: that are compared.
        aimed: whether another fit follows where the activation behind a layer is flat somewhere.
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
        twice = aimed and flat_behind(layer) is not None
        if twice:
            again_rows, again = (
                own.times(count) for own in _fit_again(rows, features, outputs / count)
            )
            rowwise, system = rowwise + again_rows, system + again
        added = count * leaves * features * (features / 2 + outputs / count)
        calls = CALLS_A_FIT * (1 + ridges + twice)
        calls += (1 + twice) * (CALLS_A_READING * len(mine) + CALLS_A_SUM * leaves)
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


def _fit_again(rows: float, features: float, outputs: float) -> tuple[Work, Work]:
    """A fit of one group of one layer to other targets, likewise; none from fewer rows than
    features (`fit.aims`).
    """
    if rows < features:
        return Work(), Work()
    products = Work(
        products=4 * rows * features * outputs, moved=COPIES * rows * (features + outputs)
    )
    return products, Work(solves=features**3 / 3 + 2 * features**2 * outputs)
