"""Trials of a search's candidates. Of several ranks each tries another one, by itself, where the
search can tell beforehand which it will ask for.
"""

from collections.abc import Callable, Sequence
from functools import partial

from fxprune.allocate.problem import Candidate, Problem
from fxprune.calibrate.recording import Recording
from fxprune.fit.build import try_plan
from fxprune.graph.nodes import attribute
from fxprune.label.layers import own_layers

FORESEEN = 0.85
"""Share of the candidates tried ahead that are asked for (docs/decisions/0029)."""
A_FLOP, A_SOLVE, AN_EXCHANGE = 1.5e-11, 1e-10, 4e-3
"""Seconds of a trial for each FLOP of the whole model on the examples that it reads, for each of
the systems that it solves, and for what ranks say to each other on a layer (docs/decisions/0029).
They decide who tries what, on which no result depends.
"""


class Trials:
    """Errors of a search's candidates.

    Those that are tried ahead and never asked for change nothing.

    Args:
        problem: that the search is to solve.
    """

    def __init__(self, problem: Problem):
        self._problem, self._ahead = problem, dict[object, float]()

    def measure(self, candidate: Candidate, foreseen: Callable[[int], list[Candidate]]) -> float:
        """The error that a candidate shows; the same is asked for on all ranks.

        Args:
            candidate: that is tried now.
            foreseen: gives at most so many: this one, and what the search will ask for after it.
        """
        statistics = self._problem.session.statistics
        ranks = statistics.group.size
        if candidate.key not in self._ahead and ranks > 1:
            others = [other for other in foreseen(ranks) if other.key != candidate.key]
            if self._pays(1 + len(others)):
                self._deal([candidate, *others])
        error = self._ahead.pop(candidate.key, None)
        if error is None:
            return self._try(candidate, statistics.observed.recording)
        return error

    def _deal(self, candidates: Sequence[Candidate]) -> None:
        """Try candidates, each on another rank."""
        statistics = self._problem.session.statistics
        first, *others = (partial(self._try, one, statistics.alone) for one in candidates)
        tasks: list[Callable[[], float | None]] = [
            first,
            *(partial(_or_nothing, o) for o in others),
        ]
        errors = statistics.group.share(tasks, [1.0] * len(tasks), "trials")
        found = zip(candidates, errors, strict=True)
        self._ahead.update((c.key, error) for c, error in found if error is not None)

    def _try(self, candidate: Candidate, recording: Recording) -> float:
        session = self._problem.session
        keep_mask = self._problem.keep_mask(candidate.widths)
        return try_plan(session, keep_mask, candidate.ranks, recording)

    def _pays(self, candidates: int) -> bool:
        """Whether the ranks take less to try as many candidates one each than together."""
        session = self._problem.session
        split, ranks = session.split, session.statistics.group.size
        read = sum(int(split.part(part).sum()) for part in split.tried_on)
        passes = A_FLOP * read * session.statistics.work / max(split.fitting, 1)
        layers = own_layers(session.graph).values()
        features = (float(attribute(session.graph, own.weight)[0].numel()) for own in layers)
        solves = A_SOLVE * sum(size**3 / 3 for size in features)
        together = passes / ranks + solves + AN_EXCHANGE * len(layers)
        useful = 1 + FORESEEN * (candidates - 1)
        return candidates > 1 and passes + solves < useful * together


def _or_nothing(tried: Callable[[], float]) -> float | None:
    """The error of a candidate that is tried ahead; nothing where that fails: if it is asked for,
    all ranks try it, and say why.
    """
    try:
        return tried()
    except Exception:
        return None
