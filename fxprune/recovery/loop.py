"""The training itself: steps, evaluations and checkpoints until the budget is spent."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.progress import Journal
from fxprune.recovery.accelerating import agree
from fxprune.recovery.acceptance import Measured, partway, put_back
from fxprune.recovery.augmentation import Augmentation
from fxprune.recovery.checkpoint import Checkpoints, State
from fxprune.recovery.clock import Clock, Shown
from fxprune.recovery.examples import Stream
from fxprune.recovery.optimizer import SLOWER, set_rate
from fxprune.recovery.pair import Pair
from fxprune.recovery.training import Length, Training

WAYS = 1.0, 0.5, 0.25
"""Shares of the way from the best weights to those of a step, judged in this order until some are
acceptable. What few examples teach is part signal, part noise; noise grows with the way squared.
"""
TRIED, NOTICED = 0.5, 0.4
"""So far on the way to where steps lead, the divergence on examples that are trained on may rise by
this share of what that on the acceptance examples was at the start; where it rises by more, steps
are too large. Fits reproduce best what they were fitted to, and the first steps lose some of that:
up to three tenths where the steps are right, half and more where they are not
(docs/decisions/0038).
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
        rehearse: measures them on some that are trained on.
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
    rehearse: Callable[[], Measured]
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
        clock, loss, shown = Clock(state.seconds), 0.0, Shown(self.journal, state, total, units)
        state.began = min(state.began, shown.spent / units)  # of a budget that was smaller
        with self.journal.station("recover", units - shown.spent) as advance:
            while not state.stopped:
                due = clock.tell(state, loss, self.accelerator, self.training.save_seconds)
                advance(shown.newly())
                done = min(1.0, shown.spent / units)
                if done * self.training.evaluations >= state.evaluated + 1:
                    self._evaluate(state, done)
                self._try_steps(state, done)
                if due or done >= 1:
                    self.checkpoints.save(state)
                if done >= 1:
                    break
                if not state.stopped:
                    loss = self._step(state, done)
        self.checkpoints.save(state)

    def _try_steps(self, state: State, done: float) -> None:
        """Once the rate is up, look where steps lead on what is trained on: part of the way there
        it is down, or they are too large. What few acceptance examples say comes later, and is
        mostly noise.
        """
        since = done - state.began
        if state.tried or done >= 1 or since <= 0 or since < self.training.warmup:
            return
        state.tried, worse = True, False
        self.pair.set_mode(False, True)
        if self.accelerator.is_main_process:
            with partway(self.pair.small, state.best.weights, 0.0):
                before = self.rehearse()
            with partway(self.pair.small, state.best.weights, TRIED):
                found = self.rehearse()
            self.journal.decide(
                "step %d, %g of the way: divergence %.2e on examples that are trained on, %.2e "
                "before",
                *(state.step, TRIED, found.divergence, before.divergence),
            )
            risen = found.divergence - before.divergence
            noticed = risen > NOTICED * state.best.start.divergence
            worse = noticed and found.clearly_above(before)
        if agree(self.accelerator, float(worse))[0]:
            self._go_back(state, done)

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
            self._go_back(state, done)
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

    def _go_back(self, state: State, done: float) -> None:
        """Begin again from the best weights, with smaller steps: how large they may be depends on
        the model, and matrices of a thin one bear a thirtieth of what another needs.
        """
        put_back(self.pair.small, state.best.weights)
        self.optimizer.load_state_dict(self.fresh)
        for average, own in zip(state.average, self.pair.trained, strict=False):
            average.copy_(own.detach())
        state.rate *= SLOWER
        state.began, state.tried = done, False
        self.journal.decide(
            "even there clearly worse: back to step %d, with matrices at %.2g times the rate",
            *(state.best.step, state.rate),
        )

    def _step(self, state: State, done: float) -> float:
        """One step of the optimizer, of `accumulate` batches; its loss."""
        set_rate(self.optimizer, self.training.rate_at(done, state.began), state.rate)
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
