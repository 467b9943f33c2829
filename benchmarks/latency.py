"""Whether `latency=` reaches what it promises: `python -m benchmarks.latency`.

Compresses the networks of `benchmarks.speedup` to a fraction of their time and measures the result
afresh with `fxprune.benchmark`.
"""

from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fxprune
from benchmarks.models.timed import networks

COLUMNS = ("net", "mode", "batch", "FLOPs kept", "when compressed", "measured afresh", "quartiles")


def measure(
    original: nn.Module, images: Tensor, latency: float, method: str, workload: fxprune.Workload
) -> tuple[str, str, str, str]:
    """FLOPs kept, the fraction that the plan measured, and the one measured afresh.

    Raises:
        BudgetError: the network cannot be made that fast.
    """
    small = fxprune.compress(
        original, images, latency=latency, workload=workload, method=method, progress=False
    )
    before, after = fxprune.report(small).flops
    row = fxprune.benchmark(
        small,
        original,
        images[:1],
        batches=(workload.batch,),
        modes=(workload.mode,),
        threads=workload.threads,
    ).rows[0]
    planned = str(fxprune.plan_of(small).settings["measured"]).partition(" ")[0]
    quartiles = f"{1 / row.high:.3f} to {1 / row.low:.3f}"
    return f"{after / before:.2f}", planned, f"{1 / row.speedup:.3f}", quartiles


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="1 and 8 by default")] = None,
    mode: Annotated[
        list[str] | None, typer.Option(help="eager, compiled; eager by default")
    ] = None,
    latency: float = 0.5,
    method: Annotated[
        str, typer.Option(help="magnitude fits nothing: enough where only time is asked for")
    ] = "magnitude",
    threads: int = 1,
) -> None:
    """Print a table of measured fractions."""
    console = Console(width=140)
    table = Table(
        title=f"latency={latency:g}, {threads} thread(s), torch {torch.__version__}",
        title_justify="left",
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("net", "mode") else "right")
    for name in net or list(networks()):
        original, images, _ = networks()[name]()
        for kind in mode or ("eager",):
            for size in batch or (1, 8):
                workload = fxprune.Workload(size, kind == "compiled", threads=threads)
                try:
                    cells = measure(original, images, latency, method, workload)
                except fxprune.BudgetError as error:
                    console.print(f"{name}, {workload}: {error}", highlight=False)
                    continue
                table.add_row(name, kind, str(size), *cells)
                console.print(name, kind, size, *cells, highlight=False)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
