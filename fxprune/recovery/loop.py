"""The training itself: steps, evaluations and checkpoints until the budget is spent."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.forecast import ExpectedCost, Stage
from fxprune.progress import Journal
from fxprune.recovery.accelerating import agree
from fxprune.recovery.acceptance import Measured, partway, put_back
from fxprune.recovery.augmentation import Augmentation
from fxprune.recovery.checkpoint import Checkpoints, State
from fxprune.recovery.examples import Stream
from fxprune.recovery.optimizer import SLOWER, set_rate
from fxprune.recovery.pair import Pair
from fxprune.recovery.training import Length, Training

FEW_STEPS = 3
"""Steps, or seconds, that say how long the rest takes."""
WAYS = 1.0, 0.5, 0.25
"""Shares of the way from the best weights to those of a step, judged in this order until some are
acceptable. What few examples teach is part signal, part noise; noise grows with the way squared.
"""
YOUNG = 10
"""A moving average follows the first steps faster, at (1 + step) / (YOUNG + step)."""


@dataclass(frozen=True)
class Loop:
    """Everything that a training reads.

    Attributes:
        pair: both models.
        stream: of training examples.
        labels: (examples, ...) class numbers; None without.
        augmentation: of every batch.
        training, length: how, and how long.
        examine: measures the weights on the acceptance examples.
        accelerator: accelerate's.
        student, optimizer: as accelerate wrapped them.
        fresh: the optimizer's state before any step.
        checkpoints: of this training.
        journal: for the progress.
    """

    pair: Pair
    stream: Stream
    labels: Tensor | None
    augmentation: Augmentation
    training: Training
    length: Length
    examine: Callable[[], Measured]
    accelerator: Any
    student: nn.Module
    optimizer: Any
    fresh: dict[str, Any]
    checkpoints: Checkpoints
    journal: Journal

    def run(self, state: State) -> None:
        """Train until the budget is spent, or evaluations stay without a better one.

        Args:
            state: from where; changed.
        """
        if self.training.average:
            state.average = [p.detach().clone() for p in self.pair.trained]
        self.checkpoints.resume(state)
        per_step = self.stream.size * self.training.accumulate * self.stream.processes
        total = self.length.total_steps(int(self.stream.training.sum()), per_step)
        units = float(total or self.length.seconds or 1)
        clock, loss, shown = _Clock(state.seconds), 0.0, _Shown(self.journal, state, total, units)
        with self.journal.station("recover", units - shown.spent) as advance:
            while not state.stopped:
                due = clock.tell(state, loss, self.accelerator, self.training.save_seconds)
                advance(shown.newly())
                done = min(1.0, shown.spent / units)
                if done * self.training.evaluations >= state.evaluated + 1:
                    self._evaluate(state, done)
                if due or done >= 1:
                    self.checkpoints.save(state)
                if done >= 1:
                    break
                if not state.stopped:
                    loss = self._step(state, done)
        self.checkpoints.save(state)

    def _evaluate(self, state: State, done: float) -> None:
        """Look at the acceptance examples in the first process, and tell the others."""
        state.evaluated = max(state.evaluated + 1, int(done * self.training.evaluations))
        self.pair.set_mode(False, True)
        with _swapped(self.pair.trained, state.average):
            own = self.accelerator.is_main_process
            found, way = self._judge(state) if own else (Measured(0.0, math.inf), 0.0)
            worse = own and not way and found.clearly_above(state.best.start)
            rate, divergence, way, worse = agree(
                self.accelerator, found.rate, found.divergence, way, float(worse)
            )
            state.best.stale += 1
            if way:
                found = found if own else Measured(rate, divergence)
                with partway(self.pair.small, state.best.weights, way):
                    state.best.take(found, state.step, self.pair.weights(), way)
        if worse:
            self._go_back(state)
        if state.best.stale >= self.training.patience:
            state.stopped = (
                f"training stopped after {state.step} steps: {state.best.stale} evaluations in a "
                "row were not accepted"
            )

    def _judge(self, state: State) -> tuple[Measured, float]:
        """What the acceptance examples say of the weights, or of those part of the way to them from
        the best ones: of the first that are acceptable, with their share of the way; of the last
        that were looked at, with 0, where none are.
        """
        found = Measured(0.0, math.inf)
        for way in WAYS:
            with partway(self.pair.small, state.best.weights, way):
                found = self.examine()
            self.journal.decide(
                "step %d%s: the same decision on %.2f %% of the acceptance examples, "
                "divergence %.2e",
                *(state.step, "" if way == 1 else f", {way:g} of the way"),
                *(100 * found.rate, found.divergence),
            )
            if state.best.accepts(found):
                return found, way
        return found, 0.0

    def _go_back(self, state: State) -> None:
        """Begin again from the best weights, with smaller steps: how large they may be depends on
        the model, and matrices of a thin one bear a thirtieth of what another needs.
        """
        put_back(self.pair.small, state.best.weights)
        self.optimizer.load_state_dict(self.fresh)
        for average, own in zip(state.average, self.pair.trained, strict=False):
            average.copy_(own.detach())
        state.rate *= SLOWER
        self.journal.decide(
            "even there clearly worse than at the start: back to step %d, with matrices at %.2g "
            "times the rate",
            *(state.best.step, state.rate),
        )

    def _step(self, state: State, done: float) -> float:
        """One step of the optimizer, of `accumulate` batches; its loss."""
        set_rate(self.optimizer, self.training.rate_at(done), state.rate)
        self.pair.set_mode(True, self.training.freeze_statistics)
        total = 0.0
        for _ in range(self.training.accumulate):
            with self.accelerator.accumulate(self.student):
                loss = self._loss(state.batches)
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.optimizer.zero_grad()
            state.batches += 1
            total += float(loss.detach())
        state.step += 1
        if state.average:
            decay = min(self.training.average, (1 + state.step) / (YOUNG + state.step))
            with torch.no_grad():
                for average, own in zip(state.average, self.pair.trained, strict=True):
                    average.lerp_(own, 1 - decay)
        return total / self.training.accumulate

    def _loss(self, number: int) -> Tensor:
        """Of a batch, whose examples may come as several calls."""
        losses, sizes = list[Tensor](), list[int]()
        for numbers, batch in self.stream.batch(number):
            made = self.augmentation(batch)
            labels = None
            if self.labels is not None:
                rows = torch.from_numpy(np.resize(numbers, batch.size))  # copies have labels, too
                labels = self.labels[rows].to(self.pair.device)
            partner = made.partner
            if partner is not None:
                partner = partner[0].to(self.pair.device), partner[1].to(self.pair.device)
            (moved,) = self.pair.batches([made.batch])
            losses.append(self.pair.loss(self.student, moved, self.training, labels, partner))
            sizes.append(batch.size)
        weights = torch.tensor(sizes, device=self.pair.device) / sum(sizes)
        return (torch.stack(losses) * weights).sum()


class _Shown:
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


class _Clock:
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


@contextmanager
def _swapped(parameters: list[nn.Parameter], values: list[Tensor]) -> Iterator[None]:
    """Other values in the parameters; their own come back."""
    own = [p.detach().clone() for p in parameters] if values else []
    with torch.no_grad():
        for parameter, value in zip(parameters, values or [], strict=False):
            parameter.copy_(value)
        try:
            yield
        finally:
            for parameter, value in zip(parameters, own, strict=False):
                parameter.copy_(value)
