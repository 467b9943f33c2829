"""In which basis the channels of a rotatable group are to be kept or dropped.

Values, and whatever weights read, get the nested basis of the consumers' second moments and
metrics; queries and keys the balanced pair of their own moments and of what an error in them
costs, which is the logits' error in the metric of the model's output.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.label.layers import own_layers
from fxprune.label.turning import Basis, fibers
from fxprune.linalg.rotation import balanced_pair, nested_basis, stream_basis
from fxprune.linalg.selection import Reader
from fxprune.profile.readers import readers
from fxprune.profile.statistics import Statistics

NOT_FINITE = "what its errors cost is not finite"
NOT_A_LAYER = "what makes its queries and keys is no layer of its own, whose outputs are observed"


@dataclass(frozen=True, eq=False)
class Found:
    """Bases and what is known of them.

    Attributes:
        bases: by the name of the group.
        products: by group, what dropping 0, 1, ... of the last channels costs in those of its
            blocks that are contracted with each other, (width,).
        reasons: by group, why there is no basis though its channels may be mixed.
    """

    bases: Mapping[str, Basis]
    products: Mapping[str, np.ndarray]
    reasons: Mapping[str, str]


def find_bases(statistics: Statistics, analysis: Analysis, names: Iterable[str]) -> Found:
    """The bases of groups that may be rotated.

    Args:
        statistics: of the original.
        analysis: of its graph.
        names: of the groups.
    """
    wanted, layers = set(names), _Layers(statistics, analysis)
    bases, products, reasons = {}, {}, {}
    for group in analysis.groups:
        if group.name not in wanted:
            continue
        own = readers(
            statistics.graph,
            analysis,
            group,
            statistics.observed.all_moments,
            statistics.sensitivities or None,
        )
        blocks = [
            _read(own, places, statistics.centered.get(group.name)) or layers.product(block)
            for block, places in zip(group.blocks, _numbered(group), strict=True)
        ]
        found = [block for block in blocks if block is not None]
        if len(found) < len(blocks):
            reasons[group.name] = NOT_A_LAYER
            continue
        if not all(np.isfinite(block.left).all() for block in found):
            reasons[group.name] = NOT_FINITE
            continue
        bases[group.name] = Basis(
            np.stack([b.left for b in found]), np.stack([b.right for b in found])
        )
        products[group.name] = sum((b.spent for b in found), np.zeros(group.width))
    return Found(bases, products, reasons)


@dataclass(frozen=True, eq=False)
class _Block:
    """Coordinates of one block, and what dropping the last costs where no reader tells."""

    left: np.ndarray
    right: np.ndarray
    spent: np.ndarray


def _numbered(group: ChannelGroup) -> np.ndarray:
    return np.arange(group.channels).reshape(group.blocks.shape)


def _read(own: list[Reader], places: np.ndarray, centered: bool | None) -> _Block | None:
    """Of channels that weights read; None where none does.

    Args:
        own: the group's consumers.
        places: (width,) of the block, in the numbering of the readers.
        centered: of channels that are normalized together, whether they have no mean; None for
            others.
    """
    size = len(places)
    gram, metric, read = np.zeros((size, size)), np.zeros((size, size)), False
    for reader in own:
        columns = reader.columns[places]
        if (columns < 0).any():
            continue
        read, at = True, np.ix_(columns, columns)
        scale = reader.worth
        gram += scale * reader.gram[at]
        metric += scale * reader.metric[at]
    if not read:
        return None
    if not (np.isfinite(gram).all() and np.isfinite(metric).all()):
        return _nothing(size)
    if centered is None:
        rows = nested_basis(gram, metric)[0]
    else:
        rows = stream_basis(gram, metric, centered)
    return _Block(rows, rows, np.zeros(size))


def _nothing(size: int) -> _Block:
    """Where moments overflow."""
    nothing = np.full((size, size), np.nan)
    return _Block(nothing, nothing, np.zeros(size))


class _Layers:
    """What layers give, block by block.

    Args:
        statistics: of the original.
        analysis: of its graph.
    """

    def __init__(self, statistics: Statistics, analysis: Analysis):
        self._statistics, self._analysis = statistics, analysis

    def product(self, block: np.ndarray) -> _Block | None:
        """Of channels that a product of two activations sums over; None where no layer makes them.

        The side that fewer vectors stand on is looked at: keys that several queries share have one
        error, not several.
        """
        sides = [self._side(block, number) for number in (0, 1)]
        known = [number for number, side in enumerate(sides) if side is not None]
        if not known:
            return None
        first = min(known, key=lambda number: sides[number].count)  # type: ignore[union-attr]
        side, other = sides[first], sides[1 - first]
        assert side is not None
        metric = side.metric
        if metric is None:
            metric = np.eye(len(block)) if other is None else other.gram
        if not (np.isfinite(side.gram).all() and np.isfinite(metric).all()):
            return _nothing(len(block))
        forward, backward, spent = balanced_pair(side.gram, metric)
        both = (forward, backward) if first == 0 else (backward, forward)
        return _Block(*both, spent if side.metric is not None else spent / max(spent[-1], 1e-300))

    def _side(self, block: np.ndarray, number: int) -> "_Side | None":
        moments, sensitivities = self._statistics.output_moments, self._statistics.sensitivities
        grams, metrics, count = list[np.ndarray](), list[np.ndarray](), 0
        for layer in own_layers(self._statistics.graph).values():
            key = (layer.weight, 0)
            ids = self._analysis.axes.get(key)
            if ids is None or layer.weight not in moments or not np.isin(ids, block).any():
                continue
            side = self._analysis.sides.get(key)
            own = ids if side is None else np.where(side == number, ids, 0)
            if side is None and number == 1:
                continue
            covariance = moments[layer.weight].covariance(centered=False).cpu().numpy()
            sensitivity = sensitivities.get((layer.weight, 1))
            for places in fibers(own, block[None])[0]:
                at, count = np.ix_(places, places), count + 1
                grams.append(covariance[at])
                if sensitivity is not None:
                    whole = len(sensitivity) > 1
                    metrics.append(
                        sensitivity.cpu().numpy()[at]
                        if whole
                        else float(sensitivity) * np.eye(len(at[0]))
                    )
        if not grams:
            return None
        return _Side(np.mean(grams, 0), np.sum(metrics, 0) if metrics else None, count)


@dataclass(frozen=True, eq=False)
class _Side:
    """One factor of a product.

    Attributes:
        gram: mean second moments of its vectors.
        metric: what an error of one of them costs the model's output; None where that is unknown.
        count: how many vectors stand at one position.
    """

    gram: np.ndarray
    metric: np.ndarray | None
    count: int
