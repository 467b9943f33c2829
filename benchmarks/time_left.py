"""How good the time left is that the bar shows: `python -m benchmarks.time_left`.

While a call runs, what the bar would show is written down ten times a second, and compared with
when the call really ended. One thread; wall-clock time, which the bar shows.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from typing import Annotated
from unittest.mock import patch

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fxprune
from benchmarks.models.nets import NETS, trained
from fxprune import progress
from fxprune.demo.data import load
from fxprune.time_left import TimeLeft

EVERY = 0.1
"""Seconds between two looks."""
AT = (0.0, 0.25, 0.5, 0.75, 0.9)
"""Moments, as shares of the time from when a time left is first said."""
CALLS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "compress": lambda net, x: fxprune.compress(net, x, flops=0.5, progress=False),
    "compress, uniform": lambda net, x: fxprune.compress(
        net, x, flops=0.5, method="uniform", progress=False
    ),
    "factorize": lambda net, x: fxprune.factorize(net, x, flops=0.7, progress=False),
    "sweep": lambda net, x: fxprune.sweep(net, x, progress=False),
    "plan": lambda net, x: fxprune.plan(net, x, flops=0.5, progress=False),
}
"""By the name in the table."""


@dataclass(frozen=True)
class Followed:
    """A call, as its bar tells.

    Attributes:
        whole: seconds it took.
        elapsed, left: (looks,) seconds since its begin and those that were said to be left, from
            when they were first said.
    """

    whole: float
    elapsed: np.ndarray
    left: np.ndarray

    @property
    def told(self) -> float:
        """Seconds from when a time left was first said."""
        return self.whole - float(self.elapsed[0])

    def at(self, share: float) -> tuple[float, float]:
        """Seconds left as said and in truth, at a share of the time."""
        look = int(np.argmin(np.abs(self.elapsed - self.elapsed[0] - share * self.told)))
        return float(self.left[look]), self.whole - float(self.elapsed[look])

    @property
    def off(self) -> float:
        """Mean difference between said and true, over the time."""
        return float(np.abs(self.left - (self.whole - self.elapsed)).mean()) / self.told

    @property
    def jump(self) -> float:
        """The largest change from one look to the next beyond the time that went by, likewise."""
        change = np.diff(self.left) + np.diff(self.elapsed)
        return float(np.abs(change).max(initial=0.0)) / self.told


def follow(call: Callable[[], object]) -> Followed:
    """Run a call and write down the time left meanwhile."""
    made, over, looks = list[TimeLeft](), Event(), list[tuple[float, float]]()

    class Noted(TimeLeft):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    def look() -> None:
        while not over.wait(EVERY):
            left = made[0].say() if made else None
            if left is not None:
                looks.append((made[0].elapsed, left))

    thread = Thread(target=look)
    thread.start()
    try:
        with patch.object(progress, "TimeLeft", Noted):
            call()
    finally:
        over.set()
        thread.join()
    elapsed, left = np.array(looks).reshape(-1, 2).T
    return Followed(made[0].elapsed, elapsed, left)


def rows(name: str, net: nn.Module, images: Tensor, calls: Sequence[str]) -> list[list[str]]:
    """Of one network, a row a call; none of those that were over before a time was said."""
    found = []
    for call in calls:
        seen = follow(lambda call=call: CALLS[call](net, images))  # type: ignore[misc]
        if len(seen.left):
            pairs = ["{:.1f} / {:.1f}".format(*seen.at(share)) for share in AT]
            errors = [f"{100 * seen.off:.0f} %", f"{100 * seen.jump:.0f} %"]
            found.append([name, call, f"{seen.whole:.1f}", *pairs, *errors])
    return found


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    call: Annotated[list[str] | None, typer.Option(help="; ".join(CALLS))] = None,
    images: Annotated[int, typer.Option(help="for calibration")] = 1000,
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    calibration = load().calibration[:images]
    fxprune.compress(
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)),
        torch.randn(99, 8),
        flops=0.9,
        progress=False,
    )
    table = Table(title="Seconds left, said / true", title_justify="left")
    shares = [f"{100 * share:.0f} %" for share in AT]
    for column in ("net", "call", "whole, s", *shares, "off", "jump"):
        table.add_column(column, justify="left" if column in ("net", "call") else "right")
    start = time.perf_counter()
    for name in net or list(NETS):
        for row in rows(name, trained(name), calibration, call or list(CALLS)):
            table.add_row(*row)
    Console(width=120).print(table)
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    typer.run(main)
