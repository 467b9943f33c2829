"""The stations in order: from a model and its calibration data to the compressed module.

capture, label, split (`open_session`) -> allocate -> fit (`build`) -> verify -> hand over; what is
observed of the original in between is computed when it is first asked for.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from torch import nn
from torch.fx import GraphModule

from fxprune.allocate.allocation import Allocation, allocate
from fxprune.allocate.expected_cost import expect_cost, expect_sequence
from fxprune.allocate.expected_disk import expect_disk
from fxprune.calibrate.observe import at_inputs
from fxprune.calibrate.split import examples_to_hold_out
from fxprune.capture.undisturbed import undisturbed
from fxprune.distributed.together import together
from fxprune.errors import BudgetError, warn_caller
from fxprune.fit.build import build, name_fits
from fxprune.handover.finish import hand_over
from fxprune.handover.report import report
from fxprune.handover.rows import Point
from fxprune.identity import open_checkpoint, require_call
from fxprune.intake import open_journal
from fxprune.label.flops import count_flops
from fxprune.linalg.clopper_pearson import sample_size
from fxprune.options import Options
from fxprune.plans.plan import Plan
from fxprune.progress import Journal
from fxprune.saving.copied import in_own_class
from fxprune.saving.finished import find_finished, keep_finished
from fxprune.saving.own_class import suit
from fxprune.session import Session, open_session
from fxprune.verify.agreement import Agreement, compare

SEQUENCE = (1.0, 0.98, 0.96, 0.94, 0.92, *(round(0.9 - 0.05 * i, 2) for i in range(18)))
"""FLOPs fractions that are certified in this order, largest first, until one fails
(docs/decisions/0004).
"""


@dataclass(frozen=True)
class Fitted:
    """A decided and fitted model before it is handed over.

    Attributes:
        make: gives the graph, made when it is first asked for.
        allocation: it was made by.
        agreement: on the held-out examples; None where there are none.
        point: its own in a curve; None without examples to compare on.
        curve: of the sizes that were tried to find this one.
    """

    make: Callable[[], GraphModule]
    allocation: Allocation
    agreement: Agreement | None
    point: Point | None = None
    curve: tuple[Point, ...] = ()

    @property
    def graph(self) -> GraphModule:
        """Of ATen calls."""
        return self.make()

    @property
    def fits(self) -> str:
        """How the names of the steps begin in which it was fitted."""
        allocation = self.allocation
        return name_fits(allocation.session, allocation.keep_mask, allocation.plan.factorings)


@dataclass(frozen=True)
class Verified:
    """What is known of a fitted model once it was compared.

    Attributes:
        agreement: on the held-out examples; None where there are none.
        kept: FLOPs over the original's.
    """

    agreement: Agreement | None
    kept: float


@contextmanager
def _open_call(model: nn.Module, options: Options) -> Iterator[Journal]:
    """What a call works within, by itself or with other ranks; its journal has the steps that are
    kept.
    """
    with (
        together(),
        undisturbed(model, options.seed),
        open_checkpoint(options, model) as steps,
        open_journal(options, steps) as journal,
    ):
        require_call(steps, model, options)
        yield journal


def compress_whole(model: nn.Module, loader: Any, options: Options) -> nn.Module:
    """`compress` and `factorize` on a model that can be captured; warns where few decisions were
    kept.
    """
    with _open_call(model, options) as journal:
        # What is in the caller's class is made of the steps, which stay.
        found = None if options.keep_class else find_finished(journal, model, loader, options)
        small, own = (found, found) if found else _compress(model, loader, options, journal)
        warn_of_few(small)
    return own


def plan_whole(model: nn.Module, loader: Any, options: Options) -> Plan:
    """`plan`, its arguments checked."""
    with _open_call(model, options) as journal:
        session, limits = open_session(model, loader, options, journal), options.budget.limits
        if options.budget.agreement is not None:
            return certify(session).allocation.plan
        cost = expect_cost(session, limits)
        journal.foresee(replace(cost, stages=cost.stages[:1]))
        return allocate(session, limits).plan


def _compress(
    model: nn.Module, loader: Any, options: Options, journal: Journal
) -> tuple[GraphModule, nn.Module]:
    """The small graph, and what is handed to the caller."""
    session, steps = open_session(model, loader, options, journal), journal.steps
    suited = suit(session) if options.keep_class else None
    session = session if suited is None else suited.session
    if steps.folder is not None:
        steps.expect(expect_disk(session))
    limits = session.options.budget.limits
    if options.budget.agreement is None:  # else it is not known how many sizes are tried
        session.journal.expect(expect_cost(session, limits))
    small = compress_session(session, limits)
    if suited is not None:
        return small, in_own_class(suited, model, small)
    keep_finished(steps, small)
    return small, small


def warn_of_few(small: GraphModule) -> None:
    """Say at the caller's line what the report advises, if anything."""
    advice = report(small).advice
    if advice:
        warn_caller(advice)


