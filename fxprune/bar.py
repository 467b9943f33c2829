"""One bar for all stations of a call, with the time that is left, drawn by rich."""

import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn

from fxprune.time_left import TimeLeft

WIDTH = 26
"""Columns of the station, which stay when its name changes."""
REFRESHED = 4
"""Times a second."""
NEARLY = 0.99
"""Most that a bar shows before the end."""


def open_bar(follow: TimeLeft, about: Callable[[], str]) -> "Bar | None":
    """A bar on the terminal or in the notebook; None where there is none.

    Args:
        follow: the call.
        about: what of it is being done, beside the station; may be empty.
    """
    console = Console(stderr=True)
    if not (console.is_interactive or (console.is_jupyter and _has_widgets())):
        return None
    return Bar(console, follow, about)


class Bar(Progress):
    """One bar, which asks how far the call is whenever it is drawn.

    Args:
        console: to draw on.
        follow, about: as `open_bar`.
    """

    def __init__(self, console: Console, follow: TimeLeft, about: Callable[[], str]):
        self._follow, self._about, self._name, self._shown = follow, about, "", 0.0
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[times]}", justify="right"),
            console=console,
            transient=True,
            expand=True,
            refresh_per_second=REFRESHED,
            # What a model prints stays where it is redirected to.
            redirect_stdout=console.is_jupyter or bool(sys.stdout and sys.stdout.isatty()),
        )
        self.add_task("", total=None, times="")

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar as things stand now."""
        for only in self.task_ids:
            self.update(only, **self._state())
        return super().get_renderables()

    def _state(self) -> dict[str, Any]:
        now, elapsed, left = self._follow.now, self._follow.elapsed, self._follow.say()
        share = None
        if now is not None:  # between two stations the last one's name stays
            self._name, share = now
        part = "" if share is None else f" {share:.0%}"
        told = f"{self._about()}{self._name}{part}"
        state: dict[str, Any] = {"description": f"{told:{WIDTH}}", "times": clock(elapsed)}
        if left is None:
            return state
        # A bar does not go back, where more is to do than was foreseen.
        left = max(left, 1.0)
        reached = elapsed / (elapsed + left)
        self._shown = max(self._shown, min(reached, NEARLY))
        how = "at most" if self._follow.most else "about"
        times = f"{clock(elapsed)}, {how} {clock(left)} left"
        return state | {"times": times, "total": 1.0, "completed": self._shown}


def clock(seconds: float) -> str:
    """Hours, minutes and seconds as clocks show them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _has_widgets() -> bool:
    """Whether rich can draw in a notebook."""
    return find_spec("ipywidgets") is not None
