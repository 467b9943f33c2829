"""Whole candidates are fitted and tried on the validation split, and the best is kept."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from fxprune.allocate.balanced import balanced_widths
from fxprune.allocate.paper import iterative_widths
from fxprune.allocate.prediction import USUAL_EXCESS, Tried, least_error, predict_error
from fxprune.allocate.problem import Candidate, Problem
from fxprune.allocate.ranks import choose_ranks, components_work
from fxprune.allocate.trials import Trials
from fxprune.errors import BudgetError
from fxprune.fit.build import trial_error

SLACKS = (1.2, 1.5, 2.0, math.inf)
"""Budgets that channels are reduced to before ranks bring the model to the one asked for, as
multiples of it; at most the original (docs/decisions/0011).
"""
GAIN = 0.9
"""A candidate with ranks must err less than this share of what channels alone do: at equal FLOPs
two layers take longer than one (docs/decisions/0011).
"""
SAVING = 0.25
"""Of its cost, which a layer must save to become two in such a candidate (docs/decisions/0011)."""
MIXES, RANKED_MIXES = (1.0, 0.75, 0.5), (0.0, 0.5)
"""Allocations beside uniform, and those with slack for ranks: the geometric weight of the smallest
predicted error against uniform (docs/decisions/0003, 0011, 0019).
"""
WORTH_TRYING = 0.8
"""One more candidate is tried where it is predicted to err less than this share of what the best
of those tried does (docs/decisions/0011).
"""
VARIATION = 0.2
"""Standard deviation of the logarithm of a width's change, when widths are varied at random."""
REPETITIONS = 8
"""Variations in a row that were tried already before the search gives up."""


