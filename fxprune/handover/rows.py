"""Rows of a report, and the tables that show them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from fxprune.verify.agreement import Agreement


@dataclass(frozen=True)
class GroupRow:
    """One channel group.

    Attributes:
        name, members: the group and the weight axes that hold its channels.
        before, after: channels in all blocks.
        error: part of the predicted relative squared error of the model's output that comes from
            removing the rest of the group.
    """

    name: str
    members: tuple[str, ...]
    before: int
    after: int
    error: float


@dataclass(frozen=True)
class AloneRow:
    """Something left at full size, and why."""

    name: str
    size: int
    reason: str


@dataclass(frozen=True)
class RecoveryRow:
    """What `recover` did.

    Attributes:
        steps: of the optimizer, in all.
        seconds: of training.
        processes: that trained together.
        trained: examples that were trained on.
        accepted: examples on which the result was chosen; no others chose.
        kept: the step whose weights were handed back; 0 where the compressed model came back as it
            was.
        chosen: agreement on those examples, before and after.
        divergence: of the outputs there, before and after.
        certified: agreement on the examples that the bound is from, before and after.
    """

    steps: int
    seconds: float
    processes: int
    trained: int
    accepted: int
    kept: int
    chosen: tuple[float, float]
    divergence: tuple[float, float]
    certified: tuple[float, float]


def tell_recovery(row: RecoveryRow) -> str:
    """What training gave."""
    before, after = row.certified
    how = (
        f"the weights after step {row.kept} were kept"
        if row.kept
        else "no weights were accepted, and the model is as it was"
    )
    return (
        f"Recovered in {row.steps} steps ({row.seconds:.0f} s) on {row.trained} examples: {how}. "
        f"Chosen on {row.accepted} examples, {row.chosen[0]:.2%} before and {row.chosen[1]:.2%} "
        f"after; on those of the bound {before:.2%} before and {after:.2%} after."
    )


def tabulate_sizes(
    title: str, flops: tuple[float, float], params: tuple[int, int], bytes: tuple[int, int]
) -> Table:
    """What the model cost before and costs after."""
    table = _table(title, ("", "before", "after", "kept"), right=("before", "after", "kept"))
    for name, (before, after), unit, label in (
        ("FLOPs per example", flops, 1e6, "M"),
        ("parameters", params, 1e3, "k"),
        ("bytes", bytes, 1e3, "k"),
    ):
        table.add_row(
            name,
            f"{before / unit:,.1f} {label}",
            f"{after / unit:,.1f} {label}",
            f"{after / max(before, 1):.1%}",
        )
    return table


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


def tabulate_groups(rows: Sequence[GroupRow]) -> Table:
    """What every channel group kept."""
    right = ("before", "after", "predicted error")
    table = _table("Channel groups", ("group", "weights", *right), right, fold=True)
    for row in rows:
        more = f" and {len(row.members) - 1} more" if len(row.members) > 1 else ""
        members = ", ".join(row.members[:1]) + more
        table.add_row(row.name, members, str(row.before), str(row.after), f"{row.error:.1e}")
    return table


def tabulate_alone(rows: Sequence[AloneRow]) -> Table:
    """What was left at full size, and why."""
    table = _table("Left alone", ("what", "size", "why"), right=("size",), fold=True)
    for row in rows:
        table.add_row(row.name, str(row.size), row.reason)
    return table


def _table(
    title: str, columns: Sequence[str], right: Sequence[str], *, fold: bool = False
) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold" if fold else "ellipsis",
        )
    return table
