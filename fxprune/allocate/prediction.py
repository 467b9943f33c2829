"""The error that a trial of a candidate would show, learned from the candidates tried so far."""

import math

import numpy as np

from fxprune.allocate.problem import Candidate

USUAL_EXCESS = 3.0
"""A network's measured error over the sum of its groups' predicted ones, at uniform widths: 2 to
4.5 for most (docs/decisions/0029). Only what several ranks try ahead goes by it.
"""
RANKS_FACTOR = 1.3
"""Least measured error of ranks over predicted; more, and that of channels, is learned from the
candidates tried (docs/decisions/0011).
"""
RANKS_HANDICAP = 1.2
"""By how much less a candidate with ranks must be predicted to err to be tried before one without
(docs/decisions/0011).
"""
USUAL, GATHERED = 0.75, 1.3
"""The mix with uniform widths up to which errors compound alike where no trial says otherwise, and
by how much more the fully balanced widths', mix 1, do (docs/decisions/0019).
"""
NEGLIGIBLE = 1e-12
"""Relative errors below this count as this where one is divided by another."""

Tried = tuple[float, Candidate]
"""A candidate and the error that its trial showed."""


def predict_error(candidate: Candidate, tried: list[Tried]) -> float:
    """The error that a trial would show.

    Errors of channels compound from layer to layer, the more the fewer layers carry them. By how
    much more than their sum a network errs is seen in the candidates tried so far, and interpolated
    between their allocations; near balanced widths it is more, unless a trial says otherwise.
    Errors of ranks add up, unless a candidate with ranks that was tried shows more.

    Args:
        candidate: not tried yet.
        tried: at least one candidate without ranks.
    """
    if not candidate.ranks:
        return _of_channels(candidate, tried)
    shown = [
        (error - _of_channels(other, tried)) / max(sum(other.rank_errors.values()), NEGLIGIBLE)
        for error, other in tried
        if other.ranks
    ]
    of_ranks = max([RANKS_FACTOR, *shown]) * sum(candidate.rank_errors.values())
    return RANKS_HANDICAP * (_of_channels(candidate, tried) + of_ranks)


def least_error(outline: Candidate, tried: list[Tried]) -> float:
    """What `predict_error` gives at least for a candidate of these widths, whatever ranks it has.

    Args:
        outline: a candidate whose ranks are not chosen yet.
        tried: as `predict_error` takes them.
    """
    return RANKS_HANDICAP * _of_channels(outline, tried)


def _of_channels(candidate: Candidate, tried: list[Tried]) -> float:
    known = sorted(
        (other.mix, math.log(max(error, NEGLIGIBLE) / max(other.predicted, NEGLIGIBLE)))
        for error, other in tried
        if not other.ranks
    )
    mixes, excesses = [mix for mix, _ in known], [excess for _, excess in known]
    untried = max(0.0, candidate.mix - max(USUAL, mixes[-1])) / (1 - USUAL)
    excess = float(np.interp(candidate.mix, mixes, excesses)) + untried * math.log(GATHERED)
    return candidate.predicted * math.exp(excess)
