"""One model on its way through the stations: what was captured, labeled, split and observed.

Frozen values; what is computed from them is computed once, when it is first asked for.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn
from torch.fx import GraphModule

from fxprune.calibrate.soundness import look_at
from fxprune.calibrate.split import Split, draw_split
from fxprune.capture.export import Captured
from fxprune.capture.supported import check_model
from fxprune.distributed.agreement import require_same
from fxprune.distributed.together import current
from fxprune.errors import UnsupportedError, warn_caller
from fxprune.intake import (
    capture_for,
    cut_to_cache,
    examine_for,
    label_for,
    read_examples,
    share_for_maps,
    tell_found,
)
from fxprune.label.analysis import nothing_to_reduce
from fxprune.label.groups import Analysis, CostTerm
from fxprune.label.named import least_shares
from fxprune.options import Options
from fxprune.profile.costs import CostModel
from fxprune.profile.folding import Streams
from fxprune.profile.rotated import exact, rotate_statistics
from fxprune.profile.statistics import Statistics
from fxprune.profile.streams import on_streams, prepare_streams
from fxprune.progress import Journal
from fxprune.timing.latency_model import fit_call_seconds
from fxprune.timing.latency_probe import LatencyProbe
from fxprune.timing.layer_times import LayerTimes
from fxprune.timing.multiples import choose_multiples
from fxprune.verify.judge import Judge
from fxprune.verify.sampled import padding_of, settle_on

ROTATES = "output-aware"
"""The selector whose errors are known for rotated channels."""
JUDGED_ON = 64
"""Fitting examples whose outputs say what the model decides."""


@dataclass(frozen=True)
class Session:
    """What the stations from allocation on work with.

    Attributes:
        options: what was asked for.
        model: the original, for measurements of time.
        captured: its graph and the example it was traced on.
        analysis: of that graph.
        statistics: of the calibration examples.
        ignored: parameter names that must keep their shape.
        multiple: widths are multiples of this; one number, or one per group.
        floor: (groups,) least share of each group's channels.
        journal: times and notes of the run.
        unrotated: the session of the graph before channel groups of this one's were rotated.
        unfolded: the session of the captured graph, where norms were folded in this one's.
        for_maps: share of the FLOPs that maps for streams may add; nothing where the model takes
            nests, of whose shapes it could not be captured anew (`fxprune.masked`).
    """

    options: Options
    model: nn.Module
    captured: Captured
    analysis: Analysis
    statistics: Statistics
    ignored: Callable[[str], bool]
    multiple: int | list[int]
    floor: np.ndarray
    journal: Journal
    unrotated: "Session | None" = None
    unfolded: "Session | None" = None
    for_maps: float = math.inf

    @property
    def graph(self) -> GraphModule:
        """The captured graph."""
        return self.captured.graph

    @property
    def split(self) -> Split:
        """What the calibration examples are for."""
        return self.statistics.split

    def using(self, **changes: Any) -> "Session":
        """The same model and statistics under other options."""
        return replace(self, options=replace(self.options, **changes))

    def with_analysis(
        self, analysis: Analysis, ignored: Callable[[str], bool] | None = None
    ) -> "Session":
        """The same model with other groups, before anything was observed.

        Args:
            analysis: of the same graph.
            ignored: parameter names that must keep their shape; by default as before.
        """
        own = self.ignored if ignored is None else ignored
        return replace(
            self,
            analysis=analysis,
            statistics=replace(self.statistics, analysis=analysis, ignored=own),
            ignored=own,
            multiple=_multiple(analysis, self.model, self.options),
            floor=least_shares(self.model, analysis, self.options.keep or {}),
        )

    @property
    def _rotates(self) -> bool:
        options = self.options
        tries = options.method.rotation and options.effort > 1
        return tries and options.chosen_selector == ROTATES

    @property
    def may_rotate(self) -> bool:
        """Whether plans with rotated channels are tried beside those without."""
        return self._rotates and bool(self.statistics.marked.rotatable)

    @property
    def may_rotate_streams(self) -> bool:
        """Whether plans with rotated streams are tried beside those without: where latency is not
        measured, and the result is neither of the caller's class nor of widths that are equal.
        """
        options = self.options
        whole = options.keep_class or options.uniform_across or options.timed
        tries = self._rotates and options.method.streams
        return tries and not whole and bool(self.streams.centered)

    @cached_property
    def streams(self) -> Streams:
        """Which streams may be rotated once their norms are folded, and why others may not."""
        with self.journal.station("label"):
            return prepare_streams(self.graph, self.analysis, self.ignored, self.for_maps)

    @property
    def norms(self) -> Streams:
        """What became of the norms in this one's graph: nothing in the captured one."""
        return Streams() if self.unfolded is None else self.unfolded.streams

    @cached_property
    def rotated(self) -> "Session | None":
        """The same model with every channel group rotated that may be; None where none is."""
        return self.rotate()

    def rotate(self, names: Iterable[str] | None = None) -> "Session | None":
        """Likewise, with these groups rotated, those of them that may be."""
        turned = rotate_statistics(self.statistics, names)
        if turned is None:
            return None
        captured = replace(self.captured, graph=turned.graph)
        return replace(self, captured=captured, statistics=turned, unrotated=self)

    @cached_property
    def with_streams(self) -> "Session | None":
        """Likewise, with every stream rotated too, its norms folded; None where none is."""
        return self.rotate_streams()

    def rotate_streams(self, names: Iterable[str] | None = None) -> "Session | None":
        """The same with these streams and groups rotated, those of them that may be."""
        found = self.streams
        if found.graph is None or found.analysis is None or not exact(self.statistics, found.graph):
            return None
        own = self.with_analysis(found.analysis)
        captured = replace(self.captured, graph=found.graph)
        statistics = on_streams(own.statistics, found)
        own = replace(own, captured=captured, statistics=statistics, unfolded=self)
        return own.rotate(names)

    @cached_property
    def judge(self) -> Judge | None:
        """When two outputs are the same decision, settled on a few fitting examples; None where no
        example is held out to compare on.

        Raises:
            UnsupportedError: an agreement is to be certified, and it is open what the model
                decides; or the caller's decision does not suit the output.
        """
        if not self.split.held_out.any():
            return None
        batches = self.statistics.batches(self.split.first(JUDGED_ON))
        judge = settle_on(self.graph, batches, self.options.decision)
        if judge.question:
            if self.options.budget.agreement is not None:
                raise UnsupportedError(judge.question)
            warn_caller(f"{judge.question} Until then it is: {judge}.")
        self.journal.decide("decision: %s", judge)
        for note in (*judge.notes, judge.question.rstrip(".")):
            if note:
                self.journal.note(note)
        return judge

    def settle_decision(self) -> None:
        """Settle `judge` now: what the caller has to say is asked before any long work."""
        _ = self.judge

    @cached_property
    def latency_probe(self) -> LatencyProbe:
        """Whole graphs measured against the original."""
        with self.journal.station("measure"):
            return LatencyProbe(self.model, self.captured.example, self.options.workload)

    def measure(self, widths: np.ndarray) -> float:
        """Time of the graph with these widths over the original's, on the first rank's machine."""
        return self.statistics.group.first(
            lambda: self.latency_probe.ratio_at(self.graph, self.analysis, widths), "latency"
        )

    def _time_calls(self) -> tuple[CostTerm, ...]:
        probe, multiple = self.latency_probe, np.asarray(self.multiple)
        known, table = self.captured, LayerTimes(probe.device, self.options.workload)
        return fit_call_seconds(self.graph, self.analysis, known.example, probe, multiple, table)

    @cached_property
    def costs(self) -> CostModel:
        """FLOPs, parameters, and latency where it is limited; layers are timed once."""
        if self.unrotated is not None:
            return self.unrotated.costs
        own = self.captured.original.parameters
        if self.options.budget.latency is None:
            flops = None if self.unfolded is None else self.unfolded.costs.total("flops")
            return CostModel(self.graph, self.analysis, parameters=own, flops=flops)
        with self.journal.station("measure"):
            seconds = self.statistics.group.first(self._time_calls, "latency")
        return CostModel(self.graph, self.analysis, seconds, own)


