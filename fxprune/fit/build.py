"""Reduce the graph for a keep mask, fit what remains, make two layers of those of lower rank."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.moments import InputMoments, Site
from fxprune.calibrate.recording import Recording
from fxprune.calibrate.split import EVERY_PART
from fxprune.distributed.group import Group
from fxprune.fit.factor import factorize_layers
from fxprune.fit.fold import Folds
from fxprune.fit.layer import FitOptions, FittedTensors
from fxprune.fit.lockstep import fit_in_lockstep, order_layers
from fxprune.fit.reduction import Reduction
from fxprune.graph.nodes import attribute
from fxprune.graph.tensors import rewrite
from fxprune.passes import ReduceChannels
from fxprune.plans.factoring import Factoring
from fxprune.progress import Journal
from fxprune.resume.identity import fingerprint
from fxprune.session import Session
from fxprune.verify.agreement import ValidationErrors

TRIAL_RIDGES = (0.1, 1.0)
"""That a layer's is chosen from while a candidate is only tried (docs/decisions/0010, 0028)."""
TRIAL_JUDGED = 2
"""Of so many chunks of the validation split, one is looked at for that (docs/decisions/0031)."""
WHOLE: Mapping[str, Factoring] = MappingProxyType({})
"""Every layer stays one."""


def build(
    session: Session, keep_mask: np.ndarray, factorings: Mapping[str, Factoring] = WHOLE
) -> GraphModule:
    """The graph of a plan, fitted as the session's method says.

    Args:
        session: what was captured and observed.
        keep_mask: (channels + 1,) bool.
        factorings: of layers that become two, by the name of their weight.
    """
    journal, fit = session.journal, session.options.method.fit
    with journal.station("rewrite"):
        small = _reduce(session, keep_mask)(session.graph).graph_module
    if fit != "none":
        observed = session.statistics.observed
        fold = partial(_fold, session, keep_mask, fit == "sequential", session.statistics.group)
        with journal.station("fit", len(order_layers(session.graph)[1])) as advance:
            # What is handed over uses every example; a ridge is chosen by fits that did not see
            # those which validate it.
            _place(small, fold(observed.all_moments))
            if fit == "sequential":
                unseen = fold(observed.moments)
                scope = name_fits(session, keep_mask, factorings)
                once = partial(_fit_once, journal, scope)
                options = FitOptions(_ranks(factorings), unseen, step=once)
                recording = observed.recording
                reduction = Reduction(session.graph, small, session.analysis, keep_mask)
                fit_in_lockstep(reduction, recording, EVERY_PART, options, advance)
    with journal.station("rewrite"):
        return factorize_layers(small, factorings)


def name_fits(
    session: Session, keep_mask: np.ndarray, factorings: Mapping[str, Factoring] = WHOLE
) -> str:
    """How the steps in which a plan's layers are fitted begin."""
    plan = fingerprint((session.statistics.rotations, keep_mask, factorings))
    return f"fit {plan.rpartition(':')[2][:12]}"


def _fit_once(
    journal: Journal, scope: str, weight: str, fit: Callable[[], FittedTensors]
) -> FittedTensors:
    return journal.step(f"{scope} {weight}", (), FittedTensors, fit)


def trial_error(
    session: Session,
    keep_mask: np.ndarray,
    factorings: Mapping[str, Factoring] = WHOLE,
    measure: Callable[[], float] | None = None,
) -> float:
    """Relative output error of a candidate, once however often a run goes on.

    Args:
        session: what was captured and observed.
        keep_mask: (channels + 1,) bool.
        factorings: of layers that become two, by the name of their weight.
        measure: gives it; by default `try_plan`, by all ranks together.
    """

    def tried() -> float:
        return try_plan(session, keep_mask, factorings, session.statistics.observed.recording)

    key = (session.statistics.rotations, keep_mask, factorings)
    return session.journal.step("trial", key, float, measure or tried)


def try_plan(
    session: Session,
    keep_mask: np.ndarray,
    factorings: Mapping[str, Factoring],
    recording: Recording,
) -> float:
    """Relative output error, on the validation split, of a candidate fitted on the trial part.

    Layers are fitted at one of two ridges where that helps on the validation split, and those of a
    lower rank stay one.

    Args:
        session: what was captured and observed.
        keep_mask: (channels + 1,) bool.
        factorings: of layers that become two, by the name of their weight.
        recording: of the session's graph: the one that all ranks share, or one rank's own.
    """
    journal = session.journal
    with journal.station("rewrite"):
        small = _reduce(session, keep_mask).call(session.graph).graph_module
    with journal.station("fit", len(order_layers(session.graph)[1])) as advance:
        moments = session.statistics.observed.moments
        _place(small, _fold(session, keep_mask, True, recording.sums.group, moments))
        ranks = _ranks(factorings)
        options = FitOptions(ranks, ridges=TRIAL_RIDGES, both=False, judged=TRIAL_JUDGED)
        errors = ValidationErrors(recording)
        fit_in_lockstep(
            Reduction(session.graph, small, session.analysis, keep_mask),
            recording,
            session.split.tried_on,
            options,
            advance,
            errors.count,
        )
        return errors.mean()


def _reduce(session: Session, keep_mask: np.ndarray) -> ReduceChannels:
    """Weights that stay whole lie where the original's lie: fitting gives tensors other data."""
    return ReduceChannels(session.analysis, keep_mask, shared=True)


def _fold(
    session: Session,
    keep_mask: np.ndarray,
    ridged: bool,
    group: Group,
    moments: Mapping[Site, InputMoments],
) -> Mapping[str, Tensor]:
    """One-shot fits of the consumers of removed channels, by weight."""
    folds = Folds(session.graph, session.analysis, keep_mask, moments, ridged)
    return folds.among(group)


def _place(small: GraphModule, weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        rewrite(attribute(small, name), weight)


def _ranks(factorings: Mapping[str, Factoring]) -> dict[str, int]:
    return {name: how.rank for name, how in factorings.items()}
