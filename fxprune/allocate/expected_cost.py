"""What a call will cost, in plain forward passes over the calibration examples, before it starts.

The work of every station is counted (`fxprune.allocate.expected_work`); how fast the machine does
each kind of it is measured. A forward pass is the captured graph on all calibration examples.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from fxprune.allocate.expected_work import (
    fits_work,
    folds_work,
    moments_work,
    pass_work,
    ranks_work,
    rewrite_work,
    selection_work,
)
from fxprune.allocate.ranks import components_work
from fxprune.calibrate.observe import at_inputs
from fxprune.calibrate.recording import VALIDATION
from fxprune.fit.build import TRIAL_JUDGED, TRIAL_RIDGES
from fxprune.forecast import ExpectedCost, Stage
from fxprune.profile.selectors import SELECTORS
from fxprune.profile.statistics import PROBED_EXAMPLES, SHARES
from fxprune.session import Session
from fxprune.timing.speeds import Speeds, Work, measure_speeds

BACKWARD = 4.0
"""Forward passes that one with its derivatives costs, and the products of these."""
FURTHER = 0.5
"""Candidates tried beyond the effort, on average."""
RIDGES_TRIED = 4
"""Ridges that a layer's fit compares, typically; half of them in single precision."""
CURVES = 8
"""Widths at which ranks are foreseen."""
SHOWN = 64
"""Examples that say what is decided, and on which layers are compared."""
TIMED, QUICK = (16, 64), 0.02
"""Examples of the pass that is timed: more where the first take less than so many seconds, most of
which are then not the examples'.
"""
DECIDE, BUILD, HAND_OVER = "allocation", "agreement", "hand over"
"""Steps, and the station, that end the stages of one size."""
SHARED = ("calibrate", "profile")
"""Stations of which further sizes use what the first one found."""


@dataclass(frozen=True)
class Part:
    """Work of one kind that is ahead.

    Attributes:
        stage: `DECIDE`, `BUILD` or `HAND_OVER`.
        station: in which it is done.
        each: of one run.
        times: how many runs there are.
        counted: whether these are all that a station is entered for.
    """

    stage: str
    station: str
    each: Work
    times: float = 1.0
    counted: bool = True

    @property
    def work(self) -> Work:
        """Of all runs."""
        return self.each.times(self.times)


def expect_cost(session: Session, *limits: Mapping[str, float]) -> ExpectedCost:
    """Foresee what deciding, fitting and verifying takes, of one size or of several.

    Args:
        session: opened, with nothing observed yet.
        limits: of every size, fractions of the original to keep at most.
    """
    speeds, stages = _time(session), list[Stage]()
    forward = speeds.example * session.statistics.calibration.size
    for number, own in enumerate(limits):
        parts = [p for p in _parts(session, own) if not number or p.station not in SHARED]
        stages += [_stage(end, parts, speeds) for end in (DECIDE, BUILD, HAND_OVER)]
    return ExpectedCost(stages, forward, all("latency" not in own for own in limits))


def expect_sequence(session: Session, *limits: Mapping[str, float]) -> ExpectedCost:
    """Likewise of sizes of which one is handed over, at the latest after all were tried."""
    cost = expect_cost(session, *limits)
    *tried, handed_over = cost.stages
    stages = [stage for stage in tried if stage.end != HAND_OVER]
    return replace(cost, stages=[*stages, handed_over], most=True)


def expect_build(session: Session, limits: Mapping[str, float]) -> ExpectedCost:
    """Likewise of a plan that was decided under limits."""
    method = replace(session.options.method, allocation="uniform", selector="magnitude", ranks="")
    cost = expect_cost(session.using(method=method), limits)
    _, build, hand_over = cost.stages
    return replace(cost, stages=(replace(build, end="verify"), hand_over))


def _stage(end: str, parts: Sequence[Part], speeds: Speeds) -> Stage:
    """The parts of a stage, in seconds."""
    runs, others = dict[str, list[float]](), dict[str, float]()
    own = [part for part in parts if part.stage == end]
    uncounted = {part.station for part in own if not part.counted}
    for part in own:
        name, each = part.station, speeds.seconds(part.each)
        if name in uncounted:
            others[name] = others.get(name, 0.0) + part.times * each
        else:
            whole = int(part.times)
            rest = [part.times - whole] if part.times > whole else []
            runs.setdefault(name, []).extend(each * share for share in (*[1.0] * whole, *rest))
    return Stage(end, runs, others)


