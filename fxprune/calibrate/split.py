"""Which calibration examples certify the result, validate fits and candidates, or are fitted."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fxprune.calibrate.groups import independent
from fxprune.calibrate.recording import VALIDATION
from fxprune.errors import BudgetError
from fxprune.linalg.first_enough import first_enough

VALIDATION_EXAMPLES, TRIAL_EXAMPLES = 192, 128
"""Most fitting examples that validate ridges and candidates, and most others that candidates are
fitted on while they are only tried (docs/decisions/0003, 0010).
"""
VALIDATION_SHARE, TRIAL_SHARE = 0.2, 0.4
"""Largest shares of the fitting examples, likewise."""
TRIAL, REST = "try", "rest"
"""The parts beside `VALIDATION`: what a candidate that is only tried is fitted on, and the rest."""
FITTED_FIRST = (TRIAL, REST)
"""The parts that fits see while the validation split validates them."""
EVERY_PART = (TRIAL, VALIDATION, REST)
"""All of the fitting examples."""


class HoldsOut(Protocol):
    """What says how many examples certify the result: a budget."""

    def held_out(self, examples: int, kind: str = "example") -> int:
        """How many of so many independent examples or groups."""


@dataclass(frozen=True)
class Split:
    """Calibration examples by what they are for; drawn once from the seed.

    No group stands in two of the parts, held out, trial, validation and rest.

    Attributes:
        held_out: (examples,) bool; they certify the result and take no part in anything else.
        order: numbers of the fitting examples, in random order, each group in one piece.
        groups: (examples,) number of every example's group.
    """

    held_out: np.ndarray
    order: np.ndarray
    groups: np.ndarray

    @property
    def fitting(self) -> int:
        """How many examples are not held out."""
        return len(self.order)

    @property
    def independent(self) -> float:
        """For how many independent examples the held-out ones count."""
        return independent(self.groups[self.held_out])

    def part(self, name: str) -> np.ndarray:
        """One of `EVERY_PART` as (examples,) bool."""
        validating = self._cut(0, _validating(self.fitting))
        trying = self._cut(
            validating, validating + min(TRIAL_EXAMPLES, int(self.fitting * TRIAL_SHARE))
        )
        bounds = {
            VALIDATION: slice(0, validating),
            TRIAL: slice(validating, trying),
            REST: slice(trying, None),
        }
        return self._mask(self.order[bounds[name]])

    @property
    def tried_on(self) -> tuple[str, ...]:
        """The parts that candidates are fitted and judged on: of very few examples none are for
        trials.
        """
        return (TRIAL, VALIDATION) if self.part(TRIAL).any() else EVERY_PART

    def first(self, count: int) -> np.ndarray:
        """At most so many of the fitting examples as (examples,) bool."""
        return self._mask(self.order[:count])

    def _cut(self, start: int, wanted: int) -> int:
        """The last border of two groups in `order` up to a position, or the first after `start`.

        Where there is none, a single group is cut after all, and a last one is not.
        """
        groups = self.groups[self.order]
        borders = np.flatnonzero(groups[1:] != groups[:-1]) + 1
        borders = borders[borders > start]
        if wanted == start or not len(borders):
            return wanted if wanted == start or start == 0 else len(groups)
        at = int(np.searchsorted(borders, wanted, side="right")) - 1
        return int(borders[max(at, 0)])

    def _mask(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        mask = np.zeros(len(self.held_out), dtype=bool)
        mask[numbers] = True
        return mask


def _validating(fitting: int) -> int:
    """How many of so many fitting examples validate."""
    return min(VALIDATION_EXAMPLES, int(fitting * VALIDATION_SHARE))


def examples_needed(fitted: int, groups: np.ndarray, budget: HoldsOut) -> int:
    """With how many calibration examples at least so many are neither held out nor validate.

    Args:
        fitted: how many are wanted.
        groups: (examples,) number of every example's group, whose size is taken to stay as it is.
        budget: what the held-out ones are to certify.
    """
    each = len(groups) / max(int(groups.max(initial=-1)) + 1, 1)

    def enough(total: int) -> bool:
        try:
            fitting = math.floor((total - budget.held_out(total)) * each)
        except BudgetError:
            return False
        return fitting - _validating(fitting) >= fitted

    return math.ceil(first_enough(enough) * each)


def examples_to_hold_out(held_out: int, groups: np.ndarray, budget: HoldsOut) -> int:
    """With how many calibration examples a budget holds out at least so many; arguments as for
    `examples_needed`.
    """
    each = len(groups) / max(int(groups.max(initial=-1)) + 1, 1)
    total = 1
    while True:
        with suppress(BudgetError):
            if budget.held_out(total) >= held_out:
                return math.ceil(total * each)
        total += max(total // 1000, 1)


def split_examples(
    examples: int, held_out: int, seed: int, groups: np.ndarray | None = None
) -> Split:
    """Draw which examples are held out, and the order of the others.

    Args:
        examples: how many there are.
        held_out: how many of them certify the result; of groups, as many of those.
        seed: of the draw; the same seed gives the same split.
        groups: (examples,) number of every example's group, from 0; each is its own by default.
    """
    numbers: np.ndarray = np.arange(examples) if groups is None else groups
    total = int(numbers.max(initial=-1)) + 1
    chosen = np.zeros(total, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(total)[:held_out]] = True
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~chosen))
    members: np.ndarray = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers, minlength=total))
    pieces = [members[ends[g - 1] if g else 0 : ends[g]] for g in order]
    return Split(chosen[numbers], np.concatenate([members[:0], *pieces]), numbers)


def draw_split(groups: np.ndarray, budget: HoldsOut, seed: int) -> Split:
    """Hold out as many groups as a budget asks for.

    Args:
        groups: (examples,) number of every example's group, from 0.
        budget: what the held-out ones are to certify.
        seed: of the draw.

    Raises:
        BudgetError: the groups are too few for the agreement asked for.
    """
    total, units = int(groups.max(initial=-1)) + 1, independent(groups)
    whole = math.floor(units + 1e-9)
    kind = "example" if total == len(groups) else "group"
    share = budget.held_out(whole, kind) * total / max(whole, 1)
    return split_examples(len(groups), math.ceil(share - 1e-9), seed, groups)
