"""What came of the faults, in numbers and as a page."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mutants.areas import AREAS

ABOUT = (
    "A fault is one change of the code that decides which channels go together, that rewrites, "
    "folds, lifts and captures, or that the certificate rests on: a border, a condition, an "
    "operator, an axis, a dropped statement, swapped arguments. The files of each area stand in "
    "`benchmarks/mutants/areas.py`, the kinds of change in `benchmarks/mutants/reader.py`. Faults "
    "are drawn from a seed: areas in turn, functions in turn, kinds in turn.",
    "Each is planted in a fork of the process that collected the tests, and the tests that run the "
    "changed lines go from the nearest until one fails. Slow tests take no part, nor do those of "
    "how the code is written. A test that also fails without the fault says nothing. What hangs "
    "counts as killed, in a column of its own. A change that no test could notice is equivalent: "
    "it stands below with the reason, and the last column leaves it out.",
)
WHY = (
    "mutmut 3.8 leaves decorated functions out, and every operator rule is one. cosmic-ray 8.7 "
    "writes into the working tree and starts one command anew per fault, which would import "
    "PyTorch and collect all tests each time. mutatest 3.1 writes into the working tree's byte "
    "code. None changes an axis or swaps arguments."
)
HEAD = ("faults", "killed", "by time", "survived", "equivalent", "killed of what breaks")


def counts(rows: Iterable[dict[str, Any]], equivalent: dict[str, str]) -> Counter[str]:
    """How many rows of each verdict; survivors that break nothing are "equivalent"."""
    found = Counter[str]()
    for row in rows:
        known = row["verdict"] == "survived" and row["name"] in equivalent
        found["equivalent" if known else row["verdict"]] += 1
    return found


def cells(rows: Sequence[dict[str, Any]], equivalent: dict[str, str]) -> list[str]:
    """A line of the table, under `HEAD`."""
    found = counts(rows, equivalent)
    breaking = len(rows) - found["equivalent"]
    killed = found["killed"] + found["timeout"]
    share = f"{killed / breaking:.1%}" if breaking else ""
    verdicts = (found[v] for v in ("killed", "timeout", "survived", "equivalent"))
    return [str(len(rows)), *map(str, verdicts), share]


def totals(rows: Sequence[dict[str, Any]], equivalent: dict[str, str]) -> str:
    """One line for the terminal."""
    return ", ".join(
        f"{name} {cell}" for name, cell in zip(HEAD, cells(rows, equivalent), strict=True)
    )


def _table(first: str, groups: dict[str, list[dict[str, Any]]], known: dict[str, str]) -> str:
    lines = [f"| {' | '.join((first, *HEAD))} |", "|---" + "|--:" * len(HEAD) + "|"]
    for name, rows in groups.items():
        lines.append(f"| {' | '.join((name, *cells(rows, known)))} |")
    return "\n".join(lines)


def _grouped(
    rows: Sequence[dict[str, Any]], key: Callable[[dict[str, Any]], str], names: Iterable[str]
) -> dict[str, list[dict[str, Any]]]:
    return {name: [r for r in rows if key(r) == name] for name in names} | {"**all**": list(rows)}


def _room(row: dict[str, Any]) -> str:
    return Path(row["name"].split(":")[0]).parent.name


def _shown(row: dict[str, Any], why: str) -> str:
    """A fault and a sentence as an item of a list."""
    path, function, change = row["name"].split(":", 2)
    old, new = (f"`{part.strip()}`" for part in change.split(" -> ", 1))
    return f"- `{path}`, `{function.strip()}`: {old} becomes {new}. {why}".rstrip()


def _listed(rows: Sequence[dict[str, Any]], reasons: dict[str, str]) -> str:
    return "\n".join(_shown(row, reasons.get(row["name"], "")) for row in rows) or "None."


def _near(rows: Sequence[dict[str, Any]]) -> str:
    """Where the tests lie that noticed, and how they did."""
    killed = [row for row in rows if row["verdict"] == "killed" and row["by"]]
    own = sum(row["by"].split("/")[1] == _room(row) for row in killed)
    asserted = sum(row["how"] == "AssertionError" for row in killed)
    seconds = sorted(row["seconds"] for row in killed)
    return (
        f"Of the {len(killed)} that a test noticed, {own} fell to a test of their own room; "
        f"{asserted} failed an assertion, {len(killed) - asserted} ended in another exception. "
        f"Half of them took less than {seconds[len(seconds) // 2]:.0f} s by the clock."
        if killed
        else ""
    )


def page(rows: Sequence[dict[str, Any]], known: dict[str, str], stamp: str, note: str = "") -> str:
    """The page, in markdown.

    Args:
        rows: of the faults.
        known: those that break nothing, and why.
        stamp: which faults, when, where and on what code.
        note: a paragraph about this run.
    """
    left = [row for row in rows if row["verdict"] == "survived"]
    kinds = [kind for kind, _ in Counter(row["kind"] for row in rows).most_common()]
    parts = (
        "# Do the tests notice faults?",
        stamp,
        note,
        *ABOUT,
        _table("area", _grouped(rows, lambda row: str(row["area"]), AREAS), known),
        _table("room", _grouped(rows, _room, sorted({_room(row) for row in rows})), known),
        _table("kind", _grouped(rows, lambda row: str(row["kind"]), kinds), known),
        _near(rows),
        "## Survivors",
        _listed([row for row in left if row["name"] not in known], {}),
        "## Equivalent",
        _listed([row for row in left if row["name"] in known], known),
        "## Why no library",
        WHY,
    )
    return "\n\n".join(part for part in parts if part) + "\n"
