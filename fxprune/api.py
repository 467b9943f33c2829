"""The public calls: analyze, plan, apply, compress, factorize, sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.fx import GraphModule

from fxprune.allocate.planning import planned
from fxprune.allocate.ranks import METHODS as RANK_METHODS
from fxprune.capture.batch import example_batch
from fxprune.capture.export import capture
from fxprune.capture.supported import check_model
from fxprune.capture.undisturbed import undisturbed
from fxprune.errors import PlanError, UnsupportedError
from fxprune.fit.build import build, verify
from fxprune.fit.factor import require_layers
from fxprune.handover.finish import certified, finished, hand_over
from fxprune.label.analysis import Analysis, analyze_graph
from fxprune.label.named import matcher
from fxprune.plans.budget import Budget, make_budget
from fxprune.plans.plan import Plan, keep_mask_of
from fxprune.session import EFFORT, RoundTo, held_out_for, open_session
from fxprune.timing.workload import Workload
from fxprune.verify.decisions import Decision

METHODS = ("auto", "channels", "uniform", "paper", "paper-uniform", "magnitude")
SELECTORS = ("output-aware", "pivoted-qr", "magnitude")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UnsupportedError(f"{name}={value!r} is not one of {', '.join(allowed)}.")


def _multiple(round_to: RoundTo | None, budget: Budget) -> RoundTo:
    if round_to is None:
        return 1 if budget.latency is None else "auto"
    return round_to


def _selector(method: str, selector: str) -> str:
    return {"paper": "pivoted-qr", "paper-uniform": "pivoted-qr", "magnitude": "magnitude"}.get(
        method, selector
    )


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
    with undisturbed(model, 0):
        captured = capture(model, example_batch(model, example))
        return analyze_graph(
            captured.graph, captured.example.size, matcher(model, ignore, "ignore")
        )


def plan(
    model: nn.Module,
    calib_loader: Any,
    *,
    flops: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    workload: Workload | None = None,
    method: str = "auto",
    selector: str = "output-aware",
    example: Any = None,
    ignore: Sequence[str] | str = (),
    keep: Mapping[str, float] | None = None,
    round_to: RoundTo | None = None,
    progress: bool = True,
    seed: int = 0,
    memory: float = 2e9,
    effort: int = EFFORT,
) -> Plan:
    """Decide which channels to keep without building the compressed model; arguments as for
    `compress`.

    Returns:
        the plan, for `apply`.
    """
    budget = make_budget(
        0.5 if flops is None and params is None and latency is None else flops,
        params,
        None,
        latency,
    )
    _check_choice("method", method, METHODS)
    _check_choice("selector", selector, SELECTORS)
    with undisturbed(model, seed):
        session = open_session(
            model,
            calib_loader,
            example=example,
            ignore=ignore,
            keep=keep,
            round_to=_multiple(round_to, budget),
            seed=seed,
            memory=memory,
            progress=progress,
            decision=None,
            held_out=held_out_for(budget),
            workload=workload,
            effort=effort,
        )
        return planned(session, method, _selector(method, selector), budget.limits)[0]


def apply(
    model: nn.Module,
    plan: Plan,
    calib_loader: Any,
    *,
    example: Any = None,
    decision: Decision | None = None,
    progress: bool = True,
    seed: int = 0,
    memory: float = 2e9,
) -> GraphModule:
    """Compress a model by a plan made earlier, on this or another checkpoint of the same
    architecture.

    Args:
        model: never modified.
        plan: from `plan`, `plan_of` or `Plan.from_json`.
        calib_loader: unlabeled examples the remaining weights are fitted on.

    Raises:
        PlanError: the plan does not fit the model.
    """
    if plan.method not in (*METHODS, *RANK_METHODS):
        raise PlanError(
            f"The plan's method {plan.method!r} is not one of "
            f"{', '.join((*METHODS, *RANK_METHODS))}, so how its model is to be fitted is not "
            "known. Make the plan anew with fxprune.plan(...)."
        )
    with undisturbed(model, seed):
        session = open_session(
            model,
            calib_loader,
            example=example,
            ignore=(),
            keep=None,
            round_to=1,
            seed=seed,
            memory=memory,
            progress=progress,
            decision=decision,
            held_out=held_out_for(Budget(flops=1.0)),
            channels=bool(plan.kept),
        )
        keep_mask = keep_mask_of(session.analysis, plan)
        require_layers(session, plan)
        small = build(session, keep_mask, plan.method, plan.factorings)
        return hand_over(session, small, plan, {}, verify(session, small))


def compress(
    model: nn.Module,
    calib_loader: Any,
    *,
    flops: float | None = None,
    params: float | None = None,
    agreement: float | None = None,
    latency: float | None = None,
    workload: Workload | None = None,
    method: str = "auto",
    selector: str = "output-aware",
    decision: Decision | None = None,
    example: Any = None,
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] | str = (),
    keep: Mapping[str, float] | None = None,
    round_to: RoundTo | None = None,
    progress: bool = True,
    seed: int = 0,
    memory: float = 2e9,
    effort: int = EFFORT,
) -> GraphModule:
    """Make a trained model smaller and faster while it keeps its decisions; no labels, no
    fine-tuning.

    Args:
        model: any nn.Module in any mode. Never modified; mode and random state come back as they
            were.
        calib_loader: a re-iterable of batches (tensors, (x, y) tuples whose labels are ignored,
            dicts of keyword inputs), or one tensor.
        flops, params: fractions of the original to keep at most.
        agreement: the smallest model whose one-sided 95 % Clopper-Pearson lower bound of
            agreement, on calibration examples held out from fitting, stays at or above this. With
            no budget at all, 0.99. Sizes are certified in a fixed order, largest first, until one
            fails, so that the bound holds although several were tried (fixed-sequence testing;
            Angelopoulos et al. 2021). The first of them only loses what is redundant.
        latency: fraction of the original's time per call to keep, measured on the workload: layers
            are timed at several widths (once per machine, in a table in the user's cache folder),
            and whole rewritten graphs until the time is within about 5 %.
        workload: what `latency` is measured on; one example per call, eager, where the model is,
            by default.
        method: `auto` (plans of widths are tried, and ones in which layers become two, as by
            `factorize`, where they promise much less error; where time counts, with latency= or
            round_to="auto", layers stay whole); `channels` (widths only); `uniform` (the same
            fraction everywhere, fitted like auto); `paper` and `paper-uniform` (Chee et al.,
            NeurIPS 2022); `magnitude` (smallest weights removed, nothing corrected).
        selector: `output-aware`, `pivoted-qr` or `magnitude`.
        decision: callable (reference output, output) -> (N,) bool; by default argmax for class
            scores, 5 % relative error for regression.
        example: what to trace with; by default two examples of the first batch.
        targets: names of submodules to compress in place, inside a model that cannot be captured
            whole.
        ignore: names (globs) of modules and parameters that must keep their shape.
        keep: least share of the channels to keep, by name (glob) of a module: `{"layer4.*": 0.8,
            "head.*": 1.0}`.
        round_to: widths are multiples of this; `auto` for what the device's kernels use well. 1 by
            default, `auto` where latency is limited.
        progress: show progress bars where the output is a terminal.
        effort: how many plans `auto` and `channels` try on calibration examples, and one more
            where these disappoint; past the ones with a reason, the best one's widths are varied.
            With 1 none is tried, and the widths are uniform.
        seed: of the split into fitting and held-out examples; the same seed gives the same plan.
        memory: bytes of activations held while fitting before they spill to disk.

    Returns:
        a torch.fx.GraphModule in eval mode, its parameters under their original names.
        `fxprune.report(small)` tells what happened.

    Raises:
        CaptureError, UnsupportedError, CalibrationError, BudgetError, PlanError: each says where,
            what, why and what to do.
    """
    budget = make_budget(flops, params, agreement, latency)
    _check_choice("method", method, METHODS)
    _check_choice("selector", selector, SELECTORS)
    options = dict(
        budget=budget,
        method=method,
        selector=_selector(method, selector),
        decision=decision,
        example=example,
        ignore=ignore,
        keep=keep,
        round_to=_multiple(round_to, budget),
        workload=workload,
        progress=progress,
        seed=seed,
        memory=memory,
        effort=effort,
    )
    if targets is not None:
        from fxprune.targets import compress_targets

        return compress_targets(model, calib_loader, targets, options)  # type: ignore[return-value]
    return compress_whole(model, calib_loader, **options)


def factorize(
    model: nn.Module,
    calib_loader: Any,
    *,
    params: float | None = None,
    flops: float | None = None,
    method: str = "pca",
    decision: Decision | None = None,
    example: Any = None,
    ignore: Sequence[str] | str = (),
    progress: bool = True,
    seed: int = 0,
    memory: float = 2e9,
) -> GraphModule:
    """Replace layers by two smaller ones where that pays; takes a trained model, or what
    `compress` made of it.

    Args:
        params, flops: fractions of the original to keep at most; half of the parameters with none.
        method: `pca` (principal components of the layers' outputs, every layer refitted to the
            original's outputs); or without looking at the data: `svd`, `learned-rank` (k1 x 1
            after 1 x k2; Idelbayev & Carreira-Perpinan, CVPR 2020) and `alds` (grouped encoders;
            Liebenwein et al., NeurIPS 2021).
        model, calib_loader, decision, example, ignore, progress, seed, memory: as for `compress`.

    Returns:
        as `compress`. A layer `conv2` has become `conv2.0` and `conv2.1`.

    Raises:
        CaptureError, UnsupportedError, CalibrationError, BudgetError: each says where, what, why
            and what to do.
    """
    budget = make_budget(flops, 0.5 if flops is None and params is None else params, None)
    _check_choice("method", method, RANK_METHODS)
    with undisturbed(model, seed):
        session = open_session(
            model,
            calib_loader,
            example=example,
            ignore=ignore,
            keep=None,
            round_to=1,
            seed=seed,
            memory=memory,
            progress=progress,
            decision=decision,
            held_out=held_out_for(budget),
            channels=False,
        )
        return finished(session, method, "", budget.limits)


def sweep(
    model: nn.Module,
    calib_loader: Any,
    *,
    budgets: Sequence[float] = (0.9, 0.7, 0.5, 0.35),
    method: str = "auto",
    selector: str = "output-aware",
    decision: Decision | None = None,
    example: Any = None,
    ignore: Sequence[str] | str = (),
    keep: Mapping[str, float] | None = None,
    round_to: RoundTo = 1,
    progress: bool = True,
    seed: int = 0,
    memory: float = 2e9,
    effort: int = EFFORT,
) -> dict[float, GraphModule]:
    """A whole trade-off curve from one capture and one calibration; arguments as for `compress`.

    Args:
        budgets: fractions of the original's FLOPs to keep.

    Returns:
        the compressed model of every budget, each with its own report.
    """
    checked = [Budget(flops=fraction) for fraction in budgets]
    _check_choice("method", method, METHODS)
    _check_choice("selector", selector, SELECTORS)
    with undisturbed(model, seed):
        session = open_session(
            model,
            calib_loader,
            example=example,
            ignore=ignore,
            keep=keep,
            round_to=round_to,
            seed=seed,
            memory=memory,
            progress=progress,
            decision=decision,
            held_out=held_out_for(checked[0]),
            effort=effort,
        )
        return {
            fraction: finished(session, method, _selector(method, selector), budget.limits)
            for fraction, budget in zip(budgets, checked, strict=True)
        }


def compress_whole(
    model: nn.Module,
    loader: Any,
    *,
    budget: Budget,
    method: str,
    selector: str,
    decision: Decision | None,
    example: Any,
    ignore: Sequence[str] | str,
    keep: Mapping[str, float] | None,
    round_to: RoundTo,
    workload: Workload | None,
    progress: bool,
    seed: int,
    memory: float,
    effort: int,
) -> GraphModule:
    """`compress` on a model that can be captured."""
    with undisturbed(model, seed):
        session = open_session(
            model,
            loader,
            example=example,
            ignore=ignore,
            keep=keep,
            round_to=round_to,
            seed=seed,
            memory=memory,
            progress=progress,
            decision=decision,
            held_out=held_out_for(budget),
            workload=workload,
            effort=effort,
        )
        if budget.agreement is not None:
            return certified(session, budget, method, selector)
        return finished(session, method, selector, budget.limits)
