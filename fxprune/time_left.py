"""How long a call will go on: what was foreseen of it, corrected by what it has taken so far."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fxprune.forecast import Stage

PRIOR = 0.1
"""Share of all that is foreseen whose times must be known before these count as much as the
forecast does.
"""
LATE = 0.1
"""Share of a station's time that stays, however long it goes on without a further step."""
STEADY = 0.05
"""Share of a call's time within which what is said of the time left follows what is known."""


@dataclass
class _Work:
    """A station of a stage.

    Attributes:
        total: seconds that are foreseen.
        runs: those of every run; none where it is not known how often it runs.
        spent: seconds of these so far.
        ended: how many runs are over.
    """

    total: float
    runs: Sequence[float] = ()
    spent: float = 0.0
    ended: int = 0

    @property
    def is_over(self) -> bool:
        """Whether all runs are that were foreseen."""
        return bool(self.runs) and self.ended >= len(self.runs)

    def done(self, part: float) -> float:
        """Foreseen seconds of what is done.

        Args:
            part: of the run that is going on, 0 to 1.
        """
        return sum(self.runs[: self.ended]) + part * sum(self.runs[self.ended : self.ended + 1])


@dataclass
class Run:
    """A station that is going on.

    Attributes:
        station: its name.
        steps: it has; None where that is not known.
        done: of them.
        spent: seconds so far, without those of stations inside it.
        stepped: seconds until the last step.
        work: what is foreseen of it; None where nothing is.
    """

    station: str
    steps: float | None
    work: _Work | None
    done: float = 0.0
    spent: float = 0.0
    stepped: float = 0.0

    @property
    def share(self) -> float | None:
        """Of its steps that are done, 0 to 1; None where that is not known."""
        return min(self.done / self.steps, 1.0) if self.steps else None


@dataclass(frozen=True)
class _Now:
    """The station that is going on, as far as it was foreseen.

    Attributes:
        work: what was foreseen; None where nothing was.
        part: of its run that is done, 0 to 1.
        spent: seconds of all its runs until the last step.
        since: seconds since then.
    """

    work: _Work | None = None
    part: float = 0.0
    spent: float = 0.0
    since: float = 0.0

    def done(self, work: _Work) -> float:
        """Foreseen seconds of what is done of a station."""
        return work.done(self.part if work is self.work else 0.0)

    def left(self, work: _Work, share: float, pace: float) -> float:
        """Seconds that are left of a station: the forecast counts by the share that is not done,
        the time it took by the share that is.

        Args:
            work: of the station.
            share: of it that is done, 0 to 1.
            pace: seconds that a foreseen second takes.
        """
        left = (1 - share) * ((1 - share) * pace * work.total + self.known(work))
        return max(left - self.since, LATE * left) if work is self.work else left

    def known(self, work: _Work) -> float:
        """Seconds that a station took until its last step."""
        return self.spent if work is self.work else work.spent


