"""The stations of a recovery in order: read, capture, divide, train, accept, certify, hand over."""

import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.fx import GraphModule

from fxprune.calibrate.groups import Groups
from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.reading import ignore_item
from fxprune.calibrate.soundness import random_outputs, require_sizes
from fxprune.calibrate.spill import Spill
from fxprune.capture.export import Captured
from fxprune.capture.precision import callers_precision
from fxprune.capture.undisturbed import undisturbed
from fxprune.errors import PlanError, UnsupportedError, warn_caller
from fxprune.handover.advice import advise_recovered
from fxprune.handover.report import Report, attach, plan_of, report
from fxprune.handover.rows import RecoveryRow
from fxprune.intake import capture_for, reading
from fxprune.options import DEFAULTS
from fxprune.progress import Journal
from fxprune.recovery.accelerating import accelerated, share
from fxprune.recovery.acceptance import Best, Examiner, copies, put_back
from fxprune.recovery.augmentation import Augment, Augmentation, read_augment
from fxprune.recovery.checkpoint import Checkpoints, State, identify
from fxprune.recovery.examples import Labels, Parts, Stream, divide, drawn
from fxprune.recovery.features import require_same_model
from fxprune.recovery.heap import memory_kept
from fxprune.recovery.loop import Loop
from fxprune.recovery.optimizer import load_soap, make_optimizer
from fxprune.recovery.pair import Pair, make_pair, require_form
from fxprune.recovery.training import Length, Training
from fxprune.recovery.views import AS_THEY_ARE, Views, views_for
from fxprune.session import JUDGED_ON
from fxprune.verify.agreement import Agreement, compare
from fxprune.verify.judge import Decision, Judge
from fxprune.verify.sampled import padding_of, settle_on

EXAMINED = 256
"""Examples per batch where nothing is trained."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What `recover` was asked for.

    Attributes:
        training, length: how, and how long.
        labels: whether cross entropy against the loader's labels is mixed in.
        augment: changes of every batch.
        decision, groups: as `compress` was given.
        checkpoint: folder; None for none.
        progress: show a bar, as `compress`.
        seed: of all that is drawn.
        memory: bytes of examples held before they spill to disk.
    """

    training: Training
    length: Length
    labels: bool
    augment: Augment
    decision: Decision
    groups: Groups | None
    checkpoint: Path | None
    progress: bool
    seed: int
    memory: float


@dataclass(frozen=True)
class Prepared:
    """What is known before training.

    Attributes:
        captured: the original.
        calibration: its examples.
        parts: of them.
        judge: what decides.
        augmentation: of batches.
        views: of the acceptance examples.
        labels: reader of labels; None without.
    """

    captured: Captured
    calibration: Calibration
    parts: Parts
    judge: Judge
    augmentation: Augmentation
    views: Views
    labels: Labels | None

    def examiner(self, pair: Pair, part: np.ndarray, views: Views) -> Examiner:
        """Of the examples of a part, (examples,) bool."""
        batches = partial(self.calibration.batches, part)
        return Examiner(pair, batches, self.calibration.groups[part], self.judge, views)


def recover_whole(small: nn.Module, model: nn.Module, loader: Any, wish: Wish) -> GraphModule:
    """`recover`, its arguments checked."""
    before = report(small)
    if not isinstance(small, GraphModule):
        raise PlanError(
            f"A {type(small).__name__} cannot be recovered. Pass what compress or "
            "load(path) returned, not load(path, into=...)."
        )
    if wish.training.optimizer == "soap":
        load_soap()
    with undisturbed(model, wish.seed), accelerated(wish.training) as accelerator:
        own = accelerator.is_main_process
        with Journal(bool(wish.progress), speaks=own) as journal:
            prepared = _prepare(small, model, loader, wish, journal)
            made = _train(small, prepared, wish, accelerator, journal)
            with journal.station("certify"):
                result = _hand_over(small, made, prepared, before, journal, accelerator)
        advice = report(result).advice
        if advice and own:
            warn_caller(advice)
    return result


def _prepare(
    small: GraphModule, model: nn.Module, loader: Any, wish: Wish, journal: Journal
) -> Prepared:
    """Read, capture, divide and settle what decides: everything that can be refused.

    Raises:
        CaptureError, CalibrationError, PlanError, UnsupportedError: each says what and why.
    """
    labels = Labels(model) if wish.labels else None
    watch = ignore_item if labels is None else labels.read
    store = Spill(wish.memory)
    with reading(journal, watch) as read:
        calibration = Calibration(model, loader, EXAMINED, store, wish.groups, watch=read)
    with journal.station("capture"):
        captured = capture_for(model, calibration, DEFAULTS)
        random = random_outputs(captured.graph, model, captured.example)
        require_sizes(captured.graph, model, calibration, values=random is None)
    require_same_model(captured.graph, small, plan_of(small))
    require_form(small, captured.example)
    parts = divide(calibration, report(small), wish.seed)
    judge = _judge(captured, calibration, parts, wish.decision, report(small))
    journal.decide("decision: %s", judge)
    if labels is not None:
        _require_classes(judge)
    augmentation = read_augment(wish.augment, model, captured.example)
    views = views_for(augmentation, int(parts.acceptance.sum()), wish.seed)
    return Prepared(captured, calibration, parts, judge, augmentation, views, labels)


