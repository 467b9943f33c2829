"""One model on its way through the stations: what was captured, labeled, split and observed.

Frozen values; what is computed from them is computed once, when it is first asked for.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.moments import InputMoments, Site, collect_moments
from fxprune.calibrate.observe import require_finite
from fxprune.calibrate.recording import VALIDATION, Recording
from fxprune.calibrate.spill import Spill
from fxprune.calibrate.split import FITTED_FIRST, Split, split_examples
from fxprune.capture.batch import Batch, example_batch
from fxprune.capture.export import Captured, capture
from fxprune.capture.supported import check_model
from fxprune.errors import CalibrationWarning, UnsupportedError
from fxprune.label.analysis import activations, analyze_graph, examples_within
from fxprune.label.groups import Analysis
from fxprune.label.layers import factorable
from fxprune.label.named import least_shares, matcher
from fxprune.options import Options
from fxprune.profile.costs import CostModel
from fxprune.profile.output_moments import OutputMoments, output_moments
from fxprune.profile.removal import Profile, profile_groups
from fxprune.profile.selectors import SELECTORS
from fxprune.profile.sensitivity import sensitivities
from fxprune.progress import Advance, Journal
from fxprune.timing.latency_model import fit_call_seconds
from fxprune.timing.latency_probe import LatencyProbe
from fxprune.timing.layer_times import LayerTimes
from fxprune.timing.multiples import choose_multiples

CACHED = 1 << 25
"""Bytes of the largest activation of a batch, on a CPU: more do not fit into its last cache, and
the C library maps them anew for every call (docs/decisions/0014).
"""
PROBED_EXAMPLES = 64
"""Examples whose output is differentiated; each costs about three forward passes
(docs/decisions/0009).
"""
LOOKED_AT = 8
"""Examples on which every layer is checked for values that are not finite, before any work."""


@dataclass(frozen=True)
class Observed:
    """What the original gave on the fitting examples.

    Attributes:
        moments: of every consumer's input, without the validation split: what that validates must
            not have seen it.
        all_moments: with it.
        recording: the layers' and the model's outputs.
    """

    moments: dict[Site, InputMoments]
    all_moments: dict[Site, InputMoments]
    recording: Recording


@dataclass(frozen=True)
class Statistics:
    """What the calibration examples say about a captured graph; each computed once, when asked for.

    Attributes:
        graph, analysis: captured and labeled.
        calibration: the examples.
        split: what they are for.
        ignored: parameter names that must keep their shape.
        seed, memory: as in `Options`.
        journal: of the run.
    """

    graph: GraphModule
    analysis: Analysis
    calibration: Calibration
    split: Split
    ignored: Callable[[str], bool]
    seed: int
    memory: float
    journal: Journal

    def batches(
        self, chosen: np.ndarray, advance: Advance = lambda examples: None
    ) -> Iterator[Batch]:
        """Stream chosen calibration examples, counting those done."""
        for batch in self.calibration.batches(chosen):
            yield batch.channels_last()
            advance(batch.size)

    @cached_property
    def observed(self) -> Observed:
        """The original, run over the fitting examples once (docs/decisions/0010)."""
        split = self.split
        recording = Recording(self.graph, split.fitting, Spill(self.memory), self.seed)

        def stream(parts: tuple[str, ...], advance: Advance) -> Iterator[Batch]:
            for part in parts:
                yield from recording.follow(part, self.batches(split.part(part), advance))

        with self.journal.station("calibrate", split.fitting) as advance:
            moments, validating = (
                collect_moments(
                    self.graph,
                    self.analysis,
                    stream(parts, advance),
                    split.fitting,
                    recording.watch,
                    self.seed,
                )
                for parts in (FITTED_FIRST, (VALIDATION,))
            )
        every = moments
        if split.part(VALIDATION).any():
            every = {site: own + validating[site] for site, own in moments.items()}
        self._warn_if_thin(moments)
        return Observed(moments, every, recording)

    @cached_property
    def output_moments(self) -> dict[str, OutputMoments]:
        """Moments of the outputs of every layer that two could replace, by its weight."""
        recording = self.observed.recording
        with self.journal.station("calibrate"):
            return output_moments(recording, factorable(self.graph, self.ignored)[0])

    @cached_property
    def sensitivities(self) -> dict[str, Tensor]:
        """What output errors of every consumer cost the model's output, by its weight.

        Empty, with a note, where the model has no derivative.
        """
        chosen = self.split.first(PROBED_EXAMPLES)
        with self.journal.station("calibrate", int(chosen.sum())) as advance:
            try:
                batches = self.batches(chosen, advance)
                return sensitivities(self.graph, self.analysis, batches, self.seed, self.memory)
            except (RuntimeError, NotImplementedError) as error:
                reason = str(error).partition("\n")[0]
                self.journal.notes.append(
                    f"The model has no derivative ({reason}): channels are chosen by each layer's "
                    "own error"
                )
                return {}

    @cached_property
    def profiles(self) -> Callable[[str], list[Profile]]:
        """Every channel group's removal order and errors, by the selector's name."""
        return cache(self._profiles)

    def _profiles(self, selector: str) -> list[Profile]:
        reads = SELECTORS[selector]
        moments = self.observed.all_moments if reads.moments else {}
        weighed = self.sensitivities if reads.sensitivities else {}
        with self.journal.station("profile", len(self.analysis.groups)) as advance:
            dtype = next(self.graph.parameters()).dtype
            return profile_groups(
                self.graph, self.analysis, moments, selector, dtype, weighed or None, advance
            )

    def _warn_if_thin(self, moments: dict[Site, InputMoments]) -> None:
        thin = [
            (site[0], len(gram), seen)
            for site, own in moments.items()
            for gram, seen in zip(own.grams, own.rows, strict=True)
            if seen < len(gram)
        ]
        if not thin:
            return
        name, channels, seen = max(thin, key=lambda t: t[1] / t[2])
        needed = -(-channels * self.split.fitting // max(seen, 1))
        text = (
            f"{len(thin)} layers read more channels than the calibration data gives observations; "
            f"the worst is {name} with {channels} channels and {seen} observations. Give at least "
            f"{needed} examples for a sharper fit."
        )
        self.journal.notes.append(text.rstrip("."))
        warnings.warn(text, CalibrationWarning, stacklevel=4)


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

    @cached_property
    def latency_probe(self) -> LatencyProbe:
        """Whole graphs measured against the original."""
        with self.journal.station("measure"):
            return LatencyProbe(self.model, self.captured.example, self.options.workload)

    @cached_property
    def costs(self) -> CostModel:
        """FLOPs, parameters, and latency where it is limited; layers are timed once."""
        if self.options.budget.latency is None:
            return CostModel(self.graph, self.analysis)
        probe = self.latency_probe
        with self.journal.station("measure"):
            table = LayerTimes(probe.device, self.options.workload)
            multiple = np.asarray(self.multiple)
            seconds = fit_call_seconds(
                self.graph, self.analysis, self.captured.example, probe, multiple, table
            )
        return CostModel(self.graph, self.analysis, seconds)


def open_session(
    model: nn.Module, loader: Any, options: Options, *, channels: bool | None = None
) -> Session:
    """Capture, label, and split the calibration examples.

    Args:
        model: the caller's; not changed.
        loader: its calibration data.
        options: what was asked for.
        channels: whether channels may go; by default where the method takes any. A model without
            a channel group is an error then.

    Raises:
        CaptureError, UnsupportedError, CalibrationError, BudgetError, PlanError: each says where,
            what, why and what to do.
    """
    check_model(model)
    journal = Journal(options.progress)
    calibration = Calibration(model, loader)
    held_out = options.budget.held_out(calibration.size)
    split = split_examples(calibration.size, held_out, options.seed)
    with journal.station("capture"):
        example = options.example
        batch = calibration.example if example is None else example_batch(model, example)
        captured = capture(model, batch)
    journal.notes.extend(captured.notes)
    with journal.station("label"):
        ignored = matcher(model, options.ignore, "ignore")
        analysis = analyze_graph(captured.graph, captured.example.size, ignored)
    if not (options.method.widths if channels is None else channels):
        analysis = replace(analysis, groups=(), pinned=())
    elif not analysis.groups:
        raise _nothing_to_reduce(analysis)
    if captured.example.tensors()[0].device.type == "cpu":
        largest = max(activations(captured.graph, analysis), default=0.0)
        calibration.chunk = examples_within(CACHED, largest, calibration.chunk)
    multiple = options.multiple
    session = Session(
        options=options,
        model=model,
        captured=captured,
        analysis=analysis,
        statistics=Statistics(
            captured.graph,
            analysis,
            calibration,
            split,
            ignored,
            options.seed,
            options.memory,
            journal,
        ),
        ignored=ignored,
        multiple=choose_multiples(analysis, model, options.workload)
        if multiple == "auto"
        else multiple,
        floor=least_shares(model, analysis, options.keep or {}),
        journal=journal,
    )
    first = next(iter(calibration.batches()))
    require_finite(captured.graph, first.part(0, min(first.size, LOOKED_AT)).channels_last())
    return session


def _nothing_to_reduce(analysis: Analysis) -> UnsupportedError:
    reasons = "; ".join(dict.fromkeys(f"{p.parameter}: {p.reason}" for p in analysis.pinned[:5]))
    return UnsupportedError(
        "The model has no channel group that can be reduced. "
        f"{reasons or 'No weight feeds another'}. fxprune.factorize lowers the ranks of its layers "
        "instead; operators without a rule can be taught one (docs/rules.md)."
    )
