"""The time of every station of a call, its notes, and how far it is.

On a terminal there is one bar for the whole call (`fxprune.bar`). In its place, the logger
`fxprune` has a line per station and per decision, at level INFO, and one per layer that is decided
on, at DEBUG: `logging.basicConfig(level=logging.INFO)` shows the former.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch

from fxprune.forecast import ExpectedCost
from fxprune.resume.steps import NOTHING_KEPT, Outcome, Steps
from fxprune.time_left import TimeLeft

if TYPE_CHECKING:
    from fxprune.bar import Bar

LOG = logging.getLogger("fxprune")
LOG.addHandler(logging.NullHandler())
Advance = Callable[[float], object]
"""Told how many steps of a station are newly done."""
T = TypeVar("T")
FIXED = "capture", "label"
"""Stations whose time does not depend on the examples."""
MEANT = 6.0
"""Forward passes over the calibration examples that a call is meant to take."""


def passes_tell(seconds: Mapping[str, float], forward: float) -> bool:
    """Whether what a call takes is told in forward passes: not where capturing and labeling alone
    take more of them than a call is meant to.

    Args:
        seconds: by station.
        forward: seconds of one pass.
    """
    return sum(seconds.get(station, 0.0) for station in FIXED) <= MEANT * forward


def _lines_are_seen() -> bool:
    """Whether a terminal shows the log: its lines and a bar would run into each other."""
    if not LOG.isEnabledFor(logging.INFO):
        return False
    handlers = [*LOG.handlers, *(logging.getLogger().handlers if LOG.propagate else [])]
    streams = [h.stream for h in handlers if isinstance(h, logging.StreamHandler)]
    return any(stream is not None and stream.isatty() for stream in streams)


def _say_nothing(text: str, *values: object) -> None:
    """In place of a log."""


class Journal:
    """What a run writes down on its way: wall time per station and notes for the report. Inside
    `with`, a bar shows how far the run is.

    Args:
        progress: whether the bar is wanted; there is one only on a terminal or in a notebook.
        steps: where the outcomes of steps are kept; nowhere by default.
        speaks: whether anything is shown or logged: of several processes one does.

    Attributes:
        about: what of the call is done now, where the stations come several times; for the bar.
    """

    def __init__(self, progress: bool, steps: Steps = NOTHING_KEPT, speaks: bool = True):
        self._wanted, self._bar = progress and speaks, list["Bar"]()
        self.steps = steps
        self._log: Callable[..., None] = LOG.info if speaks else _say_nothing
        self._detail: Callable[..., None] = LOG.debug if speaks else _say_nothing
        self._time = TimeLeft()
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.expected: ExpectedCost | None = None
        self._before = 0.0
        self.about = ""

    def __enter__(self) -> Self:
        if self._wanted and not _lines_are_seen():
            from fxprune.bar import open_bar

            bar = open_bar(self._time, lambda: self.about)
            if bar is not None:
                self._bar.append(bar)
                bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        while self._bar:
            self._bar.pop().stop()

    def note(self, text: str) -> None:
        """Say something in the report, once."""
        if text not in self.notes:
            self.notes.append(text)
            self._log("%s", text)

    def decide(self, text: str, *values: object) -> None:
        """Log what was found or decided, with values in %-style."""
        self._log(text, *values)

    def detail(self, text: str, *values: object) -> None:
        """Likewise at level DEBUG, of what a decision consists of."""
        self._detail(text, *values)

    def expect(self, cost: ExpectedCost) -> None:
        """Say what the rest of the call is expected to take."""
        self.expected, self._before = cost, sum(self.seconds.values())
        self.foresee(cost)
        text = f"about {sum(cost.seconds.values()):,.0f} s to go"
        if passes_tell(self.seconds, cost.forward):
            text += f": {cost.passes:.1f} forward passes over the calibration examples"
        self._log("%s", text)

    def foresee(self, cost: ExpectedCost) -> None:
        """Likewise to the bar alone, which shows no time rather than one that is too short."""
        if cost.whole:
            self._time.expect(cost.stages, cost.most)

    @property
    def passes(self) -> tuple[float, float] | None:
        """Forward passes that the call was expected to take, and that it took, those before it was
        known included in both; None where nothing was foreseen.
        """
        if self.expected is None:
            return None
        forward, before = self.expected.forward, self._before / self.expected.forward
        took = sum(v for k, v in self.seconds.items() if k != "measure") / forward
        return before + self.expected.passes, took

    @contextmanager
    def show(self, name: str, total: float | None = None) -> Iterator[Advance]:
        """Show what is being done; tell what it yields how many of `total` steps are newly done.

        Inside another one, it is shown in its place until it is over.
        """
        run = self._time.enter(name, total)
        try:
            yield partial(self._time.advance, run)
        finally:
            self._time.leave()

    @contextmanager
    def station(self, name: str, total: float | None = None) -> Iterator[Advance]:
        """Likewise, and time it; the times of a station add up."""
        start = time.perf_counter()
        with self.show(name, total) as advance:
            yield advance
        took = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        self._log("%s took %.2f s", name, took)

    def step(self, name: str, key: Iterable[Any], kind: type[T], compute: Callable[[], T]) -> T:
        """What a step gives: as it was kept, or computed and then kept.

        What it notes, how long its stations took and how far it moved torch's random state are
        kept with it, so that a run that goes on tells and draws the same.

        Args:
            name: of the step.
            key: what its outcome depends on, beside model, examples and options.
            kind: of the outcome (`fxprune.resume.typed`).
            compute: does the work.

        Raises:
            StorageError: the outcome cannot be kept.
        """
        key = tuple(key)
        kept = self.steps.find(name, key, kind)
        value = self._compute(name, key, compute) if kept is None else self._recall(name, kept)
        self._time.finish(name)
        return value

    def _recall(self, name: str, kept: Outcome) -> Any:
        self._log("%s was kept", name)
        for note in kept.notes:
            self.note(note)
        for station, took in kept.seconds.items():
            self.seconds[station] = self.seconds.get(station, 0.0) + took
        if kept.random is not None:
            torch.set_rng_state(kept.random)
        return kept.value

    def _compute(self, name: str, key: tuple[Any, ...], compute: Callable[[], T]) -> T:
        noted, before, state = len(self.notes), dict(self.seconds), torch.get_rng_state()
        value = compute()
        after = torch.get_rng_state()
        seconds = {k: v - before.get(k, 0.0) for k, v in self.seconds.items()}
        outcome = Outcome(
            value,
            tuple(self.notes[noted:]),
            {k: v for k, v in seconds.items() if v},
            None if torch.equal(state, after) else after,
        )
        self.steps.keep(name, key, outcome)
        return value