class TimeLeft:
    """Follows a call through its stations.

    Args:
        clock: gives seconds.

    Attributes:
        most: whether what is left is the most that there can be.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._since = self._start = clock()
        self._running: list[Run] = []
        self._stages: list[dict[str, _Work]] = []
        self._ends: list[str] = []
        self._stage = 0
        self._said: tuple[float, float] | None = None
        self.most = False

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return self._clock() - self._start

    @property
    def now(self) -> tuple[str, float | None] | None:
        """The station that is going on, and the share of its steps that is done; None between
        stations.
        """
        running = self._running[-1:]  # once: whoever draws is in another thread
        return (running[0].station, running[0].share) if running else None

    def expect(self, stages: Sequence[Stage], most: bool = False) -> None:
        """Take what is foreseen from here on, in place of what was."""
        self._settle()
        self.most = most
        self._ends, self._stage = [stage.end for stage in stages], 0
        self._stages = [
            {name: _Work(sum(runs), runs) for name, runs in stage.runs.items()}
            | {name: _Work(seconds) for name, seconds in stage.others.items()}
            for stage in stages
        ]
        for run in self._running:
            run.work = self._work(run.station)
            if run.work is not None:
                run.work.spent += run.spent

    def enter(self, station: str, steps: float | None = None) -> Run:
        """A station begins, maybe inside another one."""
        self._settle()
        run = Run(station, steps, self._work(station))
        self._running.append(run)
        return run

    def advance(self, run: Run, steps: float) -> None:
        """A station has done more of its steps."""
        self._settle()
        run.done += steps
        run.stepped = run.spent

    def leave(self) -> None:
        """The innermost station is over."""
        self._settle()
        run = self._running.pop()
        if run.work is not None:
            run.work.ended += 1
        self.finish(run.station)

    def finish(self, name: str) -> None:
        """A step or station is over, and with it the stage that ends so: what was foreseen in it
        and did not come is not waited for.
        """
        if name in self._ends[self._stage :]:
            self._settle()
            self._stage = self._ends.index(name, self._stage) + 1

    @property
    def left(self) -> float | None:
        """Seconds that are left as far as is known; None where nothing is foreseen."""
        if not self._stages:
            return None
        now, found = self._present(), 0.0
        pace = self._pace(now)
        for at, stage in enumerate(self._stages[self._stage :], self._stage):
            counted = [work for work in stage.values() if work.runs]
            whole = sum(work.total for work in counted)
            # How far what is not counted is, the rest of its stage tells.
            usual = sum(now.done(work) for work in counted) / whole if whole else 0.0
            for name, work in stage.items():
                share = now.done(work) / work.total if work.runs and work.total else usual
                own = self._own_pace(now, name, at, pace) if work.runs else pace
                found += now.left(work, share, own)
        return found

    def say(self) -> float | None:
        """Likewise without jumps: what is said now goes on from what was said before."""
        now, left = self.elapsed, self.left
        if left is not None and self._said is not None:
            past = now - self._said[0]
            usual = max(self._said[1] - past, 0.0)
            left = usual + (left - usual) * -math.expm1(-past / (STEADY * (now + left)))
        self._said = None if left is None else (now, left)
        return left

    def _settle(self) -> None:
        """Write down the time since the last change, for the innermost station."""
        now = self._clock()
        if self._running:
            run = self._running[-1]
            run.spent += now - self._since
            if run.work is not None and not run.work.is_over:
                run.work.spent += now - self._since
        self._since = now

    def _work(self, station: str) -> _Work | None:
        """What is foreseen of a station, here or later."""
        ahead = self._stages[self._stage :]
        return next((stage[station] for stage in ahead if station in stage), None)

    def _present(self) -> _Now:
        running = self._running[-1:]
        if not running:
            return _Now()
        (run,) = running
        work, since = run.work, run.spent - run.stepped
        spent = 0.0 if work is None else max(work.spent - since, 0.0)
        return _Now(work, run.share or 0.0, spent, since + self._clock() - self._since)

    def _pace(self, now: _Now) -> float:
        """Seconds that a foreseen second takes, as far as is known."""
        whole = sum(work.total for stage in self._stages for work in stage.values())
        begun = [work for stage in self._stages[: self._stage + 1] for work in stage.values()]
        return _ratio(now, [work for work in begun if work.runs], PRIOR * whole, 1.0)

    def _own_pace(self, now: _Now, name: str, at: int, usual: float) -> float:
        """Likewise of a station, from stages like the one at `at`: those of other sizes."""
        begun = zip(self._ends, self._stages[: self._stage + 1], strict=False)
        like = [stage[name] for end, stage in begun if end == self._ends[at] and name in stage]
        return _ratio(now, like, self._stages[at][name].total, usual)


def _ratio(now: _Now, works: Sequence[_Work], prior: float, usual: float) -> float:
    """Seconds that works took over those foreseen for what is done of them; the usual ratio counts
    like `prior` foreseen seconds.
    """
    done = sum(now.done(work) for work in works) + prior
    return (sum(map(now.known, works)) + usual * prior) / done if done else usual