def open_session(
    model: nn.Module,
    loader: Any,
    options: Options,
    journal: Journal,
    channels: bool | None = None,
) -> Session:
    """Capture, label, and split the calibration examples.

    Args:
        model: the caller's; not changed.
        loader: its calibration data.
        options: what was asked for.
        journal: of the call.
        channels: whether channels may go; by default where the method takes any. A model without
            a channel group is an error then.

    Raises:
        CaptureError, UnsupportedError, CalibrationError, BudgetError, PlanError: each says where,
            what, why and what to do.
        StorageError: the steps are of another run.
    """
    check_model(model)
    group = current()
    require_same(group, model, options)
    calibration = read_examples(model, loader, options, journal, group)
    split = draw_split(calibration.groups, options.budget, options.seed)
    with journal.station("capture"):
        captured = capture_for(model, calibration, options, journal.steps)
        notes, compare_features = examine_for(captured, model, calibration, options)
    for text in (*captured.notes, *calibration.notes(split.held_out), *notes):
        journal.note(text)
    analysis, ignored = label_for(captured, model, options, journal)
    tell_found(journal, split, analysis)
    if not (options.method.widths if channels is None else channels):
        analysis = replace(analysis, groups=(), pinned=())
    elif not analysis.groups:
        raise nothing_to_reduce(analysis)
    cut_to_cache(calibration, captured, analysis)
    known = captured.graph, analysis, calibration, split, options.budget, ignored
    asked = options.seed, options.memory, journal, compare_features
    session = Session(
        options=options,
        model=model,
        captured=captured,
        analysis=analysis,
        statistics=Statistics(*known, *asked, padding_of(captured, options.mask, journal.note)),
        ignored=ignored,
        multiple=_multiple(analysis, model, options),
        floor=least_shares(model, analysis, options.keep or {}),
        journal=journal,
        for_maps=share_for_maps(captured, options),
    )
    look_at(captured.graph, calibration)
    return session


def _multiple(analysis: Analysis, model: nn.Module, options: Options) -> int | list[int]:
    """What widths are multiples of: one number, or what the device likes, one per group."""
    chosen = options.multiple
    return choose_multiples(analysis, model, options.workload) if chosen == "auto" else chosen
