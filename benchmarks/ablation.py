"""What each ingredient is worth: `python -m benchmarks.ablation`, at equal FLOPs, no fine-tuning,
10,000 test images.
"""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.fx import GraphModule

from benchmarks.datasets.images import DEBIAN, draw, split
from benchmarks.examination.opened import opened
from benchmarks.examination.outputs import logits
from benchmarks.models.nets import NETS, trained
from fxprune.allocate.allocation import choose_candidate
from fxprune.allocate.problem import Problem, pose
from fxprune.errors import CalibrationWarning
from fxprune.fit.build import build
from fxprune.plans.methods import METHODS, FitName, Method
from fxprune.profile.removal import profile_groups
from fxprune.session import Session


def uniform(selector: str, fit: FitName) -> Method:
    """Uniform widths, with channels chosen and weights fitted as said."""
    return replace(METHODS["uniform"], selector=selector, fit=fit)


STEPS = (
    ("smallest weights, nothing fitted", uniform("magnitude", "none"), True),
    ("smallest weights, interpolated", uniform("magnitude", "one-shot"), True),
    ("pivoted QR, interpolated", uniform("pivoted-qr", "one-shot"), True),
    ("consumers' errors, interpolated", uniform("output-aware", "one-shot"), False),
    ("output's error, interpolated", uniform("output-aware", "one-shot"), True),
    ("pivoted QR, fitted in lockstep", uniform("pivoted-qr", "sequential"), True),
    ("consumers' errors, fitted in lockstep", uniform("output-aware", "sequential"), False),
    ("output's error, fitted in lockstep", uniform("output-aware", "sequential"), True),
    ("the same, best of the widths tried", METHODS["channels"], True),
    ("the same, with ranks", METHODS["auto"], True),
)
"""What is done, the method that does it, and whether errors count by what they do to the output."""


def by_consumers(problem: Problem) -> Problem:
    """The same problem with errors that count by what they do to each layer's own output."""
    session = problem.session
    moments = session.statistics.observed.all_moments
    dtype = next(session.graph.parameters()).dtype
    selector = session.options.chosen_selector
    profiles = profile_groups(session.graph, session.analysis, moments, selector, dtype)
    return replace(problem, profiles=profiles)


def reduced(session: Session, flops: float, by_output: bool) -> GraphModule:
    """The session's model at a share of its FLOPs."""
    problem = pose(session, {"flops": flops})
    if not by_output:
        problem = by_consumers(problem)
    problem, chosen = choose_candidate(problem)
    return build(problem.session, problem.keep_mask(chosen.widths), chosen.ranks)


@torch.no_grad()
def measure(
    name: str, flops: float, seed: int, calibration: Tensor, test: Tensor
) -> list[dict[str, object]]:
    """Agreement on the test images after each step."""
    net = trained(name)
    decided = logits(net, test).argmax(1)
    session = opened(net, calibration, seed)
    rows: list[dict[str, object]] = []
    for title, method, by_output in STEPS:
        small = reduced(session.using(method=method), flops, by_output)
        agreement = float((logits(small, test).argmax(1) == decided).float().mean())
        rows.append(
            {"net": name, "step": title, "flops": flops, "seed": seed, "agreement": agreement}
        )
    return rows


def show(rows: list[dict[str, object]], console: Console) -> None:
    """Print the table."""
    names = list(dict.fromkeys(str(r["net"]) for r in rows))
    table = Table(title="Test agreement %, mean over calibration draws", title_justify="left")
    for column in ("", *names):
        table.add_column(column, justify="right" if column else "left")
    for title, *_ in STEPS:
        cells = []
        for name in names:
            found = [float(r["agreement"]) for r in rows if r["net"] == name and r["step"] == title]  # type: ignore[arg-type]
            cells.append(f"{100 * sum(found) / len(found):.2f}" if found else "")
        table.add_row(title, *cells)
    console.print(table)


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    flops: float = 0.5,
    seeds: int = 1,
    count: Annotated[int, typer.Option(help="calibration images")] = 1000,
    data: Path = DEBIAN,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Write the ablation table."""
    warnings.simplefilter("ignore", CalibrationWarning)
    pool, test = split("calibration", data), split("test", data)
    rows: list[dict[str, object]] = []
    for name in net or list(NETS):
        for seed in range(seeds):
            rows += measure(name, flops, seed, draw(pool.images, count, seed), test.images)
        if json_file is not None:
            json_file.write_text(json.dumps(rows, indent=1))
    show(rows, Console(width=140))


if __name__ == "__main__":
    typer.run(main)
