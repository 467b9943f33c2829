"""Second moments of what every consumer reads: batches stream through once and only sums stay."""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.batching import Place, seed_of
from fxprune.calibrate.observe import Observer, arguments, require_finite
from fxprune.calibrate.padding import EVERYWHERE, Padding
from fxprune.calibrate.strata import Stratum, rows, strata
from fxprune.capture.batch import Batch
from fxprune.distributed.sums import BY_ITSELF, Sums
from fxprune.errors import CalibrationError
from fxprune.label.groups import Analysis
from fxprune.linalg.gram import second_moment
from fxprune.linalg.tree_sum import Settle, Terms, TreeSum
from fxprune.rules.recorder import Consumer

POSITIONS, POSITIONS_PER_CHANNEL = 25_600, 200
"""Positions in all examples that enter the second moments, at least and per channel.

Where a batch has twice its share of them, they are drawn (docs/decisions/0013, 0014).
"""


@dataclass(frozen=True)
class InputMoments:
    """Second moments of what one consumer weight reads.

    Attributes:
        strata: how its columns belong to channels.
        grams: X^T X per stratum, (n, n) float64.
        rows: observations per stratum.
        examples: calibration examples.
    """

    strata: tuple[Stratum, ...]
    grams: tuple[np.ndarray, ...]
    rows: tuple[int, ...]
    examples: int

    def __add__(self, other: "InputMoments") -> "InputMoments":
        """Of both sets of examples."""
        grams = tuple(a + b for a, b in zip(self.grams, other.grams, strict=True))
        rows = tuple(a + b for a, b in zip(self.rows, other.rows, strict=True))
        return InputMoments(self.strata, grams, rows, self.examples + other.examples)

    def __sub__(self, other: "InputMoments") -> "InputMoments":
        """Of the examples that are not among the other ones."""
        grams = tuple(a - b for a, b in zip(self.grams, other.grams, strict=True))
        rows = tuple(a - b for a, b in zip(self.rows, other.rows, strict=True))
        return InputMoments(self.strata, grams, rows, self.examples - other.examples)


Site = tuple[str, int]
"""A consumed weight axis: (parameter, axis)."""


class MomentsOnDemand(Mapping[Site, InputMoments]):
    """Moments that follow from others, computed when they are asked for, and not held: together
    they may be larger than the model.

    Args:
        known: of which sites.
        compute: gives a site's.
    """

    def __init__(self, known: Iterable[Site], compute: Callable[[Site], InputMoments]):
        self._known, self._compute = dict.fromkeys(known), compute
        self._last: tuple[Site, InputMoments] | None = None

    def __getitem__(self, site: Site) -> InputMoments:
        if self._last is None or self._last[0] != site:
            if site not in self._known:
                raise KeyError(site)
            self._last = None
            self._last = site, self._compute(site)
        return self._last[1]

    def __contains__(self, site: object) -> bool:
        return site in self._known

    def __iter__(self) -> Iterator[Site]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def sites(analysis: Analysis) -> dict[Site, list[Consumer]]:
    """Consumed weight axes that hold removable channels, with the calls that read them."""
    found: dict[Site, list[Consumer]] = {}
    for consumer in analysis.consumers:
        site = (consumer.parameter, consumer.axis)
        if (analysis.axes[site] > 0).any():
            found.setdefault(site, []).append(consumer)
    return found


def collect_moments(
    module: GraphModule,
    analysis: Analysis,
    batches: Iterable[tuple[Place, Batch]],
    examples: int,
    watch: Mapping[str, Callable[[Any], None]] = MappingProxyType({}),
    seed: int = 0,
    padding: Padding = EVERYWHERE,
    sums: Sums = BY_ITSELF,
    settle: Settle | None = None,
) -> dict[Site, InputMoments]:
    """Second moments of every consumer's input; memory does not depend on the number of batches.

    Args:
        module: the captured graph.
        analysis: of that graph.
        batches: calibration examples; those that this rank works on.
        examples: how many there are in all, of which these may be a part.
        watch: who else wants to see nodes' results.
        seed: of the positions that are looked at, where there are many.
        padding: whose positions do not count.
        sums: who works on the others.
        settle: finds a place for sums; without it they are in memory.

    Raises:
        StorageError: the disk is full.
        CalibrationError: a layer gives NaN or infinite values; it is named.
    """
    collector = _Collector(analysis, examples, seed, padding, sums, settle)
    observer = Observer(module, collector.watch, watch)
    for place, batch in batches:
        collector.start(place, batch)
        _observe(module, observer, batch)
    return collector.moments()


@torch.no_grad()
def _observe(module: GraphModule, observer: Observer, batch: Batch) -> None:
    """Run the graph on a batch; what is not finite is an error that names the layer."""
    try:
        outputs = observer.run(*arguments(module, batch), enable_io_processing=False)
    except _NotFinite:
        require_finite(module, batch)
        raise CalibrationError(
            "Activations are too large for their second moments: they overflow."
        ) from None
    # What went wrong at a position that was not looked at.
    if any(isinstance(t, Tensor) and bool(torch.isnan(t).any()) for t in outputs):
        require_finite(module, batch)


