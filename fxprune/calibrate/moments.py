"""Station 3: stream calibration batches once and keep only sums."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.observe import Observer, arguments, require_finite
from fxprune.calibrate.strata import Stratum, rows, strata
from fxprune.capture.batch import Batch
from fxprune.errors import CalibrationError
from fxprune.label.groups import Analysis
from fxprune.linalg.gram import second_moment
from fxprune.rules.recorder import Consumer

POSITIONS, POSITIONS_PER_CHANNEL = 25_600, 200
"""Positions in all examples that enter the second moments, at least and per channel; where a batch
has twice its share, they are drawn.
"""


@dataclass(frozen=True)
class Moments:
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

    def __add__(self, other: "Moments") -> "Moments":
        grams = tuple(a + b for a, b in zip(self.grams, other.grams, strict=True))
        rows = tuple(a + b for a, b in zip(self.rows, other.rows, strict=True))
        return Moments(self.strata, grams, rows, self.examples + other.examples)


Site = tuple[str, int]
"""A consumed weight axis: (parameter, axis)."""


def sites(analysis: Analysis) -> dict[Site, list[Consumer]]:
    """Consumed weight axes that hold removable channels, with the calls that read them."""
    found: dict[Site, list[Consumer]] = {}
    for consumer in analysis.consumers:
        site = (consumer.parameter, consumer.axis)
        if (analysis.axes[site] > 0).any():
            found.setdefault(site, []).append(consumer)
    return found


def calibrate(
    module: GraphModule,
    analysis: Analysis,
    batches: Iterable[Batch],
    examples: int,
    watch: Mapping[str, Callable[[Any], None]] = MappingProxyType({}),
    seed: int = 0,
) -> dict[Site, Moments]:
    """Second moments of every consumer's input; memory does not depend on the number of batches.

    Args:
        module: the captured graph.
        analysis: of that graph.
        batches: calibration examples.
        examples: how many there are in all, of which these may be a part.
        watch: who else wants to see nodes' results.
        seed: of the positions that are looked at, where there are many.

    Raises:
        CalibrationError: a layer gives NaN or infinite values; it is named.
    """
    found = sites(analysis)
    keys: dict[tuple[str, int, bytes], list[Stratum]] = {}
    key_of: dict[tuple[Site, int], tuple[str, int, bytes]] = {}
    for site, consumers in found.items():
        ids = analysis.axes[site]
        for number, consumer in enumerate(consumers):
            key = (consumer.source, consumer.dim, ids.shape[:1].__repr__().encode() + ids.tobytes())
            keys.setdefault(key, strata(ids))
            key_of[(site, number)] = key
    grams: dict[tuple[str, int, bytes], list[np.ndarray]] = {}
    counts: dict[tuple[str, int, bytes], list[int]] = {}
    generator = torch.Generator().manual_seed(seed)

    def positions(value: Tensor, dim: int) -> Tensor:
        flat = value.movedim(dim, -1).reshape(-1, value.shape[dim])
        most = math.ceil(max(POSITIONS, POSITIONS_PER_CHANNEL * flat.shape[1]) * size / examples)
        return (
            flat.index_select(
                0, torch.randint(len(flat), (most,), generator=generator).to(flat.device)
            )
            if len(flat) > 2 * most
            else flat
        )

    def summing(source: str) -> Callable[[Tensor], None]:
        read = [(key, parts) for key, parts in keys.items() if key[0] == source]

        def add(value: Tensor) -> None:
            for key, parts in read:
                flat = positions(value, key[1])
                observed = [rows(flat, part) for part in parts]
                moments = [second_moment(x) for x in observed]
                if not all(np.isfinite(m).all() for m in moments):
                    raise _NotFinite
                if key in grams:
                    grams[key] = [a + b for a, b in zip(grams[key], moments, strict=True)]
                    counts[key] = [a + len(x) for a, x in zip(counts[key], observed, strict=True)]
                else:
                    grams[key], counts[key] = moments, [len(x) for x in observed]

        return add

    observer = Observer(
        module, {source: summing(source) for source in {key[0] for key in keys}}, watch
    )
    seen = size = 0
    for batch in batches:
        size = batch.size
        try:
            with torch.no_grad():
                outputs = observer.run(*arguments(module, batch), enable_io_processing=False)
        except _NotFinite:
            require_finite(module, batch)
            raise CalibrationError(
                "Activations are too large for their second moments: they overflow."
            ) from None
        # What went wrong at a position that was not looked at.
        if any(isinstance(t, Tensor) and bool(torch.isnan(t).any()) for t in outputs):
            require_finite(module, batch)
        seen += size
    result = {}
    for site, consumers in found.items():
        own = [key_of[(site, i)] for i in range(len(consumers))]
        total = [sum((grams[k][s] for k in own), np.zeros(())) for s in range(len(keys[own[0]]))]
        rows_seen = tuple(sum(counts[k][s] for k in own) for s in range(len(keys[own[0]])))
        result[site] = Moments(
            tuple(keys[own[0]]), tuple(np.asarray(t) for t in total), rows_seen, seen
        )
    return result


class _NotFinite(Exception):
    """A second moment overflowed or an activation is not finite."""