class Search:
    """Tries `effort` candidates, uniform widths always first, and one more where another is
    predicted to err much less than they show.

    Args:
        problem: what to allocate.
        ranked: whether layers may become two.
        before: a search of the same session under tighter limits of widths: what it tried is known,
            and only candidates that promise less than its best are tried.
    """

    def __init__(self, problem: Problem, ranked: bool, before: "Search | None" = None):
        self.problem, self.ranked, self._before = problem, ranked, before
        self.effort = problem.session.options.effort
        self.tried: list[Tried] = [] if before is None else list(before.tried)
        self._known, self._trials = len(self.tried), Trials(problem)
        # What looks ahead shares these, so that nothing is computed twice.
        self._listed, self._completed = list[Candidate](), dict[object, Candidate | None]()

    def best(self) -> Tried:
        """The candidate that errs least, with its error; one with ranks only where it is clearly
        better. Of an effort of 1 the first one, untried.
        """
        if self.effort == 1:
            return math.nan, next(self.candidates())
        session = self.problem.session
        for candidate in self._wanted():
            keep_mask = self.problem.keep_mask(candidate.widths)
            measure = partial(self._trials.measure, candidate, self._foreseen)
            error = trial_error(session, keep_mask, candidate.ranks, measure)
            self._tell(error, candidate)
            self.tried.append((error, candidate))
        return self._leader()

    def _wanted(self) -> Iterator[Candidate]:
        """Candidates to try, one after the other: each is among those tried before the next one is
        asked for.
        """
        seen, repeated = {candidate.key for _, candidate in self.tried}, 0
        for candidate in self._proposals():
            beyond = len(self.tried) - self._known - self.effort
            repeated = repeated + 1 if candidate.key in seen else 0
            if repeated > REPETITIONS or beyond > 0:
                return
            if beyond == 0 and not self._deserves_a_trial(candidate):
                return
            if not repeated:
                seen.add(candidate.key)
                yield candidate

    def _foreseen(self, count: int) -> list[Candidate]:
        """The candidate that is tried now, and those that will be if errors are as they are
        predicted: what the search does is done once more from its beginning, with what is known.

        Args:
            count: how many at most.
        """
        ahead, found = copy.copy(self), list[Candidate]()
        ahead.tried = self.tried[: self._known]
        for candidate in ahead._wanted():
            at = len(ahead.tried)
            if at >= len(self.tried):
                found.append(candidate)
            if len(found) == count:
                break
            error = self.tried[at][0] if at < len(self.tried) else ahead._expected(candidate)
            ahead.tried.append((error, candidate))
        return found

    def _expected(self, candidate: Candidate) -> float:
        """The error that a trial is expected to show, of the first one as of most networks."""
        if self.tried:
            return self.predicted_error(candidate)
        return USUAL_EXCESS * candidate.predicted

    def _tell(self, error: float, candidate: Candidate) -> None:
        """Log what a trial gave."""
        self.problem.session.journal.decide(
            "tried %d of %d groups narrower and %d layers as two: error %.1e on validation "
            "examples, %.1e predicted",
            int((candidate.widths < self.problem.valid.full).sum()),
            len(candidate.widths),
            len(candidate.ranks),
            error,
            candidate.predicted + sum(candidate.rank_errors.values()),
        )

    def candidates(self) -> Iterator[Candidate]:
        """Those with a reason, uniform widths first."""
        for outline in self._outlines():
            found = outline if outline.slack == 1.0 else self._with_ranks(outline)
            if found is not None:
                yield found

    def _outlines(self) -> Iterator[Candidate]:
        """The widths of the candidates; whose slack is not 1, those of the narrower layers that
        will have ranks.
        """
        problem = self.problem
        uniform = problem.uniform()
        yield self._whole(uniform, 0.0)
        balanced = balanced_widths(problem.profiles, problem.costs, problem.valid, problem.limits)

        def mixed(mix: float) -> np.ndarray:
            """A geometric mean of the two, as fractions of the groups' widths."""
            full = problem.valid.full
            return np.asarray((balanced / full) ** mix * (uniform / full) ** (1 - mix))

        yield from (self._whole(problem.scale(mixed(mix)), mix) for mix in MIXES)
        reference = self._reference()
        yield self._whole(reference, position(reference, uniform, balanced))
        if self.ranked:
            pairs = [(mix, slack) for mix in RANKED_MIXES for slack in self._slacks()]
            wider = {pair: problem.scale(mixed(pair[0]), pair[1]) for pair in pairs}
            distinct = {wider[pair].tobytes(): pair for pair in pairs}.values()
            yield from (self._outline(wider[pair], *pair) for pair in distinct)

    def _slacks(self) -> tuple[float, ...]:
        """Of the candidates with ranks: where the principal components of all layers cost more than
        the model does on the examples, layers keep their channels and the ranks are found once.
        """
        session = self.problem.session
        allowed = (self.effort - 1) * session.statistics.work
        return SLACKS if components_work(session) <= allowed else SLACKS[-1:]

    def _reference(self) -> np.ndarray:
        """The widths of the reference's allocation, by its own scores."""
        problem = self.problem
        profiles = problem.session.statistics.profiles("pivoted-qr")
        return iterative_widths(profiles, problem.costs, problem.valid, problem.limits)

    def predicted_error(self, candidate: Candidate) -> float:
        """The error that a trial would show, after what those so far have shown."""
        return predict_error(candidate, self.tried)

    def _deserves_a_trial(self, candidate: Candidate) -> bool:
        """Whether one is tried beyond the effort: those that were tried were unlucky, since trials
        are noisy, or badly predicted.
        """
        error, leader = self._leader()
        hopeful = self.predicted_error(candidate) < WORTH_TRYING * error
        return leader is self.tried[0][1] or hopeful

    def _leader(self) -> Tried:
        whole = min((t for t in self.tried if not t[1].ranks), key=lambda t: t[0])
        split = min((t for t in self.tried if t[1].ranks), key=lambda t: t[0], default=whole)
        return split if split[0] < GAIN * whole[0] else whole

    def _proposals(self) -> Iterator[Candidate]:
        """Candidates in the order they are worth trying; then variations of the best, forever.

        Ranks are chosen only where the widths alone promise less than every other candidate.
        """
        if not self._listed:
            self._listed += self._outlines()
        rest = [(outline, outline.slack == 1.0) for outline in self._listed]
        if not self.tried:
            yield rest.pop(0)[0]
        while rest:
            promises = [
                self.predicted_error(outline) if made else least_error(outline, self.tried)
                for outline, made in rest
            ]
            at = int(np.argmin(promises))
            if self._before is not None and not promises[at] < self._leader()[0]:
                return
            outline, made = rest.pop(at)
            if made:
                yield outline
                continue
            candidate = self._with_ranks_once(outline)
            if candidate is not None:
                rest.insert(at, (candidate, True))
        generator = np.random.default_rng(self.problem.session.options.seed)
        while True:
            leader = self._leader()[1]
            change = np.exp(VARIATION * generator.standard_normal(len(leader.widths)))
            shape = np.clip(leader.widths / self.problem.valid.full * change, 0, 1)
            wider = self.problem.scale(shape, leader.slack)
            if leader.ranks:
                varied = self._with_ranks_once(self._outline(wider, leader.mix, leader.slack))
            else:
                varied = self._whole(wider, leader.mix)
            yield leader if varied is None else varied

    def _whole(self, widths: np.ndarray, mix: float) -> Candidate:
        return self._outline(widths, mix, 1.0)

    def _outline(self, widths: np.ndarray, mix: float, slack: float) -> Candidate:
        return Candidate(widths, mix, slack, self.problem.predicted(widths))

    def _with_ranks_once(self, outline: Candidate) -> Candidate | None:
        """As `_with_ranks`, which looking ahead asks for as well."""
        key = outline.widths.tobytes(), outline.mix, outline.slack
        if key not in self._completed:
            self._completed[key] = self._with_ranks(outline)
        return self._completed[key]

    def _with_ranks(self, outline: Candidate) -> Candidate | None:
        """Widths within a looser budget, with ranks that bring them back to the limits.

        None where no ranks do.
        """
        problem = self.problem
        criterion = problem.session.options.method.ranks
        keep_mask = problem.keep_mask(outline.widths)
        try:
            ranks, errors = choose_ranks(
                problem.session, criterion, keep_mask, problem.limits, SAVING
            )
        except BudgetError:
            return None
        return replace(outline, ranks=ranks, rank_errors=errors) if ranks else None


def position(widths: np.ndarray, uniform: np.ndarray, balanced: np.ndarray) -> float:
    """The geometric mix of uniform and balanced widths that is nearest to others, 0 to 1."""
    toward, along = np.log(balanced / uniform), np.log(widths / uniform)
    length = float(toward @ toward)
    return float(np.clip(toward @ along / length, 0, 1)) if length else 0.0
