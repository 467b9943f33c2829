"""The page of `python -m benchmarks.certificate`."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from scipy.stats import binom

from benchmarks.examination.certifying import KEYED, LOADERS, SHUFFLED, Row
from benchmarks.examination.cluster_bounds import BOUNDS, CERTAIN, CONFIDENCE, Found
from benchmarks.examination.deciders import DECIDERS
from benchmarks.examination.whole_calls import TRUTH, Call
from fxprune.timing.clock import machine_name

TRIED = (
    " With `agreement=` sizes are tried until one fails, and what is to hold is the agreement "
    "asked for."
)
Rows = Mapping[Row, Found]
Calls = Mapping[Call, tuple[Found, float]]
Bounds = Mapping[tuple[int, int, float], Mapping[str, Found]]


def page(rows: Rows, calls: Calls, bounds: Bounds) -> str:
    """The tables, as a page."""
    runs = next(iter(rows.values())).runs
    worst = runs - int(binom.ppf(CERTAIN, runs, 1 - CONFIDENCE))
    lines = [
        "# How often the certified bound holds",
        "",
        f"`python -m benchmarks.certificate --markdown docs/certificate.md`, {runs} certifications "
        f"a cell, {machine_name(torch.device('cpu'))}, CPU, torch {torch.__version__.split('+')[0]}"
        f", {datetime.date.today()}.",
        "",
        "The bound is to hold in 95 % of the runs; by chance it may in as few as "
        f"{worst / runs:.1%} (one cell in a thousand). What is below that is **bold**. Cells say "
        "how often the bound was at most the true agreement and, in brackets, the mean bound.",
        "",
        "## Every rule",
        "",
        "The model that is certified decides like the original on all that it was fitted on, so "
        "that a held-out example that was fitted on makes the bound too high; elsewhere it decides "
        "otherwise as often as is set, and its outputs differ everywhere. Loader, split, the "
        "settling of the rule, comparison and bound are those of `compress`. *Joint* judges three "
        "outputs, by argmax, close and sign; *inferred* names no rule.",
        "",
        *_tables(rows),
        "## Whole calls",
        "",
        '`compress(method="uniform")` on networks of three linear layers, another one and other '
        "examples in every run, from a `DataLoader` that shuffles; what is true is found on "
        f"{TRUTH:,} fresh examples.{TRIED if any(call.goal for call in calls) else ''}",
        "",
        *_whole(calls),
        "",
        *_choice(bounds),
        "",
    ]
    return "\n".join(lines)


def _cell(found: Found) -> str:
    share = f"{found.held / found.runs:.1%}"
    return share if found.sound else f"**{share}**"


def _with_mean(found: Found) -> str:
    return f"{_cell(found)} ({found.bound:.3f})"


def _tables(rows: Rows) -> Iterator[str]:
    """A row per rule, a column per kind of calibration set."""
    single = Row("", SHUFFLED, 400, 0.97)
    yield from _table(
        rows,
        "400 examples, 97 % agreement, by loader:",
        {name: replace(single, loader=name) for name in LOADERS},
    )
    yield from _table(
        rows,
        "Shuffled, by number of examples and agreement:",
        {
            f"{examples:,}, {agreement:.0%}": replace(
                single, examples=examples, agreement=agreement
            )
            for examples, agreement in ((100, 0.9), (400, 0.9), (400, 0.97), (1600, 0.97))
        },
    )
    scenes: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (row.each, row.correlation)):
        if row.grouped and row.loader == SHUFFLED:
            title = f"{row.examples // row.each} of {row.each}, {row.correlation:g}"
            scenes[title] = replace(row, rule="")
    scenes["100 of 10, 0.5, key of dicts"] = Row("", KEYED, 1000, 0.97, 10, 0.5, True)
    scenes["100 of 10, 0.1, no `groups=`"] = Row("", SHUFFLED, 1000, 0.97, 10, 0.1)
    yield from _table(
        rows,
        "Scenes, of so many examples each, with `groups=`; 97 % agreement, by the correlation of "
        "the decisions within a scene. Without `groups=` nothing is promised: that is what the "
        "warning of near duplicates is for.",
        scenes,
    )


def _table(rows: Rows, title: str, columns: Mapping[str, Row]) -> Iterator[str]:
    yield from (title, "", *_head(["rule", *columns]))
    for rule in DECIDERS:
        found = (rows.get(replace(row, rule=rule)) for row in columns.values())
        cells = ("" if cell is None else _with_mean(cell) for cell in found)
        yield f"| {rule} | {' | '.join(cells)} |"
    yield ""


def _whole(calls: Calls) -> Iterator[str]:
    names = ["rule", "asked", "examples", "holds", "mean promise", "mean truth"]
    yield from _head(names)
    for call, (found, truth) in calls.items():
        of = f"{call.examples:,}" + (f" in scenes of {call.each}" if call.each > 1 else "")
        yield (
            f"| {call.rule} | `{call.asked}` | {of} | {_cell(found)} | {found.bound:.3f} | "
            f"{truth:.3f} |"
        )


def _head(names: Sequence[str]) -> tuple[str, str]:
    return f"| {' | '.join(names)} |", "|---" * len(names) + "|"


def _choice(bounds: Bounds) -> list[str]:
    means = (part for name in BOUNDS for part in (name, "mean"))
    return [
        "## Which bound",
        "",
        "Held-out scenes of Poisson sizes, decisions drawn directly, 97 % agreement. An estimated "
        "design effect misses the rare scene that is all wrong "
        "([0015](decisions/0015-the-loader-is-read-once.md)); fxprune takes the bound over groups.",
        "",
        *_head(["scenes", "examples of each", "correlation", *means]),
        *(
            f"| {groups} | {each} | {correlation:g} |"
            + "".join(f" {_cell(f)} | {f.bound:.3f} |" for f in by.values())
            for (groups, each, correlation), by in bounds.items()
        ),
    ]
