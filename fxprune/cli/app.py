"""The command line: one command a verb; each stands in the file of its family."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
import typer

import fxprune
from fxprune.cli import benching, compressing, exporting, recovering, showing
from fxprune.cli.output import print_errors_as_lines
from fxprune.cli.ranks import on_all_ranks

app = typer.Typer(
    help="Make trained PyTorch models smaller and faster without fine-tuning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    showing.demo,
    showing.analyze,
    compressing.compress,
    compressing.sweep,
    compressing.factorize,
    recovering.recover,
    showing.report,
    showing.plot,
    benching.bench,
    exporting.export,
)
TOGETHER = (compressing.compress, compressing.sweep, compressing.factorize)
"""Commands that the processes of torchrun run as one."""
for command in COMMANDS:
    shared = on_all_ranks(command) if command in TOGETHER else command
    app.command()(print_errors_as_lines(shared))


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fxprune {fxprune.__version__}, torch {torch.__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="and that of torch"),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="a line per station and decision, on stderr")
    ] = False,
) -> None:
    """Make trained PyTorch models smaller and faster without fine-tuning."""
    if verbose:
        context.with_resource(_shown_log())


@contextmanager
def _shown_log() -> Iterator[None]:
    """What the library logs, on stderr."""
    log, handler = logging.getLogger("fxprune"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def main() -> None:
    """Entry point of the `fxprune` command."""
    app()


if __name__ == "__main__":
    main()