def compress_session(session: Session, limits: Mapping[str, float]) -> GraphModule:
    """Decide, fit, verify and hand over; the smallest certified size where agreement is asked for.

    Args:
        session: what was captured and split.
        limits: fractions of the original to keep at most.
    """
    certified = session.options.budget.agreement is not None
    session.settle_decision()
    if session.options.budget.latency is not None:
        # What cannot be measured is said before any long work.
        session.statistics.group.first(lambda: session.latency_probe.seconds, "latency")
    fitted = certify(session) if certified else fit_within(session, limits)
    return hand_over(
        fitted.allocation.session, fitted.graph, fitted.allocation, fitted.agreement, fitted.curve
    )


def fit_within(session: Session, limits: Mapping[str, float]) -> Fitted:
    """Decide under cost limits, fit and verify.

    Raises:
        BudgetError: the limits cannot be kept.
    """
    allocation = allocate(session, limits)
    own, mask, factorings = allocation.session, allocation.keep_mask, allocation.plan.factorings
    make = cache(lambda: build(own, mask, factorings))
    key = (own.statistics.rotations, mask, factorings)

    def verified() -> Verified:
        return Verified(verify(session, make()), _kept(session, make()))

    found = session.journal.step("agreement", key, Verified, verified)
    a = found.agreement
    point = None if a is None else Point(found.kept, a.rate, a.bound, a.examples, a.error)
    return Fitted(make, allocation, a, point)


def certify(session: Session) -> Fitted:
    """The smallest model of a fixed sequence whose agreement is certified.

    Raises:
        BudgetError: not even the first is.
    """
    budget = session.options.budget
    assert budget.agreement is not None
    session.settle_decision()
    best, stopped, curve = None, "", list[Point]()
    sizes = list(dict.fromkeys(min(f, budget.flops or 1.0) for f in SEQUENCE))
    limits = [budget.limits | {"flops": fraction} for fraction in sizes]
    session.journal.foresee(expect_sequence(session, *limits))
    for fraction in sizes:
        session.journal.about = f"FLOPs {fraction:g}: "
        try:
            fitted = fit_within(session, budget.limits | {"flops": fraction})
        except BudgetError:
            if best is None:
                raise
            stopped = f"no group can give more than FLOPs {fraction:g} asks"
            break
        found = fitted.agreement
        if fitted.point is not None:
            curve.append(fitted.point)
        if found is None or not found.bound >= budget.agreement:
            stopped = f"at FLOPs {fraction:g} the model agrees on {_tell(found)}"
            break
        if best is not None and best.fits != fitted.fits:
            session.journal.steps.forget(best.fits)
        best = fitted
    session.journal.about = ""
    if best is None:
        raise BudgetError(
            f"agreement={budget.agreement:g} cannot be certified together with {budget.limits}: "
            f"{stopped} (closest reachable). {_more_examples(session, curve)}"
        )
    if stopped:
        session.journal.note(f"the next smaller size could not be certified: {stopped}")
    return replace(best, curve=tuple(curve))


def _more_examples(session: Session, curve: list[Point]) -> str:
    """How many examples would certify the last size that was tried, if its rate stays."""
    budget = session.options.budget
    assert budget.agreement is not None
    if not curve:
        return "Give more calibration examples, or ask for less."
    wanted = sample_size(curve[-1].rate, budget.agreement)
    if wanted is None:
        return "At that rate no number of examples certifies it: ask for less."
    groups = session.statistics.calibration.groups
    needed = examples_to_hold_out(wanted, groups, budget)
    return (
        f"{needed:,} calibration examples certify it if that rate stays. Give as many, or ask for "
        "less."
    )


def _kept(session: Session, graph: GraphModule) -> float:
    """FLOPs over the original's."""
    example = session.captured.example
    return count_flops(graph, example) / max(count_flops(session.graph, example), 1)


def _tell(found: Agreement | None) -> str:
    """What was measured, and which of several outputs agrees least."""
    if found is None:
        return "none held-out examples, which certifies 0.00%"
    worst = min(
        (o for o in found.outputs if o.counts), key=lambda output: output.rate, default=None
    )
    several = worst is not None and sum(o.counts for o in found.outputs) > 1
    least = f"least in {worst.name}, {worst.rate:.2%}; " if worst and several else ""
    return (
        f"{found.rate:.2%} of {found.examples} held-out {found.unit}s ({least}decision: "
        f"{found.decision}), which certifies {found.bound:.2%}"
    )


def verify(session: Session, small: GraphModule) -> Agreement | None:
    """How often a fitted model decides like the original on the held-out examples, if any."""
    held_out, judge = session.split.held_out, session.judge
    if judge is None:
        return None
    stream = session.statistics.planned(held_out)
    with session.journal.station("verify", sum(b.size for b in stream.mine)) as advance:
        batches = (placed.batch for placed in session.statistics.shared(stream.mine, advance))
        independent = session.split.independent
        models = at_inputs(session.graph), at_inputs(small)
        padding, group = session.statistics.padding, session.statistics.group
        found = compare(*models, batches, judge, independent, padding, group)
    session.journal.decide(
        "the same decision on %.2f %% of %d held-out %ss, at least %.2f %%",
        *(100 * found.rate, found.examples, found.unit, 100 * found.bound),
    )
    return found.numbered(np.concatenate([batch.numbers for batch in stream.batches]))
