"""One model on its way through the stations: captured, labelled, its calibration data split; statistics computed once."""

import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule

from fxprune.analysis import Analysis, analyse
from fxprune.budget import Budget
from fxprune.calibrate import Moments, Site, calibrate, require_finite
from fxprune.capture import Captured, capture, check_model
from fxprune.decisions import Decision
from fxprune.errors import BudgetError, CalibrationWarning, PlanError, UnsupportedError
from fxprune.inputs import Batch, Calibration, example_batch
from fxprune.layers import factorable
from fxprune.profile import Profile, profile
from fxprune.progress import Progress
from fxprune.spectra import Spread, spreads


@dataclass
class Session:
    """One model on its way through the stations."""

    model: nn.Module
    calibration: Calibration
    captured: Captured
    analysis: Analysis
    fit: np.ndarray
    held_out: np.ndarray
    round_to: int
    seed: int
    memory: float
    progress: Progress
    decision: Decision | None
    ignore: Callable[[str], bool]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    moments: dict[Site, Moments] | None = None
    profiles: dict[str, list[Profile]] = field(default_factory=dict)
    spread: dict[str, Spread] | None = None
    trials: dict[tuple[Any, ...], float] = field(default_factory=dict)

    @property
    def graph(self) -> GraphModule:
        """The captured graph."""
        return self.captured.graph

    @contextmanager
    def station(self, name: str, total: int | None = None) -> Iterator[Callable[[int], object]]:
        """Time a station and show its progress."""
        start = time.perf_counter()
        with self.progress.task(name, total) as advance:
            yield advance
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def batches(self, chosen: np.ndarray, advance: Callable[[int], object] = lambda examples: None) -> Iterator[Batch]:
        """Stream chosen calibration examples, counting those done."""
        for batch in self.calibration.batches(chosen):
            yield batch
            advance(batch.size)

    def statistics(self) -> dict[Site, Moments]:
        """Second moments on the fitting examples, computed once."""
        if self.moments is None:
            with self.station("calibrate", int(self.fit.sum())) as advance:
                self.moments = calibrate(self.graph, self.analysis, self.batches(self.fit, advance))
            self._warn_if_thin(self.moments)
        return self.moments

    def spreads(self) -> dict[str, Spread]:
        """How the outputs of every factorable layer spread over the fitting examples, computed once."""
        if self.spread is None:
            with self.station("calibrate ranks", int(self.fit.sum())) as advance:
                layers = factorable(self.graph, self.ignore)[0]
                self.spread = spreads(self.graph, layers, self.batches(self.fit, advance))
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
                f"{len(thin)} layers read more channels than the calibration data gives observations; the worst is {name} with {channels} "
                f"channels and {seen} observations. Give at least {-(-channels * len(self.fit) // max(seen, 1))} examples for a sharper "
                "fit."
            )
            self.notes.append(text.rstrip("."))
            warnings.warn(text, CalibrationWarning, stacklevel=4)

    def profile(self, selector: str) -> list[Profile]:
        """Removal orders by a selector, computed once."""
        if selector not in self.profiles:
            moments = {} if selector == "magnitude" else self.statistics()
            with self.station("profile", len(self.analysis.groups)) as advance:
                dtype = next(self.graph.parameters()).dtype
                self.profiles[selector] = profile(self.graph, self.analysis, moments, selector, dtype, advance)
        return self.profiles[selector]


@contextmanager
def undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """The caller's random state and the model's modes come back as they were."""
    check_model(model)
    modes = [(m, m.training) for m in model.modules()]
    state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)
            for module, training in modes:
                module.training = training


def ignored(model: nn.Module, ignore: Sequence[str] | str) -> Callable[[str], bool]:
    """A test whether a parameter belongs to an ignored module; names may be globs.

    Raises:
        PlanError: a name matches nothing.
    """
    patterns = [ignore] if isinstance(ignore, str) else list(ignore)
    names = [n for n, _ in model.named_modules() if n] + [n for n, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in names):
            some = ", ".join(names[:5])
            raise PlanError(f"ignore={pattern!r} matches no module or parameter of the model. Its names begin with {some}.")

    def test(parameter: str) -> bool:
        parts = parameter.split(".")
        return any(fnmatchcase(".".join(parts[:i]), p) for p in patterns for i in range(1, len(parts) + 1))

    return test


def open_session(
    model: nn.Module, loader: Any, *, example: Any, ignore: Sequence[str] | str, round_to: int, seed: int, memory: float,
    progress: bool, decision: Decision | None, held_out: Callable[[int], int], channels: bool = True,
) -> Session:  # fmt: skip
    """Capture, label, and split the calibration examples.

    Args:
        held_out: how many of so many examples take no part in the fit.
        channels: whether channels may go; a model without a channel group is an error then.
    """
    check_model(model)
    if round_to < 1:
        raise BudgetError(f"round_to={round_to}: widths are multiples of a whole number, 1 or more.")
    calibration = Calibration(model, loader)
    generator = np.random.default_rng(seed)
    chosen = np.zeros(calibration.size, dtype=bool)
    chosen[generator.permutation(calibration.size)[: held_out(calibration.size)]] = True
    bar = Progress(progress)
    start = time.perf_counter()
    with bar.task("capture", None):
        captured = capture(model, calibration.example if example is None else example_batch(model, example))
    middle = time.perf_counter()
    with bar.task("label", None):
        skipped = ignored(model, ignore)
        analysis = analyse(captured.graph, captured.example.size, skipped)
    if not channels:
        analysis = replace(analysis, groups=(), pinned=())
    elif not analysis.groups:
        reasons = "; ".join(dict.fromkeys(f"{p.parameter}: {p.reason}" for p in analysis.pinned[:5]))
        raise UnsupportedError(f"The model has no channel group that can be reduced. {reasons or 'No weight feeds another.'}")
    session = Session(
        model, calibration, captured, analysis, ~chosen, chosen, round_to, seed, memory, bar, decision, skipped,
        {"capture": middle - start, "label": time.perf_counter() - middle}, list(captured.notes),
    )  # fmt: skip
    first = next(iter(calibration.batches()))
    require_finite(captured.graph, first.part(0, min(first.size, 8)))
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
                f"agreement={budget.agreement:g} needs {needed} held-out examples without a single disagreement; {size} calibration "
                f"examples leave {share}, which can certify at most {0.05 ** (1 / max(share, 1)):.3f}. Give {needed * 10 // 7 + 1} examples "
                "or more, or ask for flops= or params= instead."
            )
        return share

    return count
