"""Station 6: rewrite the graph for a plan, fit what remains, and see how well it does."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from torch import nn
from torch.fx import GraphModule

from fxprune.fit.factor import factored
from fxprune.fit.fold import fold_all
from fxprune.fit.lockstep import Lockstep
from fxprune.label.analysis import attribute
from fxprune.passes import ReduceChannels
from fxprune.plans.factoring import Factoring
from fxprune.profile.removal import Profile
from fxprune.session import Session
from fxprune.verify.agreement import Agreement, compare, judge

FITTED = ("auto", "channels", "uniform", "pca")
"""Methods whose layers are refitted one after the other."""
PARTS = ("try", "validation", "rest")
"""All of the fitting examples."""
TRIAL_RIDGE = 0.1
"""Of every layer while a plan is only tried."""


def surviving_channels(
    session: Session, profiles: Sequence[Profile], widths: np.ndarray
) -> np.ndarray:
    """Surviving channels: the last ones of each group's removal order."""
    keep_mask = np.ones(len(session.analysis.group_of()), dtype=bool)
    for group, held, width in zip(session.analysis.groups, profiles, widths, strict=True):
        keep_mask[held.order[:, : group.width - int(width)].reshape(-1)] = False
    return keep_mask


def build(
    session: Session,
    keep_mask: np.ndarray,
    method: str,
    factorings: Mapping[str, Factoring] = MappingProxyType({}),
    parts: Sequence[str] = PARTS,
) -> GraphModule:
    """Rewrite the graph for a choice of channels and ranks, and fit what remains.

    Args:
        parts: of the fitting examples; with some of them a plan is only tried: ridges are not
            chosen, and layers of a lower rank stay one.
    """
    final = parts == PARTS
    with session.station("rewrite"):
        small = ReduceChannels(session.analysis, keep_mask, checked=final)(session.graph)
    if method == "magnitude":
        return small
    ours = method in FITTED
    with session.station("fit", len(session.graph.graph.nodes)) as advance:
        # A plan that is only tried must not have seen the examples that judge it; what is handed
        # over uses them all.
        folded = [
            {}
            if keep_mask.all()
            else fold_all(
                session.graph,
                session.analysis,
                keep_mask,
                session.statistics(everything),
                ridged=ours,
            )
            for everything in ((True, False) if ours and final else (not ours,))
        ]
        for name, weight in folded[0].items():
            attribute(small, name).data.copy_(weight)
        if ours:
            recording, ranks = (
                session.recorded(),
                {name: how.rank for name, how in factorings.items()},
            )
            chunks = [chunk for chunk in recording.chunks if chunk.part in parts]
            ridge = None if final else TRIAL_RIDGE
            Lockstep(
                session.graph,
                small,
                session.analysis,
                keep_mask,
                recording,
                ranks,
                folded[-1],
                ridge,
            ).run(chunks, advance)
    if not final:
        return small
    with session.station("rewrite"):
        return factored(small, factorings)


def trial(
    session: Session,
    keep_mask: np.ndarray,
    factorings: Mapping[str, Factoring] = MappingProxyType({}),
) -> float:
    """Relative output error of a plan that is fitted on part of the fitting examples, on another
    part; computed once.
    """
    key = keep_mask.tobytes(), tuple(factorings.items())
    if key not in session.trials:
        small = build(session, keep_mask, "auto", factorings, ("try",))
        with session.station("allocate"):
            session.trials[key] = judge(session.recorded(), small)
    return session.trials[key]


def verify(session: Session, small: nn.Module) -> Agreement | None:
    if not session.held_out.any():
        return None
    with session.station("verify", int(session.held_out.sum())) as advance:
        return compare(
            session.graph, small, session.batches(session.held_out, advance), session.decision
        )