def _judge(
    captured: Captured,
    calibration: Calibration,
    parts: Parts,
    decision: Decision,
    before: Report,
) -> Judge:
    """What decides, as `compress` settled it.

    Raises:
        UnsupportedError: `compress` judged by something else.
    """
    few = parts.training & (parts.training.cumsum() <= JUDGED_ON)
    judge = settle_on(captured.graph, calibration.batches(few), decision)
    told = before.agreement.decision if before.agreement is not None else ""
    if told and told != str(judge):
        raise UnsupportedError(
            f"compress judged by: {told}; recover would by: {judge}. Pass the same decision= as "
            "there."
        )
    return judge


def _require_classes(judge: Judge) -> None:
    counted = [judged for judged in judge.outputs if judged.counts]
    if len(counted) != 1 or counted[0].rule.name != "argmax":
        raise UnsupportedError(
            "labels=True mixes in cross entropy, which is for one output with classes, judged by "
            f"argmax; here it is: {judge}. Leave labels= out."
        )


def _train(
    small: GraphModule, prepared: Prepared, wish: Wish, accelerator: Any, journal: Journal
) -> tuple[State, Loop]:
    """Train a copy; the best weights are in the state that comes back."""
    calibration, parts = prepared.calibration, prepared.parts
    stream = Stream(
        calibration,
        parts.training,
        calibration.exact or min(wish.training.batch, calibration.largest, calibration.chunk),
        wish.seed,
        accelerator.process_index,
        accelerator.num_processes,
    )
    _, first = next(stream.batch(0))
    pair = make_pair(
        *(prepared.captured.graph, small, plan_of(small), prepared.judge),
        *(wish.training, first, accelerator.device),
    )

    examine = prepared.examiner(pair, parts.acceptance, prepared.views)
    rehearsed = drawn(parts.training, EXAMINED, wish.seed)
    start = examine()
    was, now = report(small).flops
    flops = stream.size * wish.training.accumulate * (was + 3 * now)
    training, optimizer = make_optimizer(pair.trained, wish.training, flops)
    journal.decide("steps of %s, at a rate of up to %.2g", training.optimizer, training.peak)
    student, optimizer = accelerator.prepare(pair.student, optimizer)
    steps = prepared.augmentation.names
    seen = (training, wish.labels, steps, wish.seed, int(parts.training.sum()))
    loop = Loop(
        pair=pair,
        stream=stream,
        labels=None if prepared.labels is None else prepared.labels.all(),
        augmentation=prepared.augmentation,
        training=training,
        length=wish.length,
        examine=examine,
        rehearse=prepared.examiner(pair, rehearsed, AS_THEY_ARE),
        accelerator=accelerator,
        student=student,
        optimizer=optimizer,
        fresh=copy.deepcopy(optimizer.state_dict()),
        checkpoints=Checkpoints(wish.checkpoint, accelerator, identify(small, *seen)),
        journal=journal,
    )
    state = State(Best(start, start, start, weights=copies(pair.weights())))
    with callers_precision(), memory_kept(accelerator.device):
        loop.run(state)
    return state, loop


def _hand_over(
    small: GraphModule,
    made: tuple[State, Loop],
    prepared: Prepared,
    before: Report,
    journal: Journal,
    accelerator: Any,
) -> GraphModule:
    """A copy with the best weights, certified, with its plan and report."""
    state, loop = made
    result = copy.deepcopy(small).eval()
    was = compare_on(result, prepared)
    put_back(result, state.best.weights)
    was, now = share(accelerator, (was, compare_on(result, prepared)))
    journal.decide(
        "weights of step %d: the same decision on %.2f %% of %d held-out %ss, at least %.2f %%; "
        "%.2f %% before",
        *(state.best.step, 100 * now.rate, now.examples, now.unit, 100 * now.bound, 100 * was.rate),
    )
    row = RecoveryRow(
        steps=state.step,
        seconds=state.seconds,
        processes=loop.stream.processes,
        trained=int(loop.stream.training.sum()),
        accepted=int(prepared.parts.acceptance.sum()),
        views=prepared.views.count,
        way=state.best.way,
        optimizer=loop.training.optimizer,
        kept=state.best.step,
        chosen=(state.best.start.rate, state.best.found.rate),
        divergence=(state.best.start.divergence, state.best.found.divergence),
        certified=(was.rate, now.rate),
    )
    notes = [*before.notes, *journal.notes, *([state.stopped] if state.stopped else [])]
    groups, curve = before.groups, before.curve
    if state.best.step:  # errors of layers, and of other sizes, were those of the weights before
        groups, curve = tuple(replace(row, measured=None) for row in groups), ()
    after = replace(
        before,
        agreement=now,
        groups=groups,
        curve=curve,
        advice=advise_recovered(now),
        recovery=row,
        seconds={**before.seconds, **journal.seconds},
        notes=tuple(dict.fromkeys(notes)),
    )
    attach(result, after, plan_of(small))
    return result


def compare_on(small: nn.Module, prepared: Prepared) -> Agreement:
    """The agreement on the examples that certify."""
    batches = prepared.calibration.batches(prepared.parts.certificate)
    return compare(
        prepared.captured.graph.forward,
        small,
        batches,
        prepared.judge,
        prepared.parts.independent,
        padding_of(prepared.captured, DEFAULTS.mask, lambda text: None),
    )
