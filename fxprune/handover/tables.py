"""Tables of a report for a terminal: layers that differ in a number only are one row."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from fxprune.graph.names import INDENT, Alike, break_at_dots, put_together
from fxprune.handover.rows import AloneRow, GroupRow, RecoveryRow
from fxprune.verify.agreement import Agreement

if TYPE_CHECKING:
    from rich.table import Table

R = TypeVar("R")
NARROWEST = 20
"""Characters that a column of names has at least."""
NUMBERS = 46, 9
"""Characters beside it in the table of the channel groups, and those that counts take."""
UNITS = ((1e9, " G"), (1e6, " M"), (1e3, " k"))
SIZES = 26
"""Characters beside it in the table of what was left alone."""
PLACE = re.compile(r" \([^()]*: [^()]*\)$")
"""Where in the model a reason was met, at its end: what follows from one stands together."""
SEPARATOR = "\n"
"""Between a reason and a name; neither holds it."""


def tabulate_sizes(
    title: str, flops: tuple[float, float], params: tuple[int, int], bytes: tuple[int, int]
) -> "Table":
    """What the model cost before and costs after."""
    table = _table(title, ("", "before", "after", "kept"), right=("before", "after", "kept"))
    for name, before, after, kept in tell_sizes(flops, params, bytes):
        table.add_row(name, before, after, kept)
    return table


def tell_sizes(
    flops: tuple[float, float], params: tuple[int, int], bytes: tuple[int, int]
) -> Iterator[tuple[str, str, str, str]]:
    """Name, before, after and the share that is kept."""
    rows = (("FLOPs per example", flops), ("parameters", params), ("bytes", bytes))
    for name, (before, after) in rows:
        yield (name, *in_one_unit(before, after), f"{after / max(before, 1):.1%}")


def in_one_unit(before: float, after: float) -> tuple[str, str]:
    """Two amounts in thousands, millions or billions, as the first asks."""
    unit, name = next(((u, n) for u, n in UNITS if before >= u), (1.0, ""))
    return f"{before / unit:,.1f}{name}", f"{after / unit:,.1f}{name}"


def tell_outputs(agreement: Agreement) -> Iterator[str]:
    """A line for each of several outputs, and for other readings of a doubtful one."""
    if len(agreement.outputs) < 2:
        return
    for output in agreement.outputs:
        role = "" if output.counts else "For information, not judged so: "
        yield (
            f"{role}{output.name}: {output.rate:.2%} of the examples agree in {output.rule}; "
            f"relative error {output.error:.2e}."
        )


def tell_perplexity(agreement: Agreement) -> Iterator[str]:
    """A line on how much the text of the held-out examples surprises both models."""
    if agreement.perplexity is not None:
        before, after = agreement.perplexity
        yield (
            f"Perplexity on the held-out text: {before:.3g} before, {after:.3g} after, "
            f"{after / before:.3f} times as much."
        )


def put_groups_together(rows: Sequence[GroupRow], most: int) -> list[Alike[GroupRow]]:
    """Groups of layers that differ in a number only, those that changed and those that did not
    apart.
    """
    return put_together(rows, lambda row: row.title, lambda row: row.before == row.after, most)


@dataclass(frozen=True)
class Kind:
    """What was left alone for one reason, under names that follow one pattern.

    Attributes:
        reason: without the place where it was met.
        name: with `*` where the rows differ.
        rows: of these.
    """

    reason: str
    name: str
    rows: tuple[AloneRow, ...]


def put_alone_together(rows: Sequence[AloneRow], most: int) -> list[Kind]:
    """What was left alone, reason after reason."""
    alike = put_together(
        rows, lambda row: f"{PLACE.sub('', row.reason)}{SEPARATOR}{row.name}", most=most
    )
    kinds = []
    for found in alike:
        reason, _, name = found.name.partition(SEPARATOR)
        kinds.append(Kind(reason, name, found.items))
    first: dict[str, int] = {}
    for kind in kinds:
        first.setdefault(kind.reason, len(first))
    return sorted(kinds, key=lambda kind: first[kind.reason])


def tabulate_groups(rows: Sequence[GroupRow], width: int, most: int) -> "Table":
    """What every channel group kept.

    Args:
        rows: all of them.
        width: of the terminal.
        most: rows to show; the others are counted in a last one.
    """
    shown, rest = _cut(put_groups_together(rows, most), most)
    counted = len(shown) < len(rows)
    numbers = ("before", "after", "predicted", "measured")
    columns = ("group", *(["count"] if counted else []), *numbers)
    table = _table("Channel groups", columns, ("count", *numbers))
    names = max(NARROWEST, width - NUMBERS[0] - NUMBERS[1] * counted)
    for alike in shown:
        _add_groups(table, break_at_dots(alike.name, names), alike.items, counted)
    if rest:
        _add_groups(
            table, f"{len(rest)} others", [row for alike in rest for row in alike.items], counted
        )
    return table


def _add_groups(table: "Table", name: str, rows: Sequence[GroupRow], counted: bool) -> None:
    measured = [row.measured for row in rows if row.measured is not None]
    table.add_row(
        name,
        *([str(len(rows))] if counted else []),
        tell_range(row.before for row in rows),
        tell_range(row.after for row in rows),
        tell_error(sum(row.error for row in rows)),
        tell_error(max(measured)) if measured else "",
    )


def tabulate_alone(rows: Sequence[AloneRow], width: int, most: int) -> "Table":
    """What was left at full size: under each reason what it holds for."""
    table = _table("Left alone", ("why: what", "count", "size"), right=("count", "size"))
    names = max(NARROWEST, width - SIZES)
    shown, rest = _cut(put_alone_together(rows, most), most)
    before = ""
    for kind in shown:
        if kind.reason != before:
            table.add_row(break_at_dots(kind.reason, names))
        before = kind.reason
        table.add_row(break_at_dots(kind.name, names, INDENT), *_count(kind.rows))
    if rest:
        others = [row for kind in rest for row in kind.rows]
        reasons = len({kind.reason for kind in rest})
        for_these = f"for {reasons} reasons" if reasons > 1 else rest[0].reason
        table.add_row(break_at_dots(f"and others, {for_these}", names), *_count(others))
    return table


def _count(rows: Sequence[AloneRow]) -> tuple[str, str]:
    return str(len(rows)), tell_range(row.size for row in rows)


def tell_error(error: float) -> str:
    """Two digits, and 0 where there is none."""
    return f"{error:.1e}" if error else "0"


def tell_range(numbers: Iterable[int]) -> str:
    """`64`, or `64 to 512`."""
    found = set(numbers)
    return f"{min(found)}" if len(found) == 1 else f"{min(found)} to {max(found)}"


def _cut(alike: Sequence[R], most: int) -> tuple[Sequence[R], Sequence[R]]:
    if len(alike) <= most:
        return alike, ()
    return alike[: most - 1], alike[most - 1 :]


def _table(title: str, columns: Sequence[str], right: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    return table


def tell_recovery(row: RecoveryRow) -> str:
    """What training gave."""
    before, after = row.certified
    way = "" if row.way == 1 else f", {row.way:g} of the way from the best before,"
    how = (
        f"the weights after step {row.kept}{way} were kept"
        if row.kept
        else "no weights were accepted, and the model is as it was"
    )
    by = f" of {row.optimizer}" if row.optimizer else ""
    seen = f", each in {row.views} views" if row.views > 1 else ""
    return (
        f"Recovered in {row.steps} steps{by} ({row.seconds:.0f} s) on {row.trained} examples: "
        f"{how}. "
        f"Chosen on {row.accepted} examples{seen}, {row.chosen[0]:.2%} before and "
        f"{row.chosen[1]:.2%} after; on those of the bound {before:.2%} before and {after:.2%} "
        "after."
    )
