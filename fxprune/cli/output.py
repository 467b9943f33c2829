"""What the commands print: tables or JSON on stdout, an error as one line on stderr."""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import fxprune
from fxprune.errors import CalibrationWarning, FxpruneError
from fxprune.graph.names import put_together
from fxprune.handover.rows import AloneRow
from fxprune.handover.tables import put_alone_together, tell_range

LINES = 40
"""Rows of a kind that are shown one by one."""
NAMED = 4
"""Weight axes that are named in a cell."""


def print_errors_as_lines(command: Callable[..., list[str]]) -> Callable[..., None]:
    """One line on stderr and exit code 1 for every error that fxprune raises on purpose; else a
    line for every warning of its own, after the result, and the lines that the command ends with:
    where its files are, and what to type next.
    """

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with _collected_warnings() as warned:
                last = command(*args, **kwargs)
        except FxpruneError as error:
            say_error(error)
            raise typer.Exit(1) from error
        for text in warned:
            typer.echo("fxprune: warning: " + " ".join(text.split()), err=True)
        for line in last:
            typer.echo(line, err=True)

    return run


def say_error(error: FxpruneError) -> None:
    """One line on stderr."""
    typer.echo("fxprune: " + " ".join(str(error).split()), err=True)


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Texts of our own warnings, which are not shown; those of others are."""
    texts: list[str] = []
    with warnings.catch_warnings():
        others = warnings.showwarning

        def keep(message: Warning | str, category: type[Warning], *where: Any, **rest: Any) -> None:
            if issubclass(category, CalibrationWarning):
                texts.append(str(message))
            else:
                others(message, category, *where, **rest)

        warnings.showwarning = keep
        yield texts


def show(table: Any, text: str, as_json: bool) -> None:
    """Print the JSON text where it is wanted, else the table, which keeps a readable width where
    the output is no terminal and COLUMNS names none.
    """
    if as_json:
        print(text)
        return
    console = Console()
    told = console.is_terminal or "COLUMNS" in os.environ
    (console if told else Console(width=140)).print(table)


def tabulate(analysis: fxprune.Analysis) -> Table:
    """A row per channel group, and dimmed rows for what is left alone."""
    table = Table(title=f"{len(analysis.groups)} channel groups", title_justify="left")
    for column in ("group", "channels", "blocks", "made by", "read by"):
        table.add_column(
            column, overflow="fold", justify="right" if column in ("channels", "blocks") else "left"
        )
    rows = put_together(
        analysis.groups,
        lambda group: _joined(group, analysis),
        lambda g: (g.channels, len(g.blocks)),
        most=LINES,
    )
    for row in rows:
        name, made, read = row.name.split("\n")
        times = f"{len(row.items)} x " if len(row.items) > 1 else ""
        group = row.items[0]
        table.add_row(times + name, str(group.channels), str(len(group.blocks)), made, read)
    for name in analysis.with_maps:
        table.add_row(escape(f"{name} (rotatable)"), "", "", "a stream, with maps at its edges", "")
    alone = [AloneRow(p.parameter, p.size, p.reason) for p in analysis.pinned]
    for kind in put_alone_together(alone, LINES):
        times = f"{len(kind.rows)} x " if len(kind.rows) > 1 else ""
        size = tell_range(row.size for row in kind.rows)
        cells = (times + kind.name, size, "", f"left alone: {kind.reason}", "")
        table.add_row(*(escape(cell) for cell in cells), style="dim")
    return table


def _joined(group: fxprune.ChannelGroup, analysis: fxprune.Analysis) -> str:
    """Name, makers and readers, a line each: what names may follow a pattern in."""
    (listed,) = list_groups((group,))
    name = listed["name"] + (" (rotatable)" if group.name in analysis.rotatable else "")
    return "\n".join((name, _shorten(listed["members"]), _shorten(listed["consumers"])))


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return " ".join(names[:NAMED]) + more


def list_groups(groups: Iterable[fxprune.ChannelGroup]) -> list[dict[str, Any]]:
    """The channel groups for JSON."""
    return [
        {
            "name": group.name,
            "channels": group.channels,
            "blocks": len(group.blocks),
            "members": [f"{parameter}[{axis}]" for parameter, axis in group.members],
            "consumers": list(dict.fromkeys(f"{c.parameter}[{c.axis}]" for c in group.consumers)),
        }
        for group in groups
    ]


def write_json(analysis: fxprune.Analysis) -> str:
    """The channel groups, streams that are none as the graph stands, and what is left alone."""
    alone = [
        {"parameter": p.parameter, "axis": p.axis, "size": p.size, "reason": p.reason}
        for p in analysis.pinned
    ]
    groups = [
        listed
        | {"rotatable": listed["name"] in analysis.rotatable}
        | (
            {"selected": analysis.unmixed[listed["name"]]}
            if listed["name"] in analysis.unmixed
            else {}
        )
        for listed in list_groups(analysis.groups)
    ]
    streams = list(analysis.with_maps)
    return json.dumps({"groups": groups, "streams": streams, "alone": alone})
