"""How the channels of a group are put in order of removal: one function and one entry a selector.

A selector takes a `GroupStatistics` and gives a `Ranking`. To add one, write the function and name
it in `SELECTORS`, together with what it needs to know.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.moments import InputMoments, Site
from fxprune.graph.nodes import attribute
from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.linalg import selection
from fxprune.linalg.interpolation import precision_of, ridge_for
from fxprune.linalg.selection import Reader, Removal
from fxprune.profile.readers import readers

ENOUGH = 2
"""Observations per channel from which dependent channels are looked for.

From fewer rows than columns every channel looks like a combination of the others.
"""
DEPENDENT = 3.0
"""Relative errors, in units of the moments' precision, that count as none."""
ROUNDS = 64
"""Updates of the moments while a group is ordered, about: more channels than that go together."""


@dataclass(frozen=True)
class GroupStatistics:
    """What is known of one channel group.

    Attributes:
        module: the captured graph.
        analysis: of that graph.
        group: whose channels are to be ordered.
        moments: of what consumers read; empty where the selector does not read them.
        sensitivities: of the model's output to the consumers'; None where there are none.
        dtype: of the activations.
    """

    module: GraphModule
    analysis: Analysis
    group: ChannelGroup
    moments: Mapping[Site, InputMoments]
    sensitivities: Mapping[Site, Tensor] | None
    dtype: torch.dtype

    @property
    def blocks(self) -> np.ndarray:
        """(blocks, width): the channels, numbered within the group."""
        return np.arange(self.group.channels).reshape(self.group.blocks.shape)

    @cached_property
    def readers(self) -> list[Reader]:
        """The group's consumers; each one's error counts relative to its own output."""
        return readers(self.module, self.analysis, self.group, self.moments)

    @property
    def observations(self) -> int:
        """Rows that the least observed consumer has seen."""
        sites = {(c.parameter, c.axis) for c in self.group.consumers} & set(self.moments)
        return min(sum(self.moments[site].rows) for site in sites)


@dataclass(frozen=True)
class Ranking:
    """A group's channels in order of removal.

    Attributes:
        removal: the order, numbered as in `GroupStatistics.blocks`, and the error at every width.
        scores: (width,) of the reference method; None where the errors serve.
        free: channels per block that cost nothing, first in the order.
    """

    removal: Removal
    scores: np.ndarray | None = None
    free: int = 0


def output_aware(statistics: GroupStatistics) -> Ranking:
    """Remove, one after another, what changes the model's output least (docs/decisions/0009).

    Dependent channels go first. They are judged by each consumer's own error: sensitivities from
    few examples are zero in some directions by chance.
    """
    group, blocks, own = statistics.group, statistics.blocks, statistics.readers
    observations, channels = statistics.observations, max(len(r.gram) for r in own)
    free = blocks[:, :0]
    if observations >= ENOUGH * channels:
        precision = precision_of(statistics.dtype)
        free = selection.dependent(own, blocks, precision, DEPENDENT * precision)
    weighed = own
    if statistics.sensitivities is not None:
        weighed = readers(
            statistics.module,
            statistics.analysis,
            group,
            statistics.moments,
            statistics.sensitivities,
        )
    ridge = ridge_for(channels, observations, statistics.dtype)
    together = max(1, group.width // ROUNDS)
    removal = selection.output_aware(weighed, blocks, ridge, together, free)
    return Ranking(removal, free=free.shape[1])


def pivoted_qr(statistics: GroupStatistics) -> Ranking:
    """Keep what column-pivoted QR of the consumers' inputs picks first (Chee et al. 2022)."""
    count = statistics.group.channels
    whole = [r for r in statistics.readers if (r.columns >= 0).all()]
    if whole:
        gram = sum((r.gram[np.ix_(r.columns, r.columns)] for r in whole), np.zeros(()))
    else:
        energies = (_energies(r, count) for r in statistics.readers)
        gram = np.diag(sum(energies, np.zeros(count)))
    removal, scores = selection.pivoted_removal(
        np.asarray(gram), np.arange(count), statistics.blocks
    )
    return Ranking(removal, scores)


def _energies(reader: Reader, count: int) -> np.ndarray:
    """Energy of each of so many channels in one reader, zero where it does not read it."""
    result = np.zeros(count)
    read = reader.columns >= 0
    result[read] = np.diag(reader.gram)[reader.columns[read]]
    return result


def magnitude(statistics: GroupStatistics) -> Ranking:
    """Smallest producing weights first; the error is their share of the squared norm."""
    norms, blocks = weight_norms(statistics), statistics.blocks
    order = np.take_along_axis(blocks, np.argsort(norms[blocks], axis=1, kind="stable"), 1)
    spent = norms[order].sum(0)
    total = max(float(norms.sum()), np.finfo(float).tiny)
    return Ranking(Removal(order, np.concatenate([[0.0], np.cumsum(spent)[:-1]]) / total))


def weight_norms(statistics: GroupStatistics) -> np.ndarray:
    """Squared norm of each channel's producing weights, (channels,)."""
    group = statistics.group
    place = {channel: i for i, channel in enumerate(group.blocks.reshape(-1).tolist())}
    norms = np.zeros(len(place))
    for name, axis in group.members:
        weight = attribute(statistics.module, name).detach()
        ids = statistics.analysis.axes[name, axis]
        if weight.dim() < 2 or ids.ndim != 1:
            continue
        rows = weight.double().movedim(axis, 0).reshape(len(ids), -1)
        for channel, energy in zip(ids.tolist(), rows.square().sum(1).tolist(), strict=True):
            if channel in place:
                norms[place[channel]] += energy
    return norms


@dataclass(frozen=True)
class Selector:
    """A way to order channels, and what it needs.

    Attributes:
        rank: orders the channels of a group.
        moments: whether it reads second moments of the consumers' inputs.
        sensitivities: whether it reads sensitivities of the model's output.
    """

    rank: Callable[[GroupStatistics], Ranking]
    moments: bool
    sensitivities: bool


SELECTORS: Mapping[str, Selector] = {
    "output-aware": Selector(output_aware, moments=True, sensitivities=True),
    "pivoted-qr": Selector(pivoted_qr, moments=True, sensitivities=False),
    "magnitude": Selector(magnitude, moments=False, sensitivities=False),
}
"""By the name that `selector=` takes."""