def _time(session: Session) -> Speeds:
    """Of the model and of everything else here."""
    for examples in TIMED:
        batch = next(iter(session.statistics.batches(session.split.first(examples))))
        device = batch.tensors()[0].device
        # What is drawn meanwhile is drawn again.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            speeds = measure_speeds(
                partial(at_inputs(session.graph), *batch.args, **batch.kwargs), batch.own, device
            )
        if speeds.example * batch.own > QUICK:
            break
    return speeds


def _parts(session: Session, limits: Mapping[str, float]) -> Iterator[Part]:
    """Work by stage and station, in the order of the pipeline."""
    method, split = session.options.method, session.split
    kept = min((v for k, v in limits.items() if k != "latency"), default=1.0)
    narrow = math.sqrt(kept) if method.widths else 1.0
    # Layers are made two when all are fitted; till then they are wider.
    wide, fitted = (v ** (0.5 if method.ranks else 1.0) for v in (kept, narrow))
    yield from _observing(session)
    if method.allocation == "search" and session.options.effort > 1:
        yield from _searching(session, narrow, wide, fitted)
    yield Part(BUILD, "rewrite", rewrite_work(session), counted=False)
    last = Work()
    if method.fit == "sequential":
        every = tuple(session.statistics.parts.values())
        fitting = [batch for part in every for batch in part.mine]
        last += pass_work(session, fitting, wide)
        last += fits_work(session, every, fitted, RIDGES_TRIED, aimed=True)
    if method.widths and method.fit != "none":
        last += folds_work(session, narrow).times(2 if method.fit == "sequential" else 1)
    yield Part(BUILD, "fit", last)
    for stage, examples in ((BUILD, split.held_out), (HAND_OVER, split.first(SHOWN))):
        shown = session.statistics.planned(examples).mine
        yield Part(stage, "verify", pass_work(session, shown) + pass_work(session, shown, kept))


def _rounds(session: Session) -> tuple[int, int, int]:
    """How many searches, orders of removal and graphs with rotated streams there are."""
    options = session.options
    if options.method.allocation != "search" or options.effort == 1:
        return 1, 1, 0
    # What can be rotated is ordered and searched once more so, and with narrower streams once more.
    orders = 1 + session.may_rotate
    searches = orders + bool(session.analysis.normalized)
    # Rotated streams are those of another graph, which is observed, ordered and searched as well.
    streams = int(session.may_rotate_streams)
    return searches + streams, orders + streams, streams


def _observing(session: Session) -> Iterator[Part]:
    """The original on the examples, and what that says of its channels."""
    options, statistics = session.options, session.statistics
    method, (_, orders, streams) = options.method, _rounds(session)
    reads = SELECTORS[options.chosen_selector].moments if method.widths else method.ranks == "pca"
    if reads or method.fit != "none":
        fitting = [batch for part in statistics.parts.values() for batch in part.mine]
        observed = pass_work(session, fitting) + moments_work(session, fitting)
        yield Part(DECIDE if reads else BUILD, "calibrate", observed, 1 + streams)
    if not method.widths or not reads:
        return
    aware = options.chosen_selector == "output-aware"
    if aware:
        probed = statistics.planned(session.split.first(PROBED_EXAMPLES), SHARES).mine
        yield Part(DECIDE, "calibrate", pass_work(session, probed).times(BACKWARD), 1 + streams)
    yield Part(DECIDE, "profile", selection_work(session, aware), orders)
    if (
        method.allocation == "search" and options.effort > 1
    ):  # whose candidates include the reference's
        yield Part(DECIDE, "profile", selection_work(session, aware=False), orders)


def _searching(session: Session, narrow: float, wide: float, fitted: float) -> Iterator[Part]:
    """Candidates that are tried.

    Args:
        narrow, fitted: widths, and those that are fitted, as a share of the original's.
        wide: FLOPs of what is tried, likewise.
    """
    options, parts, (searches, _, _) = session.options, session.statistics.parts, _rounds(session)
    trials = searches * (options.effort + FURTHER)
    if options.method.ranks:
        costly = components_work(session) > (options.effort - 1) * session.statistics.work
        curves = ranks_work(session, 1.0) if costly else ranks_work(session, narrow).times(CURVES)
        yield Part(DECIDE, "allocate", curves, searches, counted=False)
    yield Part(DECIDE, "rewrite", rewrite_work(session), trials, counted=False)
    tried = [parts[part] for part in session.split.tried_on]
    judging = replace(parts[VALIDATION], batches=parts[VALIDATION].batches[::TRIAL_JUDGED])
    read = [judging if part == VALIDATION else parts[part] for part in session.split.tried_on]
    trial = fits_work(session, read, fitted, len(TRIAL_RIDGES)) + folds_work(session, fitted)
    trial += pass_work(session, [batch for part in tried for batch in part.mine], wide)
    yield Part(DECIDE, "fit", trial, trials)