class _NotFinite(Exception):
    """A second moment overflowed or an activation is not finite."""


class _Reading:
    """Sums over one way of reading a node's result: which axis, and whose channels lie along it.

    Args:
        dim: the axis that is read.
        first: where the columns begin along it.
        ids: (size,) channel id of every column, or (groups, size).
        sum: of the numbers of rows of all strata, and of every stratum's gram.
    """

    def __init__(self, dim: int, first: int, ids: np.ndarray, sum: TreeSum):
        self.dim, self.strata, self.sum = dim, tuple(strata(ids)), sum
        self._own = slice(first, first + ids.size)

    def add(self, flat: Tensor, leaf: int) -> None:
        """Count (positions, columns) of the node's result."""
        flat, moments, counts = flat[:, self._own], list[Tensor](), list[int]()
        for stratum in self.strata:
            observed = rows(flat, stratum)
            moment = second_moment(observed)
            if not np.isfinite(moment).all():
                raise _NotFinite
            moments.append(torch.from_numpy(moment))
            counts.append(len(observed))
        self.sum.add(leaf, [torch.tensor(counts), *moments])

    def moments(self, total: Terms | None) -> InputMoments:
        """Of everything, whose examples somebody else counts; the sums themselves: weights that
        read the same have the same ones.
        """
        if total is None:
            grams = tuple(np.zeros((len(s.keys), len(s.keys))) for s in self.strata)
            return InputMoments(self.strata, grams, (0,) * len(self.strata), examples=0)
        counts, *moments = total
        grams = tuple(moment.numpy() for moment in moments)
        return InputMoments(self.strata, grams, tuple(counts.tolist()), examples=0)


class _Collector:
    """Keeps the sums of every reading up to date while the graph runs.

    Consumers that read the same result in the same way share one reading.

    Args:
        analysis: of the graph.
        examples: how many there will be in all.
        seed: of the choice of positions.
        padding: whose positions do not count.
        sums: who works on which examples.
        settle: finds a place for sums.
    """

    def __init__(
        self,
        analysis: Analysis,
        examples: int,
        seed: int,
        padding: Padding,
        sums: Sums,
        settle: Settle | None,
    ):
        self._examples, self._seed, self._batch, self._leaf = examples, seed, 0, 0
        self._generator, self._sums = torch.Generator(), sums
        self._padding = padding
        self._real: Tensor | None = None
        self._seen = sums.tree()
        self._readings: dict[Site, list[_Reading]] = {}
        by_source: dict[str, dict[tuple[Any, ...], _Reading]] = {}
        for site, consumers in sites(analysis).items():
            ids = analysis.axes[site]
            self._readings[site] = []
            for consumer in consumers:
                known = by_source.setdefault(consumer.source, {})
                place = consumer.dim, consumer.first
                way = *place, ids.shape, ids.tobytes()
                if way not in known:
                    known[way] = _Reading(*place, ids, sums.tree(settle))
                self._readings[site].append(known[way])
        self._every = [reading for known in by_source.values() for reading in known.values()]
        self.watch = {
            source: self._adder(source, tuple(known.values()))
            for source, known in by_source.items()
        }

    def start(self, place: Place, batch: Batch) -> None:
        """What is watched from now on belongs to this batch."""
        self._batch, self._real, self._leaf = batch.size, batch.real, place.leaf
        self._generator.manual_seed(seed_of(self._seed, place))
        self._seen.add(place.leaf, [torch.tensor(batch.size)])

    def moments(self) -> dict[Site, InputMoments]:
        """Of everything, summed over the calls of each weight."""
        trees = [self._seen, *(reading.sum for reading in self._every)]
        seen, *found = self._sums.totals(trees, "moments")
        examples = 0 if seen is None else int(seen[0])
        own = {id(r): r.moments(t) for r, t in zip(self._every, found, strict=True)}
        result = {}
        for site, readings in self._readings.items():
            total = functools.reduce(operator.add, (own[id(r)] for r in readings))
            result[site] = replace(total, examples=examples)
        return result

    def _adder(self, source: str, readings: tuple[_Reading, ...]) -> Callable[[Any], None]:
        def add(value: Any) -> None:
            result: Tensor = value[0] if isinstance(value, (tuple, list)) else value
            for reading in readings:
                reading.add(self._positions(source, result, reading.dim), self._leaf)

        return add

    def _positions(self, source: str, value: Tensor, dim: int) -> Tensor:
        """A result as (positions, columns): all that are no padding, or a draw of many."""
        flat = value.movedim(dim, -1).reshape(-1, value.shape[dim])
        real = self._padding.positions(source, value, dim, self._real)
        flat = flat if real is None else flat.index_select(0, real)
        wanted = max(POSITIONS, POSITIONS_PER_CHANNEL * flat.shape[1])
        share = math.ceil(wanted * self._batch / self._examples)
        if len(flat) <= 2 * share:
            return flat
        drawn = torch.randint(len(flat), (share,), generator=self._generator)
        return flat.index_select(0, drawn.to(flat.device))
