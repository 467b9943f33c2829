"""What the calibration examples say about a graph whose channel groups were rotated: what they say
about the original, in the new coordinates. Nothing is observed a second time.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.moments import InputMoments, MomentsOnDemand, Site
from fxprune.calibrate.observe import at_inputs
from fxprune.calibrate.recording import Chunk, Recording
from fxprune.calibrate.strata import Stratum
from fxprune.label.groups import ChannelGroup
from fxprune.label.layers import own_layers
from fxprune.label.turning import Turning, turn
from fxprune.linalg.interpolation import precision_of, ridge_for
from fxprune.linalg.rotation import dropping_errors
from fxprune.linalg.selection import removal_errors
from fxprune.passes import Rotate
from fxprune.plans.plan import Rotation
from fxprune.profile.bases import Found, find_bases
from fxprune.profile.readers import readers
from fxprune.profile.recalled import Observed
from fxprune.profile.removal import Profile
from fxprune.profile.selectors import DEPENDENT, ENOUGH, ROUNDS
from fxprune.profile.statistics import Statistics
from fxprune.verify.outputs import floating, squared_error

COMPARED, ROUNDING = 8, 10.0
"""Examples on which a rotated graph is compared, and how far it may be off, in units of the square
root of the dtype's precision.
"""
INEXACT = "channels are not rotated: the outputs would change by more than rounding"


@dataclass(frozen=True)
class RotatedStatistics(Statistics):
    """Statistics of a graph in new coordinates.

    Attributes:
        source: those of the original.
        found: the bases.
    """

    source: Statistics | None = None
    found: Found = Found({}, {}, {})

    @property
    def original(self) -> Statistics:
        """Those of the original."""
        assert self.source is not None
        return self.source

    @cached_property
    def turning(self) -> Turning:
        """The bases, and where the groups have their channels."""
        return Turning(self.analysis, self.found.bases)

    @property
    def rotations(self) -> dict[str, Rotation]:
        """The groups that are rotated, as a plan notes them."""
        axes = self.turning.axes.items()
        return {
            name: Rotation(
                basis.digest,
                tuple(key for key, own in axes if any(g.name == name for g in own)),
                self._norm(name),
            )
            for name, basis in self.found.bases.items()
        }

    def _norm(self, name: str) -> str:
        """Which norm of the original's class reads a stream. Where it takes the mean away, that is
        the last coordinate, of the stream or behind those that are rotated.
        """
        if name not in self.centered:
            return ""
        (group,) = (group for group in self.analysis.groups if group.name == name)
        beside = any(self.analysis.axes[m].size > group.channels for m in group.members)
        return "layer" if self.centered[name] or beside else "rms"

    @cached_property
    def observed(self) -> Observed:
        """Second moments and recorded outputs in the new coordinates."""
        seen = self.original.observed
        moments, every = (
            MomentsOnDemand(known, partial(self._turn_moments, known))
            for known in (seen.moments, seen.all_moments)
        )
        return Observed(moments, every, self._turn_recording(seen.recording))

    @cached_property
    def alone(self) -> Recording:
        """Likewise of what trials read."""
        return self._turn_recording(self.original.alone)

    @cached_property
    def sensitivities(self) -> dict[Site, Tensor]:
        """Of the same outputs, which have other coordinates now."""
        known = self.original.sensitivities
        settle = self.calibration.store.settle
        turned = (
            (site, metric, self._turn_metric(site[0], metric)) for site, metric in known.items()
        )
        return {site: new if new is metric else settle(new) for site, metric, new in turned}

    def _profiles(self, selector: str) -> list[Profile]:
        profiles = super()._profiles(selector)
        if selector != "output-aware":
            return profiles
        return [
            self._profile_once(group) if group.name in self.found.bases else profile
            for group, profile in zip(self.analysis.groups, profiles, strict=True)
        ]

    def _profile_once(self, group: ChannelGroup) -> Profile:
        return self.journal.step(
            f"profile rotated {group.name}",
            (self.rotations,),
            Profile,
            lambda: self._profile(group),
        )

    def _profile(self, group: ChannelGroup) -> Profile:
        """The last coordinates go first; what that costs readers, once what remains stands in for
        them, and products.
        """
        moments, dtype = self.observed.all_moments, next(self.graph.parameters()).dtype
        order = np.arange(group.channels).reshape(group.blocks.shape)[:, ::-1]
        errors, free = np.array(self.found.products[group.name]), 0
        own = readers(self.graph, self.analysis, group, moments)
        if own:
            sites = {(c.parameter, c.axis) for c in group.consumers} & set(moments)
            seen = min(sum(moments[site].rows) for site in sites)
            channels = max(len(reader.gram) for reader in own)
            together = max(1, group.width // ROUNDS)
            weighed = readers(self.graph, self.analysis, group, moments, self.sensitivities or None)
            ridge, precision = ridge_for(channels, seen, dtype), precision_of(dtype)
            if group.name in self.centered:
                errors = errors + dropping_errors(weighed)
            else:
                errors = errors + removal_errors(weighed, order, ridge, together)
            if seen >= ENOUGH * channels and not self.found.products[group.name].any():
                exact = removal_errors(own, order, precision, together)
                free = int((exact[1:] <= DEPENDENT * precision).sum())
        return Profile(group.blocks[:, ::-1], errors, errors, free)

    def _turn_moments(self, known: Mapping[Site, InputMoments], site: Site) -> InputMoments:
        own = known[site]
        grams = [
            self._turn_gram(gram, stratum)
            for gram, stratum in zip(own.grams, own.strata, strict=True)
        ]
        return replace(own, grams=tuple(grams))

    def _turn_gram(self, gram: np.ndarray, stratum: Stratum) -> np.ndarray:
        tensor = torch.from_numpy(gram)
        for group in self.analysis.groups:
            if group.name in self.found.bases and np.isin(stratum.keys, group.blocks).any():
                matrices = [torch.from_numpy(m) for m in self.found.bases[group.name].left]
                for view in ((-1, 1), (1, -1)):
                    tensor = turn(tensor, stratum.keys.reshape(view), group.blocks, matrices)
        return np.ascontiguousarray(tensor.numpy())

    def _turn_metric(self, weight: str, metric: Tensor) -> Tensor:
        """What output errors of a layer cost; multiples of the identity stay what they are."""
        ids = self.analysis.axes.get((weight, 0))
        if ids is None or ids.ndim != 1 or len(metric) != len(ids):
            return metric
        for dim in (0, 1):
            metric = self.turning.turn(metric, (weight, 0), dim, inverse=True)
        return metric

    def _turn_recording(self, recording: Recording) -> Recording:
        turned = copy.copy(recording)
        turned._module = self.graph
        weights = {
            call.name: layer.weight
            for layer in own_layers(self.graph).values()
            for call in layer.calls
            if (layer.weight, 0) in self.turning.axes
        }
        turned.chunks = [self._turn_chunk(recording, chunk, weights) for chunk in recording.chunks]
        return turned

    def _turn_chunk(self, recording: Recording, chunk: Chunk, weights: Mapping[str, str]) -> Chunk:
        samples = dict(chunk.samples)
        for call, weight in weights.items():
            if call in samples:
                _, targets = recording.sample(chunk, call)
                new = self.turning.turn(targets, (weight, 0), 1)
                samples[call] = samples[call][0], recording.store.put(new)
        return replace(chunk, samples=samples)


def rotate_statistics(
    statistics: Statistics, names: Iterable[str] | None = None
) -> RotatedStatistics | None:
    """The graph of the statistics with every channel group rotated that may be, and what is known
    of it; None where there is none.

    Args:
        statistics: of the original.
        names: of the groups, those of them that may be; all by default.
    """
    analysis, streams = statistics.marked, statistics.centered
    wanted = [name for name in analysis.rotatable if names is None or name in set(names)]
    if not wanted:
        return None
    found = statistics.journal.step(
        "bases", wanted, Found, lambda: find_bases(statistics, analysis, wanted)
    )
    if not found.bases or not streams.keys() <= found.bases.keys():
        return None
    with statistics.journal.station("rewrite"):
        graph = Rotate(analysis, found.bases, shared=True)(statistics.graph).graph_module
    if not exact(statistics, graph):
        return None
    own = {field.name: getattr(statistics, field.name) for field in fields(Statistics)}
    own |= {"graph": graph, "analysis": analysis}
    return RotatedStatistics(**own, source=statistics, found=found)


@torch.no_grad()
def exact(statistics: Statistics, graph: GraphModule) -> bool:
    """Whether another graph gives what that of the statistics gives, to rounding, on a few
    examples; noted where it does not.
    """
    precision = torch.finfo(next(graph.parameters()).dtype).eps
    for batch in statistics.batches(statistics.split.first(COMPARED)):
        before, after = (
            floating(at_inputs(g)(*batch.args, **batch.kwargs)) for g in (statistics.graph, graph)
        )
        for name, reference in before.items():
            error, energy = squared_error(reference, after[name])
            if not error <= ROUNDING**2 * precision * energy:
                statistics.journal.note(INEXACT)
                return False
    return True
