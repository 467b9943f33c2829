"""The rows of the speedup command as a page of markdown."""

from dataclasses import dataclass

import numpy as np

FLOPS = 0.5


GOAL = 0.8
"""Share of the ideal speedup below which a row is explained."""


MAKERS = ("fxprune", "torch-pruning")


@dataclass(frozen=True)
class Row:
    """One network on one workload.

    Attributes:
        maker: of the small model, `fxprune` or `torch-pruning`.
        net, mode, batch: which.
        kept: share of the FLOPs that is left.
        speedup: median over rounds of original / small; `low` and `high` are its quartiles.
        original, small: median seconds per call.
        heavy: seconds in convolutions and matrix products, of the original and the small model, by
            torch.profiler.
        clock: `wall`, or `processor`: what one thread used of the processor, which is the wall
            time of an idle machine.
        machine, threads, torch, date: where and when.
    """

    maker: str
    net: str
    mode: str
    batch: int
    kept: float
    speedup: float
    low: float
    high: float
    original: float
    small: float
    heavy: tuple[float, float]
    clock: str
    machine: str
    threads: int
    torch: str
    date: str

    @property
    def share(self) -> float:
        """Of the ideal speedup."""
        return self.speedup * self.kept

    def explained(self) -> str:
        """Where the time went that half the FLOPs did not save."""
        (first, second), rest = (
            self.heavy,
            (self.original - self.heavy[0], self.small - self.heavy[1]),
        )
        part = first / self.original
        return (
            f"convolutions and matrix products, {part:.0%} of the original's time, run "
            f"{first / max(second, 1e-12):.2f}x as fast; the rest "
            f"takes {1e3 * rest[0]:.1f} ms before and {1e3 * rest[1]:.1f} ms after"
        )


def table(rows: list[Row]) -> list[str]:
    """A line per network, a column per workload."""
    columns = sorted({(r.mode, r.batch) for r in rows}, key=lambda c: (c[0] != "eager", c[1]))
    by = {(r.net, r.mode, r.batch): r for r in rows}
    lines = [
        "| net | ideal | " + " | ".join(f"{mode}, batch {batch}" for mode, batch in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for net in dict.fromkeys(r.net for r in rows):
        cells = [by.get((net, *column)) for column in columns]
        ideal = 1 / next(c.kept for c in cells if c is not None)
        shown = [
            ""
            if c is None
            else f"**{c.share:.0%}**, {c.speedup:.2f}x ({c.low:.2f} to {c.high:.2f})"
            for c in cells
        ]
        lines.append(f"| {net} | {ideal:.2f}x | " + " | ".join(shown) + " |")
    return lines


def page(rows: list[Row]) -> str:
    """docs/speedup.md."""
    ours, theirs = ([r for r in rows if r.maker == maker] for maker in MAKERS)
    lines = [
        "# What half the FLOPs gives in time",
        "",
        f'`python -m benchmarks.speedup` at `flops={FLOPS}`, `round_to="auto"`: in bold the '
        "measured share of the ideal speedup, which is FLOPs",
        "before over FLOPs after; then the speedup, median and quartiles of interleaved rounds. "
        "Networks of this repository are trained and",
        "compressed by `channels`; torchvision's have random weights, uniform widths, and images "
        "of 224 x 224. Processor time of one thread is the",
        "wall time of an idle machine; other jobs still take its caches.",
        "",
        "; ".join(
            dict.fromkeys(
                f"{r.machine}, {r.threads} thread(s), {r.clock} time, torch {r.torch}, {r.date}"
                for r in ours
            )
        )
        + ".",
        "",
        *table(ours),
    ]
    lines += _missed(ours)
    if theirs:
        lines += _beside(ours, theirs)
    return "\n".join(lines) + "\n"


def _missed(ours: list[Row]) -> list[str]:
    """Where the time went in the rows below the goal."""
    missed = [r for r in ours if r.share < GOAL]
    if not missed:
        return []
    return [
        "",
        f"## Below {GOAL:.0%} of the ideal",
        "",
        "From torch.profiler:",
        "",
        *(
            f"- {r.net}, {r.mode}, batch {r.batch} ({r.share:.0%}): {r.explained()}."
            for r in missed
        ),
    ]


def _beside(ours: list[Row], theirs: list[Row]) -> list[str]:
    """The section on Torch-Pruning."""
    failed = dict.fromkeys(o.net for o in ours if o.net not in {r.net for r in theirs})
    both = [
        (r, o) for r in theirs for o in ours if (r.net, r.mode, r.batch) == (o.net, o.mode, o.batch)
    ]
    without = f" Without a row: {', '.join(failed)}, which does not run after its pruning."
    return [
        "",
        "## Beside Torch-Pruning at the same FLOPs",
        "",
        "`--maker torch-pruning`, version 1.6.1: the smallest channels of every layer, the "
        f"largest model within `flops={FLOPS}` (its `round_to` moves",
        "all widths at once and misses the budget by far). What it leaves of the decisions "
        "without training is in [trade-off](tradeoff.md).",
        "",
        *table(theirs),
        "",
        f"Of {len(both)} workloads ours is the faster one in "
        f"{sum(o.speedup > r.speedup for r, o in both)}; its speedup is "
        f"{np.exp(np.mean([np.log(o.speedup / r.speedup) for r, o in both])):.2f} times "
        "theirs in the geometric mean." + (without if failed else ""),
    ]
