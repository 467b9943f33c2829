"""Sums over a layer's sampled rows, from which it is fitted."""

from dataclasses import dataclass

from torch import Tensor

from fxprune.fit.execution import Execution
from fxprune.fit.plateaus import Plateaus
from fxprune.fit.reduction import Reduction
from fxprune.fit.rows import read_features, split_groups
from fxprune.fit.samples import sample_rows
from fxprune.graph.convolution import bias_of, groups
from fxprune.label.layers import Layer
from fxprune.linalg.refit import PANEL_ENTRIES
from fxprune.linalg.regression_sums import RegressionAccumulator, RegressionSums, sums_of
from fxprune.linalg.tree_sum import Terms


@dataclass(frozen=True)
class RowMoments:
    """Sums over a layer's sampled rows: what reaches it, and what the original layer gave.

    Attributes:
        fitting: of the rows to fit.
        validation: of the rows on which the ridge is chosen.
    """

    fitting: RegressionSums
    validation: RegressionSums

    def outputs(self, weight: Tensor, both: bool) -> tuple[Tensor, Tensor]:
        """Covariance and mean of what a weight makes of the rows that are fitted: of both, or of
        the former alone.
        """
        return (self.fitting + self.validation if both else self.fitting).outputs(weight)


def sum_rows(layer: Layer, execution: Execution) -> RowMoments | None:
    """Sum a layer's sampled rows over all of its calls and all chunks, those apart on which a ridge
    is chosen.

    Args:
        layer: of the original graph.
        execution: has run up to the layer's inputs.

    Returns:
        None where outputs cannot be matched to the original's, or no rows are there; and on all
        ranks but the first.
    """
    reduction = execution.reduction
    weight = reduction.tensor(layer.weight)
    count = groups(reduction.reduced_nodes[layer.node.name])
    fixed = fixed_bias(layer, reduction)
    kept = [reduction.kept(call) for call in layer.calls]
    known = [one for one in kept if one is not None]
    if len(known) < len(kept):
        return None
    shared = execution.recording.sums
    # As many as wait in a tree may be several times what is known of the layer itself.
    settle = execution.recording.store.settle if weight.numel() > PANEL_ENTRIES else None
    sums = {role: RegressionAccumulator(shared.tree(settle)) for role in (False, True)}
    # Chunk after chunk, as the sums are added.
    sampled = (
        sample_rows(layer, call, own, execution)
        for call, own in zip(layer.calls, known, strict=True)
    )
    for samples in zip(*sampled, strict=True):
        for call, (rows, x) in zip(layer.calls, samples, strict=True):
            target = rows.target if fixed is None else rows.target - fixed.to(rows.target.device)
            for validates, mask in rows.roles(execution.everywhere):
                if len(target[mask]):
                    features = read_features(call, x, weight.shape[2:], rows.at[:, mask])
                    sums[validates].add(
                        split_groups(features, count),
                        split_groups(target[mask], count),
                        rows.chunk.leaf,
                    )
    for part in sums.values():
        part.close()
    trees = [part.tree for part in sums.values()]
    totals = [
        None if terms is None else sums_of([term.to(execution.where(weight)) for term in terms])
        for terms in shared.group.total(trees, "products", everywhere=False)
    ]
    fitting, validation = totals
    if fitting is None or validation is None:
        return None
    return RowMoments(fitting, validation)


def sum_aims(
    layer: Layer,
    execution: Execution,
    plateaus: Plateaus,
    weight: Tensor,
    shift: Tensor,
) -> Terms | None:
    """Sums of a layer's aims, and of what it reads times them, over all its sampled rows.

    Args:
        layer: of the original graph, of one call.
        execution: has run up to the layer's inputs.
        plateaus: behind the layer.
        weight: of the last fit, (g, o, f).
        shift: (g, o) that it adds.

    Returns:
        (g, o) and (g, f, o) float64; None on all ranks but the first.
    """
    (call,), reduction = layer.calls, execution.reduction
    kept, kernel = reduction.kept(call), reduction.tensor(layer.weight).shape[2:]
    assert kept is not None  # it has been fitted
    shared, fixed = execution.recording.sums, fixed_bias(layer, reduction)
    tree = shared.tree()
    for rows, x in sample_rows(layer, call, kept, execution):
        if len(rows.target):
            target = rows.target if fixed is None else rows.target - fixed.to(rows.target.device)
            features = split_groups(read_features(call, x, kernel, rows.at), len(weight))
            features = features.float() if features.element_size() < 4 else features
            given = features @ weight.to(features).mT + shift.to(features)[:, None]
            flat = given.movedim(0, 1).flatten(1)
            aims = split_groups(plateaus.nearest(target.to(flat), flat), len(weight))
            terms = [term.to(execution.where(weight)) for term in _sums(features, aims)]
            tree.add(rows.chunk.leaf, terms)
    (total,) = shared.group.total([tree], "products", everywhere=False)
    return total


def _sums(features: Tensor, aims: Tensor) -> Terms:
    """Of (g, r, f) features and (g, r, o) aims: the latter's, and that of the products of both."""
    return [aims.double().sum(1), (features.mT @ aims).double()]


def current_bias(layer: Layer, reduction: Reduction) -> Tensor | None:
    """The bias as it stands, shared with another call or not."""
    name = bias_of(layer.node)
    return reduction.tensor(name) if name else None


def fixed_bias(layer: Layer, reduction: Reduction) -> Tensor | None:
    """What a layer adds to its outputs and is not fitted; None for nothing."""
    return current_bias(layer, reduction) if layer.bias is None else None
