"""Which calibration examples certify the result, validate fits and candidates, or are fitted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.calibrate.recording import VALIDATION

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


@dataclass(frozen=True)
class Split:
    """Calibration examples by what they are for; drawn once from the seed.

    Attributes:
        held_out: (examples,) bool; they certify the result and take no part in anything else.
        order: numbers of the fitting examples, in random order.
    """

    held_out: np.ndarray
    order: np.ndarray

    @property
    def fitting(self) -> int:
        """How many examples are not held out."""
        return len(self.order)

    def part(self, name: str) -> np.ndarray:
        """One of `EVERY_PART` as (examples,) bool."""
        validating = min(VALIDATION_EXAMPLES, int(self.fitting * VALIDATION_SHARE))
        trying = validating + min(TRIAL_EXAMPLES, int(self.fitting * TRIAL_SHARE))
        bounds = {
            VALIDATION: slice(0, validating),
            TRIAL: slice(validating, trying),
            REST: slice(trying, None),
        }
        return self._mask(self.order[bounds[name]])

    def first(self, count: int) -> np.ndarray:
        """At most so many of the fitting examples as (examples,) bool."""
        return self._mask(self.order[:count])

    def _mask(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        mask = np.zeros(len(self.held_out), dtype=bool)
        mask[numbers] = True
        return mask


def split_examples(examples: int, held_out: int, seed: int) -> Split:
    """Draw which examples are held out, and the order of the others.

    Args:
        examples: how many there are.
        held_out: how many of them certify the result.
        seed: of the draw; the same seed gives the same split.
    """
    chosen = np.zeros(examples, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(examples)[:held_out]] = True
    return Split(chosen, np.random.default_rng(seed).permutation(np.flatnonzero(~chosen)))
