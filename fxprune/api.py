"""The line of stations: capture, label, calibrate, profile, allocate, rewrite, fit, verify, hand over."""

import random
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils.flop_counter import FlopCounterMode

from fxprune import allocate
from fxprune.analysis import Analysis, analyse
from fxprune.budget import Budget, make_budget
from fxprune.calibrate import Moments, Site, calibrate, require_finite
from fxprune.capture import Captured, capture, check_model
from fxprune.costs import CostModel
from fxprune.decisions import Decision
from fxprune.errors import BudgetError, CalibrationWarning, PlanError, UnsupportedError
from fxprune.fold import fold_all
from fxprune.inputs import Batch, Calibration, example_batch
from fxprune.lockstep import Lockstep, LockstepOptions
from fxprune.passes import LiftModules, ReduceChannels
from fxprune.plan import Plan, make_plan, surviving
from fxprune.profile import Profile, profile
from fxprune.progress import Progress
from fxprune.report import AloneRow, GroupRow, Report, attach
from fxprune.verify import Agreement, compare

METHODS = ("auto", "uniform", "paper", "paper-uniform", "magnitude")
SELECTORS = ("output-aware", "pivoted-qr", "magnitude")
STEP = 0.9
"""Share of a group's width that one step of the reference method keeps."""
SEQUENCE = (1.0, 0.98, 0.96, 0.94, 0.92, *(round(0.9 - 0.05 * i, 2) for i in range(18)))
"""FLOPs fractions that are certified in this order, largest first, until one fails."""


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
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    moments: dict[Site, Moments] | None = None
    profiles: dict[str, list[Profile]] = field(default_factory=dict)

    @property
    def graph(self) -> GraphModule:
        """The captured graph."""
        return self.captured.graph

    @contextmanager
    def station(self, name: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """Time a station and show its progress."""
        start = time.perf_counter()
        with self.progress.task(name, total) as advance:
            yield advance
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def batches(self, chosen: np.ndarray, advance: Callable[[], None] | None = None) -> Iterator[Batch]:
        """Stream chosen calibration examples."""
        for batch in self.calibration.batches(chosen):
            yield batch
            if advance is not None:
                advance()

    def statistics(self) -> dict[Site, Moments]:
        """Second moments on the fitting examples, computed once."""
        if self.moments is None:
            with self.station("calibrate"):
                self.moments = calibrate(self.graph, self.analysis, self.batches(self.fit))
            self._warn_if_thin(self.moments)
        return self.moments

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
            with self.station("profile"):
                dtype = next(self.graph.parameters()).dtype
                self.profiles[selector] = profile(self.graph, self.analysis, moments, selector, dtype)
        return self.profiles[selector]


@contextmanager
def _undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
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


def _ignored(model: nn.Module, ignore: Sequence[str] | str) -> Callable[[str], bool]:
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


def analyze(model: nn.Module, example: Any, *, ignore: Sequence[str] | str = ()) -> Analysis:
    """Find the channel groups of a model; no data is read and no weight changed.

    Args:
        model: any module.
        example: a tensor, tuple or dict as `forward` takes it.
        ignore: names (globs) of modules and parameters that must keep their shape.

    Returns:
        the analysis; `str` of it is one line per group, `.to_networkx()` the coupling graph.

    Raises:
        CaptureError: torch.export cannot trace the model.
        UnsupportedError: parameters on the meta device, quantized, or of an unsupported dtype.
    """
    check_model(model)
    with _undisturbed(model, 0):
        captured = capture(model, example_batch(model, example))
        return analyse(captured.graph, captured.example.size, _ignored(model, ignore))


def _session(
    model: nn.Module, loader: Any, *, example: Any, ignore: Sequence[str] | str, round_to: int, seed: int, memory: float,
    progress: bool, decision: Decision | None, held_out: Callable[[int], int],
) -> Session:  # fmt: skip
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
        analysis = analyse(captured.graph, captured.example.size, _ignored(model, ignore))
    if not analysis.groups:
        reasons = "; ".join(dict.fromkeys(f"{p.parameter}: {p.reason}" for p in analysis.pinned[:5]))
        raise UnsupportedError(f"The model has no channel group that can be reduced. {reasons or 'No weight feeds another.'}")
    session = Session(
        model, calibration, captured, analysis, ~chosen, chosen, round_to, seed, memory, bar, decision,
        {"capture": middle - start, "label": time.perf_counter() - middle}, list(captured.notes),
    )  # fmt: skip
    first = next(iter(calibration.batches()))
    require_finite(captured.graph, first.part(0, min(first.size, 8)))
    return session


def _alive(session: Session, profiles: Sequence[Profile], widths: np.ndarray) -> np.ndarray:
    """Surviving channels: the last ones of each group's removal order."""
    alive = np.ones(len(session.analysis.group_of()), dtype=bool)
    for group, held, width in zip(session.analysis.groups, profiles, widths, strict=True):
        alive[held.order[:, : group.width - int(width)].reshape(-1)] = False
    return alive


def _build(
    session: Session, alive: np.ndarray, method: str, fit: np.ndarray | None = None, rows: int = LockstepOptions.rows
) -> GraphModule:
    """Rewrite the graph for a choice of channels and fit the consumers."""
    fit = session.fit if fit is None else fit
    with session.station("rewrite"):
        small = ReduceChannels(session.analysis, alive)(session.graph)
    if method == "magnitude":
        return small
    ours = method in ("auto", "uniform")
    with session.station("fit"):
        fold_all(session.graph, small, session.analysis, alive, session.statistics(), ridged=ours)
        if ours:
            options = LockstepOptions(rows=rows, memory=session.memory, seed=session.seed)
            Lockstep(session.graph, small, session.analysis, alive, options).run(session.batches(fit))
    return small


def _widths(session: Session, method: str, selector: str, limits: dict[str, float]) -> tuple[list[Profile], np.ndarray]:
    """Station 5: widths of every group by the method asked for."""
    profiles = session.profile(selector)
    costs = CostModel(session.graph, session.analysis)
    with session.station("allocate"):
        if method in ("paper", "paper-uniform", "magnitude"):
            plain = [Profile(p.order, p.errors, p.scores, 0) for p in profiles]
            valid = allocate.Widths(session.analysis.groups, plain, session.round_to)
            if method == "paper":
                return plain, allocate.iterative(plain, costs, valid, limits, STEP)
            return plain, allocate.uniform(costs, valid, limits)
        valid = allocate.Widths(session.analysis.groups, profiles, session.round_to)
        if method == "uniform" or allocate.fits(costs, valid.largest, limits):
            return profiles, allocate.uniform(costs, valid, limits)
    return profiles, _search(session, profiles, costs, valid, limits)


SEARCH_EXAMPLES = 256
SEARCH_ROWS = 8
"""Observations per feature that judge a plan; the plan that wins is fitted on three times as many."""
BLENDS = ((1.0, 1.0), (1.0, 0.5), (0.5, 0.5))
"""Candidates beside uniform: the power of the groups' errors that is summed, and the geometric weight against uniform."""


def _search(
    session: Session, profiles: list[Profile], costs: CostModel, valid: allocate.Widths, limits: dict[str, float]
) -> np.ndarray:
    """Try whole plans on part of the fitting examples and keep the best; uniform widths are always among them."""
    uniform = allocate.uniform(costs, valid, limits)
    candidates = [uniform]
    for power, mix in BLENDS:
        shape = allocate.balanced(profiles, costs, valid, limits, power)
        blend = (shape / valid.full) ** mix * (uniform / valid.full) ** (1 - mix)
        candidates.append(allocate.scaled(blend, costs, valid, limits))
    unique = list({tuple(int(w) for w in c): c for c in candidates}.values())
    if len(unique) == 1:
        return uniform
    chosen = np.flatnonzero(session.fit)
    half = chosen[np.random.default_rng(session.seed).permutation(len(chosen))[: 2 * SEARCH_EXAMPLES]]
    fit, judge = np.zeros_like(session.fit), np.zeros_like(session.fit)
    fit[half[: len(half) // 2]] = True
    judge[half[len(half) // 2 :]] = True
    errors = []
    for widths in unique:
        small = _build(session, _alive(session, profiles, widths), "auto", fit, SEARCH_ROWS)
        with session.station("allocate"):
            errors.append(compare(session.graph, small, session.batches(judge)).error)
    return unique[int(np.argmin(errors))]


def _verify(session: Session, small: nn.Module) -> Agreement | None:
    if not session.held_out.any():
        return None
    with session.station("verify"):
        return compare(session.graph, small, session.batches(session.held_out), session.decision)


def _count(module: nn.Module, batch: Batch) -> float:
    """FLOPs per example by torch.utils.flop_counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*batch.args, **batch.kwargs)
    return float(counter.get_total_flops()) / batch.size


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def _hand_over(session: Session, small: GraphModule, plan: Plan, errors: dict[str, float], agreement: Agreement | None) -> GraphModule:
    """Lift the calls into layers and attach the report."""
    graph, example = session.graph, session.captured.example
    with session.station("hand over"):
        flops = (_count(graph, example), _count(small, example))
        small = LiftModules()(small)
        small.eval()
    analysis = session.analysis
    rows = tuple(
        GroupRow(
            g.name, tuple(f"{p}[{a}]" for p, a in g.members), g.channels, plan.widths[g.name] * len(g.blocks), errors.get(g.name, 0.0)
        )
        for g in analysis.groups
    )
    alone = tuple(AloneRow(f"{p.parameter}[{p.axis}]", p.size, p.reason) for p in analysis.pinned) + tuple(
        AloneRow(r.name, r.before, "the budget was met without it") for r in rows if r.before == r.after
    )
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    sizes = tuple(sum(p.numel() for p in m.parameters()) for m in (graph, small))
    attach(
        small,
        Report(
            flops, (sizes[0], sizes[1]), (_bytes(graph), _bytes(small)), agreement, rows, alone, dict(session.seconds), peak,
            tuple(session.notes), plan.method,
        ),
        plan,
    )  # fmt: skip
    return small


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UnsupportedError(f"{name}={value!r} is not one of {', '.join(allowed)}.")


def _held_out_for(budget: Budget) -> Callable[[int], int]:
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


def plan(
    model: nn.Module, calib_loader: Any, *, flops: float | None = None, params: float | None = None, method: str = "auto",
    selector: str = "output-aware", example: Any = None, ignore: Sequence[str] | str = (), round_to: int = 1, progress: bool = True,
    seed: int = 0, memory: float = 2e9,
) -> Plan:  # fmt: skip
    """Decide which channels to keep without building the compressed model; arguments as for `compress`.

    Returns:
        the plan, for `apply`.
    """
    budget = make_budget(flops if flops is not None or params is not None else 0.5, params, None)
    _check_choice("method", method, METHODS)
    _check_choice("selector", selector, SELECTORS)
    with _undisturbed(model, seed):
        session = _session(
            model, calib_loader, example=example, ignore=ignore, round_to=round_to, seed=seed, memory=memory, progress=progress,
            decision=None, held_out=_held_out_for(budget),
        )  # fmt: skip
        return _planned(session, method, _selector(method, selector), budget.limits)[0]


def _selector(method: str, selector: str) -> str:
    return {"paper": "pivoted-qr", "paper-uniform": "pivoted-qr", "magnitude": "magnitude"}.get(method, selector)


def _planned(session: Session, method: str, selector: str, limits: dict[str, float]) -> tuple[Plan, np.ndarray, dict[str, float]]:
    profiles, widths = _widths(session, method, selector, limits)
    alive = _alive(session, profiles, widths)
    state = dict(session.graph.named_parameters()) | dict(session.graph.named_buffers())
    settings = {"selector": selector, "seed": session.seed, "round_to": session.round_to, **limits}
    errors = {g.name: float(p.errors[g.width - int(w)]) for g, p, w in zip(session.analysis.groups, profiles, widths, strict=True)}
    return make_plan(session.analysis, alive, state, method, settings), alive, errors


def apply(
    model: nn.Module, plan: Plan, calib_loader: Any, *, example: Any = None, decision: Decision | None = None, progress: bool = True,
    seed: int = 0, memory: float = 2e9,
) -> GraphModule:  # fmt: skip
    """Compress a model by a plan made earlier, on this or another checkpoint of the same architecture.

    Args:
        model: never modified.
        plan: from `plan`, `plan_of` or `Plan.from_json`.
        calib_loader: unlabelled examples the remaining weights are fitted on.

    Raises:
        PlanError: the plan does not fit the model.
    """
    with _undisturbed(model, seed):
        session = _session(
            model, calib_loader, example=example, ignore=(), round_to=1, seed=seed, memory=memory, progress=progress, decision=decision,
            held_out=_held_out_for(Budget(flops=1.0)),
        )  # fmt: skip
        alive = surviving(session.analysis, plan)
        small = _build(session, alive, plan.method)
        return _hand_over(session, small, plan, {}, _verify(session, small))


def compress(
    model: nn.Module, calib_loader: Any, *, flops: float | None = None, params: float | None = None, agreement: float | None = None,
    method: str = "auto", selector: str = "output-aware", decision: Decision | None = None, example: Any = None,
    targets: Sequence[str] | None = None, ignore: Sequence[str] | str = (), round_to: int = 1, progress: bool = True, seed: int = 0,
    memory: float = 2e9,
) -> GraphModule:  # fmt: skip
    """Make a trained model smaller and faster while it keeps its decisions; no labels, no fine-tuning.

    Args:
        model: any nn.Module in any mode. Never modified; mode and random state come back as they were.
        calib_loader: a re-iterable of batches (tensors, (x, y) tuples whose labels are ignored, dicts of keyword inputs), or one tensor.
        flops, params: fractions of the original to keep at most.
        agreement: the smallest model whose one-sided 95 % Clopper-Pearson lower bound of agreement, on calibration examples held out from
            fitting, stays at or above this. With no budget at all, 0.99. Sizes are certified in a fixed order, largest first, until one
            fails, so that the bound holds although several were tried (fixed-sequence testing; Angelopoulos et al. 2021). The first of them
            only loses what is redundant.
        method: `auto`; `uniform` (the same fraction everywhere, fitted like auto); `paper` and `paper-uniform` (Chee et al., NeurIPS 2022);
            `magnitude` (smallest weights removed, nothing corrected).
        selector: `output-aware`, `pivoted-qr` or `magnitude`.
        decision: callable (reference output, output) -> (N,) bool; by default argmax for class scores, 5 % relative error for regression.
        example: what to trace with; by default two examples of the first batch.
        targets: names of submodules to compress in place, inside a model that cannot be captured whole.
        ignore: names (globs) of modules and parameters that must keep their shape.
        round_to: widths are multiples of this.
        progress: show progress bars where the output is a terminal.
        seed: of the split into fitting and held-out examples; the same seed gives the same plan.
        memory: bytes of activations held while fitting before they spill to disk.

    Returns:
        a torch.fx.GraphModule in eval mode, its parameters under their original names. `fxprune.report(small)` tells what happened.

    Raises:
        CaptureError, UnsupportedError, CalibrationError, BudgetError, PlanError: each says where, what, why and what to do.
    """
    budget = make_budget(flops, params, agreement)
    _check_choice("method", method, METHODS)
    _check_choice("selector", selector, SELECTORS)
    options = dict(
        budget=budget, method=method, selector=_selector(method, selector), decision=decision, example=example, ignore=ignore,
        round_to=round_to, progress=progress, seed=seed, memory=memory,
    )  # fmt: skip
    if targets is not None:
        from fxprune.targets import compress_targets

        return compress_targets(model, calib_loader, targets, options)  # type: ignore[return-value]
    return compress_whole(model, calib_loader, **options)


def sweep(
    model: nn.Module, calib_loader: Any, *, budgets: Sequence[float] = (0.9, 0.7, 0.5, 0.35), method: str = "auto",
    selector: str = "output-aware", decision: Decision | None = None, example: Any = None, ignore: Sequence[str] | str = (),
    round_to: int = 1, progress: bool = True, seed: int = 0, memory: float = 2e9,
) -> dict[float, GraphModule]:  # fmt: skip
    """A whole trade-off curve from one capture and one calibration; arguments as for `compress`.

    Args:
        budgets: fractions of the original's FLOPs to keep.

    Returns:
        the compressed model of every budget, each with its own report.
    """
    checked = [Budget(flops=fraction) for fraction in budgets]
    _check_choice("method", method, METHODS)
    _check_choice("selector", selector, SELECTORS)
    with _undisturbed(model, seed):
        session = _session(
            model, calib_loader, example=example, ignore=ignore, round_to=round_to, seed=seed, memory=memory, progress=progress,
            decision=decision, held_out=_held_out_for(checked[0]),
        )  # fmt: skip
        return {
            fraction: _finished(session, method, _selector(method, selector), budget.limits)
            for fraction, budget in zip(budgets, checked, strict=True)
        }


def _finished(session: Session, method: str, selector: str, limits: dict[str, float]) -> GraphModule:
    """Plan, build, verify and hand over under cost limits."""
    made, alive, errors = _planned(session, method, selector, limits)
    small = _build(session, alive, method)
    return _hand_over(session, small, made, errors, _verify(session, small))


def compress_whole(
    model: nn.Module, loader: Any, *, budget: Budget, method: str, selector: str, decision: Decision | None, example: Any,
    ignore: Sequence[str] | str, round_to: int, progress: bool, seed: int, memory: float,
) -> GraphModule:  # fmt: skip
    """`compress` on a model that can be captured."""
    with _undisturbed(model, seed):
        session = _session(
            model, loader, example=example, ignore=ignore, round_to=round_to, seed=seed, memory=memory, progress=progress, decision=decision,
            held_out=_held_out_for(budget),
        )  # fmt: skip
        if budget.agreement is not None:
            return _certified(session, budget, method, selector)
        return _finished(session, method, selector, budget.limits)


def _certified(session: Session, budget: Budget, method: str, selector: str) -> GraphModule:
    """The smallest model of a fixed sequence whose agreement is certified."""
    assert budget.agreement is not None
    best, stopped = None, ""
    for fraction in SEQUENCE:
        limits = budget.limits | {"flops": min(fraction, budget.flops or 1.0)}
        try:
            made, alive, errors = _planned(session, method, selector, limits)
        except BudgetError:
            if best is None:
                raise
            stopped = f"no group can give more than FLOPs {fraction:g} asks"
            break
        small = _build(session, alive, method)
        found = _verify(session, small)
        assert found is not None
        if found.bound < budget.agreement:
            stopped = (
                f"at FLOPs {limits['flops']:g} the model agrees on {found.rate:.2%} of {found.examples} held-out examples, which certifies {found.bound:.2%}"
            )
            break
        best = (small, made, errors, found)
    if best is None:
        raise BudgetError(
            f"agreement={budget.agreement:g} cannot be certified together with {budget.limits}: {stopped} (closest reachable). Give more "
            "calibration examples, or ask for less."
        )
    if stopped:
        session.notes.append(f"the next smaller size could not be certified: {stopped}")
    return _hand_over(session, *best)
