"""How long a call will go on: what was foreseen of it, corrected by what it has taken so far."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

PRIOR = 0.1
"""Share of all that is foreseen whose times must be known before these count as much as the
forecast does.
"""
LATE = 0.9
"""Most of a run that counts as done while it does not say how far it is."""


@dataclass(frozen=True)
class Stage:
    """What is foreseen up to the end of a step or station.

    Attributes:
        end: its name.
        runs: by station, seconds of every run of it, in order.
        others: seconds of stations of which it is not known how often they run.
    """

    end: str
    runs: Mapping[str, Sequence[float]]
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> dict[str, float]:
        """By station."""
        return {station: sum(runs) for station, runs in self.runs.items()} | dict(self.others)


@dataclass(frozen=True)
class ExpectedCost:
    """What a call is expected to take from here on.

    Attributes:
        stages: one after the other.
        forward: seconds of one forward pass over all calibration examples.
    """

    stages: Sequence[Stage]
    forward: float

    @property
    def seconds(self) -> dict[str, float]:
        """By station."""
        found: dict[str, float] = {}
        for stage in self.stages:
            for station, seconds in stage.seconds.items():
                found[station] = found.get(station, 0.0) + seconds
        return found

    @property
    def passes(self) -> float:
        """All of it, in forward passes."""
        return sum(self.seconds.values()) / self.forward


@dataclass
class _Work:
    """A station of a stage.

    Attributes:
        total: seconds that are foreseen.
        runs: those of every run; none where it is not known how often it runs.
        spent: seconds so far.
        ended: how many runs are over.
    """

    total: float
    runs: Sequence[float] = ()
    spent: float = 0.0
    ended: int = 0

    def done(self, part: float) -> float:
        """Foreseen seconds of what is done.

        Args:
            part: of the run that is going on, 0 to 1.
        """
        return sum(self.runs[: self.ended]) + part * sum(self.runs[self.ended : self.ended + 1])

    def left(self, share: float, spent: float, pace: float) -> float:
        """Seconds that are left: the forecast counts by the share that is not done, the time it
        took by the share that is.

        Args:
            share: of it that is done, 0 to 1.
            spent: seconds so far.
            pace: seconds that a foreseen second takes.
        """
        return (1 - share) * ((1 - share) * pace * self.total + spent)


@dataclass
class Run:
    """A station that is going on.

    Attributes:
        station: its name.
        steps: it has; None where that is not known.
        done: of them.
        spent: seconds so far, without those of stations inside it.
    """

    station: str
    steps: float | None
    done: float = 0.0
    spent: float = 0.0

    def advance(self, steps: float) -> None:
        """So many more steps are done."""
        self.done += steps

    @property
    def share(self) -> float | None:
        """Of its steps that are done, 0 to 1; None where that is not known."""
        return min(self.done / self.steps, 1.0) if self.steps else None


class TimeLeft:
    """Follows a call through its stations.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._since = self._start = clock()
        self._running: list[Run] = []
        self._stages: list[dict[str, _Work]] = []
        self._ends: list[str] = []
        self._stage = 0

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

    def expect(self, stages: Sequence[Stage]) -> None:
        """Take what is foreseen from here on, in place of what was."""
        self._settle()
        self._ends, self._stage = [stage.end for stage in stages], 0
        self._stages = [
            {name: _Work(sum(runs), runs) for name, runs in stage.runs.items()}
            | {name: _Work(seconds) for name, seconds in stage.others.items()}
            for stage in stages
        ]
        for run in self._running:
            work = self._work(run.station)
            if work is not None:
                work.spent += run.spent

    def enter(self, station: str, steps: float | None = None) -> Run:
        """A station begins, maybe inside another one."""
        self._settle()
        run = Run(station, steps)
        self._running.append(run)
        return run

    def leave(self) -> None:
        """The innermost station is over."""
        self._settle()
        run = self._running.pop()
        work = self._work(run.station)
        if work is not None:
            work.ended += 1
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
        """Seconds that are left, never less than none; None where nothing is foreseen."""
        if not self._stages:
            return None
        run = next(iter(self._running[-1:]), None)
        extra = self._clock() - self._since if run else 0.0
        current = None if run is None else self._work(run.station)
        pace, found = self._pace(run, current, extra), 0.0
        for stage in self._stages[self._stage :]:
            done = {name: self._done(work, run, current, extra) for name, work in stage.items()}
            counted = sum(work.total for work in stage.values() if work.runs)
            # How far what is not counted is, the rest of its stage tells.
            usual = sum(done.values()) / counted if counted else 0.0
            for name, work in stage.items():
                share = done[name] / work.total if work.runs and work.total else usual
                spent = work.spent + (extra if work is current else 0.0)
                found += work.left(share, spent, pace)
        return found

    def _settle(self) -> None:
        """Write down the time since the last change, for the innermost station."""
        now = self._clock()
        if self._running:
            run = self._running[-1]
            run.spent += now - self._since
            work = self._work(run.station)
            if work is not None:
                work.spent += now - self._since
        self._since = now

    def _work(self, station: str) -> _Work | None:
        """What is foreseen of a station, here or later."""
        ahead = self._stages[self._stage :]
        return next((stage[station] for stage in ahead if station in stage), None)

    def _done(self, work: _Work, run: Run | None, current: _Work | None, extra: float) -> float:
        """Foreseen seconds of what is done of a station."""
        if run is None or work is not current:
            return work.done(0.0)
        share = run.share
        if share is None:
            due = sum(work.runs[work.ended : work.ended + 1])
            share = min((run.spent + extra) / due, LATE) if due else 0.0
        return work.done(share)

    def _pace(self, run: Run | None, current: _Work | None, extra: float) -> float:
        """Seconds that a foreseen second takes, as far as is known."""
        prior = PRIOR * sum(work.total for stage in self._stages for work in stage.values())
        spent = done = prior
        for stage in self._stages[: self._stage + 1]:
            for work in stage.values():
                if work.runs:
                    spent += work.spent + (extra if work is current else 0.0)
                    done += self._done(work, run, current, extra)
        return spent / done if done else 1.0
