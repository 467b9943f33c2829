"""Stations 5 and 6: allocate widths, rewrite the graph, fit what remains."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from torch import nn
from torch.fx import GraphModule

from fxprune import allocate
from fxprune.costs import CostModel
from fxprune.factoring import Factoring
from fxprune.fold import fold_all
from fxprune.latency import Closed, close
from fxprune.lockstep import Lockstep, LockstepOptions
from fxprune.low_rank import factored
from fxprune.passes import ReduceChannels
from fxprune.profile import Profile
from fxprune.session import Session
from fxprune.verify import Agreement, compare

FITTED = ("auto", "joint", "uniform", "pca")
"""Methods whose layers are refitted one after the other."""
STEP = 0.9
"""Share of a group's width that one step of the reference method keeps."""
SEARCH_EXAMPLES = 256
SEARCH_ROWS = 8
"""Observations per feature that judge a plan; the plan that wins is fitted on three times as many."""
BASELINES = ("paper", "paper-uniform", "magnitude")
"""Methods that know nothing of redundant channels."""
BLENDS = ((1.0, 1.0), (1.0, 0.5), (0.5, 0.5))
"""Candidates beside uniform: the power of the groups' errors that is summed, and the geometric weight against uniform."""


def surviving_channels(session: Session, profiles: Sequence[Profile], widths: np.ndarray) -> np.ndarray:
    """Surviving channels: the last ones of each group's removal order."""
    alive = np.ones(len(session.analysis.group_of()), dtype=bool)
    for group, held, width in zip(session.analysis.groups, profiles, widths, strict=True):
        alive[held.order[:, : group.width - int(width)].reshape(-1)] = False
    return alive


def build(
    session: Session, alive: np.ndarray, method: str, factorings: Mapping[str, Factoring] = MappingProxyType({}),
    fit: np.ndarray | None = None, rows: int = LockstepOptions.rows,
) -> GraphModule:  # fmt: skip
    """Rewrite the graph for a choice of channels and ranks, and fit what remains."""
    fit = session.fit if fit is None else fit
    with session.station("rewrite"):
        small = ReduceChannels(session.analysis, alive)(session.graph)
    if method == "magnitude":
        return small
    ours = method in FITTED
    moments = {} if alive.all() else session.statistics()
    with session.station("fit", len(session.graph.graph.nodes)) as advance:
        fold_all(session.graph, small, session.analysis, alive, moments, ridged=ours)
        if ours:
            options = LockstepOptions(rows=rows, memory=session.memory, seed=session.seed)
            ranks = {name: how.rank for name, how in factorings.items()}
            Lockstep(session.graph, small, session.analysis, alive, options, ranks).run(session.batches(fit), advance)
    with session.station("rewrite"):
        return factored(small, factorings)


def allocate_widths(session: Session, method: str, selector: str, limits: dict[str, float]) -> tuple[list[Profile], np.ndarray]:
    """Station 5: widths of every group by the method asked for."""
    profiles = session.profile(selector)
    if method in BASELINES:
        profiles = [Profile(p.order, p.errors, p.scores, 0) for p in profiles]
    valid = allocate.Widths(session.analysis.groups, profiles, session.round_to, session.floor)
    costs = session.costs(limits)
    choose = _timed if "latency" in limits else _chosen
    return profiles, choose(session, method, profiles, costs, valid, limits)


def _chosen(
    session: Session, method: str, profiles: list[Profile], costs: CostModel, valid: allocate.Widths, limits: dict[str, float]
) -> np.ndarray:
    """Widths under limits that the cost model knows."""
    with session.station("allocate"):
        if method == "paper":
            return allocate.iterative(profiles, costs, valid, limits, STEP)
        if method not in ("auto", "joint") or allocate.fits(costs, valid.largest, limits):
            return allocate.uniform(costs, valid, limits)
    return _search(session, profiles, costs, valid, limits)


def _timed(
    session: Session, method: str, profiles: list[Profile], costs: CostModel, valid: allocate.Widths, limits: dict[str, float]
) -> np.ndarray:
    """Widths whose rewritten graph was measured: uniform ones correct the cost model first, so that the plans tried are of the right size."""
    gauge = session.gauge
    assert gauge is not None

    def closed(shape: np.ndarray, start: float | None) -> Closed:
        with session.station("measure"):
            return close(
                lambda widths: gauge.ratio_at(session.graph, session.analysis, widths), limits["latency"], valid.smallest,
                lambda widths: costs.fractions(widths)["latency"],
                lambda limit: allocate.scaled(shape, costs, valid, {**limits, "latency": limit}), gauge.workload, start,
            )  # fmt: skip

    found = closed(np.ones(len(valid.full)), None)
    if method in ("auto", "paper"):
        widths = _chosen(session, method, profiles, costs, valid, {**limits, "latency": found.limit})
        found = closed(widths / valid.full, found.limit)
    session.latency = found.measured
    return found.widths


def _search(session: Session, profiles: list[Profile], costs: CostModel, valid: allocate.Widths, limits: dict[str, float]) -> np.ndarray:
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
    errors = [trial(session, surviving_channels(session, profiles, widths)) for widths in unique]
    return unique[int(np.argmin(errors))]


def trial(session: Session, alive: np.ndarray, factorings: Mapping[str, Factoring] = MappingProxyType({})) -> float:
    """Relative output error of a plan that is fitted on part of the fitting examples, on another part; computed once."""
    key = alive.tobytes(), tuple(factorings.items())
    if key not in session.trials:
        chosen = np.flatnonzero(session.fit)
        half = chosen[np.random.default_rng(session.seed).permutation(len(chosen))[: 2 * SEARCH_EXAMPLES]]
        fit, judge = np.zeros_like(session.fit), np.zeros_like(session.fit)
        fit[half[: len(half) // 2]] = True
        judge[half[len(half) // 2 :]] = True
        small = build(session, alive, "auto", factorings, fit, SEARCH_ROWS)
        with session.station("allocate"):
            session.trials[key] = compare(session.graph, small, session.batches(judge)).error
    return session.trials[key]


def verify(session: Session, small: nn.Module) -> Agreement | None:
    if not session.held_out.any():
        return None
    with session.station("verify", int(session.held_out.sum())) as advance:
        return compare(session.graph, small, session.batches(session.held_out, advance), session.decision)
