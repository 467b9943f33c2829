"""The time that a training takes, and what of it is shown as done."""

import math
import time
from typing import Any

from fxprune.forecast import ExpectedCost, Stage
from fxprune.progress import Journal
from fxprune.recovery.accelerating import agree
from fxprune.recovery.checkpoint import State

FEW_STEPS = 3
"""Steps, or seconds, that say how long the rest takes."""


class Shown:
    """What of a training is shown as done, by steps or by seconds.

    Args:
        journal: to show it.
        state: of the training, from where it goes on.
        total: steps; None where seconds are the budget.
        units: the budget, steps or seconds.
    """

    def __init__(self, journal: Journal, state: State, total: int | None, units: float):
        self._journal, self._state, self._total, self._units = journal, state, total, units
        self._first, self._before, self._foreseen = self.spent, state.seconds, False
        self._last = self._first

    @property
    def spent(self) -> float:
        """Of the budget."""
        return self._state.step if self._total else self._state.seconds

    def newly(self) -> float:
        """Spent since it was asked last; foresees the rest from the first few steps."""
        newly, self._last = self.spent - self._last, self.spent
        done, took = self.spent - self._first, self._state.seconds - self._before
        if not self._foreseen and self._state.step and done >= FEW_STEPS:
            whole = took / done * (self._units - self._first)
            self._journal.foresee(ExpectedCost([Stage("recover", {"recover": [whole]})], whole))
            self._foreseen = True
        return newly


class Clock:
    """The time of the first process, which all go by.

    Args:
        seconds: of training before a resumption.
    """

    def __init__(self, seconds: float):
        self._start = time.monotonic() - seconds
        self._saved = time.monotonic()

    def tell(self, state: State, loss: float, accelerator: Any, every: float) -> bool:
        """Set the time of training, and whether it fails; whether a checkpoint is due."""
        now = time.monotonic()
        due = state.step > 0 and now - self._saved >= every
        seconds, late, failed = agree(
            accelerator, now - self._start, float(due), float(not math.isfinite(loss))
        )
        state.seconds = seconds
        if failed:
            state.stopped = (
                f"training stopped after {state.step} steps: the loss was no longer finite; a "
                "smaller rate may help"
            )
        if late:
            self._saved = now
        return bool(late)
