"""One model on its way through the stations: captured, labeled, its calibration data split;
statistics computed once.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.moments import Moments, Site, calibrate
from fxprune.calibrate.observe import require_finite
from fxprune.calibrate.recording import VALIDATION, Recording
from fxprune.calibrate.spill import Spill
from fxprune.capture.batch import Batch, example_batch
from fxprune.capture.export import Captured, capture
from fxprune.capture.supported import check_model
from fxprune.errors import BudgetError, CalibrationWarning, UnsupportedError
from fxprune.label.analysis import Analysis, activations, analyze_graph, examples_within
from fxprune.label.groups import Cost
from fxprune.label.layers import factorable
from fxprune.label.named import least_shares, matcher
from fxprune.plans.budget import Budget
from fxprune.profile.costs import CostModel
from fxprune.profile.output_moments import OutputMoments, output_moments
from fxprune.profile.removal import Profile, profile
from fxprune.profile.sensitivity import sensitivities
from fxprune.progress import Progress
from fxprune.timing.latency_model import fit_call_seconds
from fxprune.timing.latency_probe import LatencyProbe
from fxprune.timing.layer_times import LayerTimes
from fxprune.timing.multiples import choose_multiples
from fxprune.timing.workload import Workload
from fxprune.verify.decisions import Decision

CACHED = 1 << 25
"""Bytes of the largest activation of a batch, on a CPU: more do not fit into its last cache, and
the C library maps them anew for every call.
"""
PROBED_EXAMPLES = 64
"""Examples whose output is differentiated; each costs about three forward passes."""
EFFORT = 2
"""Plans that are tried."""
JUDGES, TRIED_ON = 192, 128
"""Most fitting examples that judge ridges and plans, and most others on which plans are tried."""
JUDGING, TRYING = 0.2, 0.4
"""Largest shares of the fitting examples, likewise."""

RoundTo = int | Literal["auto"]


@dataclass
class Session:
    """One model on its way through the stations."""

    model: nn.Module
    calibration: Calibration
    captured: Captured
    analysis: Analysis
    fit: np.ndarray
    held_out: np.ndarray
    round_to: int | list[int]
    floor: np.ndarray
    seed: int
    memory: float
    progress: Progress
    decision: Decision | None
    ignore: Callable[[str], bool]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    moments: tuple[dict[Site, Moments], dict[Site, Moments]] | None = None
    recording: Recording | None = None
    worth: dict[str, Tensor] | None = None
    profiles: dict[str, list[Profile]] = field(default_factory=dict)
    workload: Workload = field(default_factory=Workload)
    gauge: LatencyProbe | None = None
    call_seconds: tuple[Cost, ...] = ()
    cost_models: dict[bool, CostModel] = field(default_factory=dict)
    latency: float = 1.0
    spread: dict[str, OutputMoments] | None = None
    trials: dict[tuple[Any, ...], float] = field(default_factory=dict)
    effort: int = EFFORT

    @property
    def graph(self) -> GraphModule:
        """The captured graph."""
        return self.captured.graph

    def note(self, text: str) -> None:
        """Say something in the report, once."""
        if text not in self.notes:
            self.notes.append(text)

    @contextmanager
    def station(self, name: str, total: int | None = None) -> Iterator[Callable[[int], object]]:
        """Time a station and show its progress."""
        start = time.perf_counter()
        with self.progress.task(name, total) as advance:
            yield advance
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def batches(
        self, chosen: np.ndarray, advance: Callable[[int], object] = lambda examples: None
    ) -> Iterator[Batch]:
        """Stream chosen calibration examples, counting those done."""
        for batch in self.calibration.batches(chosen):
            yield batch.channels_last()
            advance(batch.size)

    def statistics(self, everything: bool = False) -> dict[Site, Moments]:
        """Second moments on the fitting examples, by default without those that judge: what they
        judge must not have seen them.
        """
        return self._observed()[0][everything]

    def recorded(self) -> Recording:
        """What the original gives on the fitting examples, in the parts "try", "validation" and
        "rest".
        """
        return self._observed()[1]

    def _observed(self) -> tuple[tuple[dict[Site, Moments], dict[Site, Moments]], Recording]:
        """Run the original over the fitting examples, once."""
        if self.moments is None or self.recording is None:
            chosen = np.random.default_rng(self.seed).permutation(np.flatnonzero(self.fit))
            some, trying = (
                min(JUDGES, int(len(chosen) * JUDGING)),
                min(TRIED_ON, int(len(chosen) * TRYING)),
            )
            parts = {
                VALIDATION: chosen[:some],
                "try": chosen[some : some + trying],
                "rest": chosen[some + trying :],
            }
            recording = Recording(self.graph, len(chosen), Spill(self.memory), self.seed)

            def stream(*names: str) -> Iterator[Batch]:
                for part in names:
                    yield from recording.follow(
                        part, self.batches(np.isin(np.arange(len(self.fit)), parts[part]), advance)
                    )

            with self.station("calibrate", len(chosen)) as advance:
                fitting, judging = (
                    calibrate(
                        self.graph,
                        self.analysis,
                        stream(*names),
                        len(chosen),
                        recording.watch,
                        self.seed,
                    )
                    for names in (("try", "rest"), (VALIDATION,))
                )
            self.moments = (
                fitting,
                {site: held + judging[site] for site, held in fitting.items()}
                if len(parts[VALIDATION])
                else fitting,
            )
            self.recording = recording
            self._warn_if_thin(self.moments[0])
        return self.moments, self.recording

    def output_moments(self) -> dict[str, OutputMoments]:
        """How the outputs of every factorable layer spread over the fitting examples, computed
        once.
        """
        if self.spread is None:
            recording = self.recorded()
            with self.station("calibrate"):
                self.spread = output_moments(recording, factorable(self.graph, self.ignore)[0])
        return self.spread

    def _warn_if_thin(self, moments: dict[Site, Moments]) -> None:
        thin = [
            (site[0], len(gram), seen)
            for site, held in moments.items()
            for gram, seen in zip(held.grams, held.rows, strict=True)
            if seen < len(gram)
        ]
        if thin:
            name, channels, seen = max(thin, key=lambda t: t[1] / t[2])
            text = (
                f"{len(thin)} layers read more channels than the calibration data gives "
                f"observations; the worst is {name} with {channels} "
                f"channels and {seen} observations. Give at least "
                f"{-(-channels * len(self.fit) // max(seen, 1))} examples for a sharper "
                "fit."
            )
            self.notes.append(text.rstrip("."))
            warnings.warn(text, CalibrationWarning, stacklevel=4)

    def costs(self, limits: dict[str, float]) -> CostModel:
        """FLOPs, parameters, and latency where it is limited; layers are timed once."""
        if "latency" in limits and self.gauge is None:
            with self.station("measure"):
                self.gauge = LatencyProbe(self.model, self.captured.example, self.workload)
                table = LayerTimes(self.gauge.device, self.workload)
                self.call_seconds = fit_call_seconds(
                    self.graph,
                    self.analysis,
                    self.captured.example,
                    self.gauge,
                    np.asarray(self.round_to),
                    table,
                )
        timed = "latency" in limits
        if timed not in self.cost_models:
            self.cost_models[timed] = CostModel(
                self.graph, self.analysis, self.call_seconds if timed else ()
            )
        return self.cost_models[timed]

    def profile(self, selector: str) -> list[Profile]:
        """Removal orders by a selector, computed once."""
        if selector not in self.profiles:
            moments = {} if selector == "magnitude" else self.statistics(everything=True)
            worth = self.sensitivities() if selector == "output-aware" else {}
            with self.station("profile", len(self.analysis.groups)) as advance:
                dtype = next(self.graph.parameters()).dtype
                self.profiles[selector] = profile(
                    self.graph, self.analysis, moments, selector, dtype, worth or None, advance
                )
        return self.profiles[selector]

    def sensitivities(self) -> dict[str, Tensor]:
        """What output errors of every consumer cost the model's output, computed once; empty, with
        a note, where it has no derivative.
        """
        if self.worth is None:
            chosen = np.zeros_like(self.fit)
            chosen[
                np.random.default_rng(self.seed).permutation(np.flatnonzero(self.fit))[
                    :PROBED_EXAMPLES
                ]
            ] = True
            with self.station("calibrate", int(chosen.sum())) as advance:
                try:
                    self.worth = sensitivities(
                        self.graph,
                        self.analysis,
                        self.batches(chosen, advance),
                        self.seed,
                        self.memory,
                    )
                except (RuntimeError, NotImplementedError) as error:
                    reason = str(error).partition("\n")[0]
                    self.notes.append(
                        f"The model has no derivative ({reason}): channels are chosen by each "
                        "layer's own error"
                    )
                    self.worth = {}
        return self.worth


def open_session(
    model: nn.Module,
    loader: Any,
    *,
    example: Any,
    ignore: Sequence[str] | str,
    keep: Mapping[str, float] | None,
    round_to: RoundTo,
    seed: int,
    memory: float,
    progress: bool,
    decision: Decision | None,
    held_out: Callable[[int], int],
    workload: Workload | None = None,
    channels: bool = True,
    effort: int = EFFORT,
) -> Session:
    """Capture, label, and split the calibration examples.

    Args:
        held_out: how many of so many examples take no part in the fit.
        channels: whether channels may go; a model without a channel group is an error then.
        effort: plans that are tried.
    """
    check_model(model)
    if round_to != "auto" and (
        not isinstance(round_to, int) or isinstance(round_to, bool) or round_to < 1
    ):
        raise BudgetError(
            f'round_to={round_to!r}: widths are multiples of a whole number, 1 or more, or "auto".'
        )
    if not isinstance(effort, int) or isinstance(effort, bool) or effort < 1:
        raise BudgetError(
            f"effort={effort!r}: how many plans are tried is a whole number, 1 (uniform widths, "
            "untried) or more."
        )
    calibration = Calibration(model, loader)
    generator = np.random.default_rng(seed)
    chosen = np.zeros(calibration.size, dtype=bool)
    chosen[generator.permutation(calibration.size)[: held_out(calibration.size)]] = True
    bar = Progress(progress)
    start = time.perf_counter()
    with bar.task("capture", None):
        captured = capture(
            model, calibration.example if example is None else example_batch(model, example)
        )
    middle = time.perf_counter()
    with bar.task("label", None):
        skipped = matcher(model, ignore, "ignore")
        analysis = analyze_graph(captured.graph, captured.example.size, skipped)
    if not channels:
        analysis = replace(analysis, groups=(), pinned=())
    elif not analysis.groups:
        reasons = "; ".join(
            dict.fromkeys(f"{p.parameter}: {p.reason}" for p in analysis.pinned[:5])
        )
        raise UnsupportedError(
            "The model has no channel group that can be reduced. "
            f"{reasons or 'No weight feeds another'}. fxprune.factorize lowers the ranks of its "
            "layers instead; operators without a rule can be taught one (docs/rules.md)."
        )
    if captured.example.tensors()[0].device.type == "cpu":
        largest = max(activations(captured.graph, analysis), default=0.0)
        calibration.chunk = examples_within(CACHED, largest, calibration.chunk)
    workload = workload or Workload()
    session = Session(
        model,
        calibration,
        captured,
        analysis,
        ~chosen,
        chosen,
        round_to if round_to != "auto" else choose_multiples(analysis, model, workload),
        least_shares(model, analysis, keep or {}),
        seed,
        memory,
        bar,
        decision,
        skipped,
        {"capture": middle - start, "label": time.perf_counter() - middle},
        list(captured.notes),
        workload=workload,
        effort=effort,
    )
    first = next(iter(calibration.batches()))
    require_finite(captured.graph, first.part(0, min(first.size, 8)).channels_last())
    return session


def held_out_for(budget: Budget) -> Callable[[int], int]:
    """How many calibration examples certify the result instead of fitting it."""

    def count(size: int) -> int:
        if budget.agreement is None:
            return min(max(size // 5, 1 if size > 1 else 0), 1000)
        needed = int(np.ceil(np.log(0.05) / np.log(budget.agreement)))
        share = max(size * 2 // 5, min(needed + 20, size * 7 // 10))
        if share < needed:
            raise BudgetError(
                f"agreement={budget.agreement:g} needs {needed} held-out examples without a "
                f"single disagreement; {size} calibration "
                f"examples leave {share}, which can certify at most "
                f"{0.05 ** (1 / max(share, 1)):.3f}. Give {needed * 10 // 7 + 1} examples "
                "or more, or ask for flops= or params= instead."
            )
        return share

    return count
