"""Progress bars on anything longer than a second, the time of every station, and its notes.

Without a terminal, the logger `fxprune` has a line per station and per decision, at level INFO:
`logging.basicConfig(level=logging.INFO)` shows them.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from fxprune.resume.steps import NOTHING_KEPT, Outcome, Steps

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

LOG = logging.getLogger("fxprune")
LOG.addHandler(logging.NullHandler())
Advance = Callable[[int], object]
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


class Progress:
    """A thin switch around rich's bars.

    Args:
        wanted: the caller's wish; bars appear only on a terminal.
    """

    def __init__(self, wanted: bool):
        self._console = _terminal() if wanted else None
        self._bars: Bars | None = None

    @contextmanager
    def task(self, name: str, total: int | None) -> Iterator[Advance]:
        """A bar for one station; tell what it yields how many of `total` steps are newly done.

        A station inside another one has its bar below the other's.
        """
        if self._console is None:
            yield lambda steps: None
            return
        if self._bars is not None:  # a terminal takes one live display at a time
            task = self._bars.add_task(name, total=total)
            yield partial(self._bars.advance, task)
            self._bars.remove_task(task)
            return
        with _bars(self._console) as self._bars:
            try:
                yield partial(self._bars.advance, self._bars.add_task(name, total=total))
            finally:
                self._bars = None

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._console is not None:
            self._console.print(text)


def _say_nothing(text: str, *values: object) -> None:
    """In place of a log."""


def _terminal() -> "Console | None":
    """Where bars are drawn; None where the output is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    return console if console.is_terminal else None


def _bars(console: "Console") -> "Bars":
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


@dataclass(frozen=True)
class ExpectedCost:
    """What a call is expected to take from here on.

    Attributes:
        seconds: by station.
        forward: seconds of one forward pass over all calibration examples.
    """

    seconds: Mapping[str, float]
    forward: float

    @property
    def passes(self) -> float:
        """All of it, in forward passes."""
        return sum(self.seconds.values()) / self.forward


class Journal:
    """What a run writes down on its way: wall time per station and notes for the report.

    Args:
        progress: whether bars are wanted.
        steps: where the outcomes of steps are kept; nowhere by default.
        speaks: whether anything is logged: of several processes one does.
    """

    def __init__(self, progress: bool, steps: Steps = NOTHING_KEPT, speaks: bool = True):
        self._progress = Progress(progress)
        self.steps = steps
        self._log: Callable[..., None] = LOG.info if speaks else _say_nothing
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.expected: ExpectedCost | None = None
        self._before = 0.0

    def note(self, text: str) -> None:
        """Say something in the report, once."""
        if text not in self.notes:
            self.notes.append(text)
            self._log("%s", text)

    def decide(self, text: str, *values: object) -> None:
        """Log what was found or decided, with values in %-style."""
        self._log(text, *values)

    def expect(self, cost: ExpectedCost) -> None:
        """Say what the rest of the call is expected to take."""
        self.expected, self._before = cost, sum(self.seconds.values())
        text = f"about {sum(cost.seconds.values()):,.0f} s to go"
        if passes_tell(self.seconds, cost.forward):
            text += f": {cost.passes:.1f} forward passes over the calibration examples"
        self._progress.say(text)
        self._log("%s", text)

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
    def station(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Time a station and show its progress; its times add up."""
        start = time.perf_counter()
        with self._progress.task(name, total) as advance:
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
        if kept is None:
            return self._compute(name, key, compute)
        self._log("%s was kept", name)
        for note in kept.notes:
            self.note(note)
        for station, took in kept.seconds.items():
            self.seconds[station] = self.seconds.get(station, 0.0) + took
        if kept.random is not None:
            torch.set_rng_state(kept.random)
        value: T = kept.value
        return value

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
