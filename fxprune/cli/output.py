"""What the commands print: tables or JSON on stdout, an error as one line on stderr."""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

import fxprune
from fxprune.errors import CalibrationWarning, FxpruneError


def print_errors_as_lines(command: Callable[..., None]) -> Callable[..., None]:
    """One line on stderr and exit code 1 for every error that fxprune raises on purpose; else a
    line for every warning of its own, after the result.
    """

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with _collected_warnings() as warned:
                command(*args, **kwargs)
        except FxpruneError as error:
            typer.echo("fxprune: " + " ".join(str(error).split()), err=True)
            raise typer.Exit(1) from error
        for text in warned:
            typer.echo("fxprune: warning: " + " ".join(text.split()), err=True)

    return run


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
    the output is no terminal.
    """
    if as_json:
        print(text)
        return
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


def tabulate(analysis: fxprune.Analysis) -> Table:
    """A row per channel group, and dimmed rows for what is left alone."""
    table = Table(title=f"{len(analysis.groups)} channel groups", title_justify="left")
    for column in ("group", "channels", "blocks", "made by", "read by"):
        table.add_column(
            column, overflow="fold", justify="right" if column in ("channels", "blocks") else "left"
        )
    for group in list_groups(analysis):
        table.add_row(
            group["name"],
            str(group["channels"]),
            str(group["blocks"]),
            " ".join(group["members"]),
            " ".join(group["consumers"]),
        )
    for pinned in analysis.pinned:
        table.add_row(
            f"[dim]{pinned.parameter}[/dim]",
            str(pinned.size),
            "",
            f"[dim]left alone: {pinned.reason}[/dim]",
            "",
        )
    return table


def list_groups(analysis: fxprune.Analysis) -> list[dict[str, Any]]:
    """The channel groups for JSON."""
    return [
        {
            "name": group.name,
            "channels": group.channels,
            "blocks": len(group.blocks),
            "members": [f"{parameter}[{axis}]" for parameter, axis in group.members],
            "consumers": list(dict.fromkeys(f"{c.parameter}[{c.axis}]" for c in group.consumers)),
        }
        for group in analysis.groups
    ]


def write_json(analysis: fxprune.Analysis) -> str:
    """The channel groups and what is left alone."""
    alone = [
        {"parameter": p.parameter, "axis": p.axis, "size": p.size, "reason": p.reason}
        for p in analysis.pinned
    ]
    return json.dumps({"groups": list_groups(analysis), "alone": alone})
