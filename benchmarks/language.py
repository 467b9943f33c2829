"""What a compressed language model still predicts: `python -m benchmarks.language`.

A causal language model of bytes (`python -m benchmarks.train_lm`) and 384 windows of 128 bytes of
docstrings that it was not trained on, for calibration; no labels, no fine-tuning; 512 windows of a
test split that nothing is fitted, selected or tuned on. `auto`, without narrower streams, without
rotation either, the paper's method with uniform widths, and a uniform slice of the stream as
SliceGPT makes it.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks.datasets.docstrings import text, windows
from benchmarks.examination.opened import opened
from benchmarks.examination.sliced import sliced
from benchmarks.models.language import trained
from benchmarks.train_lm import evaluate
from fxprune.capture.undisturbed import undisturbed
from fxprune.errors import BudgetError
from fxprune.pipeline import compress_session
from fxprune.plans.methods import METHODS
from fxprune.session import Session

UNROTATED = replace(METHODS["auto"], rotation=False)


def _auto(session: Session, flops: float) -> nn.Module:
    return compress_session(session, {"flops": flops})


def _no_streams(session: Session, flops: float) -> nn.Module:
    """The groups that are normalized as a whole stay."""
    normalized = session.analysis.normalized
    left = tuple(group for group in session.analysis.groups if group.name not in normalized)
    return _auto(session.with_analysis(replace(session.analysis, groups=left)), flops)


WAYS: dict[str, Callable[[Session, float], nn.Module]] = {
    "auto": _auto,
    "auto, no streams": _no_streams,
    "auto, no streams, no rotation": lambda session, flops: _no_streams(
        session.using(method=UNROTATED), flops
    ),
    "paper-uniform": lambda session, flops: _auto(
        session.using(method=METHODS["paper-uniform"]), flops
    ),
    "sliced": sliced,
}
"""How the model is made smaller."""
BUDGETS = (0.8, 0.65, 0.5)


@torch.no_grad()
def same_tokens(net: nn.Module, small: nn.Module, pieces: Tensor) -> float:
    """Share of the positions at which two models find the same byte most likely."""
    equal = [(net(p).argmax(2) == small(p).argmax(2)).double().mean(1) for p in pieces.split(64)]
    return float(torch.cat(equal).mean())


def measure(
    net: nn.Module,
    calibration: Tensor,
    test: Tensor,
    budgets: list[float],
    seed: int = 0,
    ways: list[str] | None = None,
) -> list[dict[str, Any]]:
    """A row per way and budget."""
    before, rows = evaluate(net, test), list[dict[str, Any]]()
    session = opened(net, calibration, seed)
    for what in ways or list(WAYS):
        for flops in budgets:
            start = time.perf_counter()
            try:
                with undisturbed(net, seed):
                    small = WAYS[what](session, flops)
            except BudgetError as error:
                print(f"{what} at {flops:g}: {error}", flush=True)
                continue
            rows.append(
                {
                    "what": what,
                    "flops": flops,
                    "agreement": same_tokens(net, small, test),
                    "perplexity_ratio": math.exp(evaluate(small, test) - before),
                    "seconds": time.perf_counter() - start,
                }
            )
            print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Next bytes that stay the same, in %, and how many times the perplexity grows."""
    budgets = list(dict.fromkeys(row["flops"] for row in rows))
    lines = [
        "| | " + " | ".join(f"FLOPs {flops}" for flops in budgets) + " |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    for title in dict.fromkeys(row["what"] for row in rows):
        own = {row["flops"]: row for row in rows if row["what"] == title}
        cells = [
            f"{100 * own[f]['agreement']:.2f}, x {own[f]['perplexity_ratio']:.3f}"
            if f in own
            else ""
            for f in budgets
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    flops: Annotated[list[float] | None, typer.Option(help="budgets")] = None,
    way: Annotated[list[str] | None, typer.Option(help=f"of: {'; '.join(WAYS)}")] = None,
    count: Annotated[int, typer.Option(help="windows to calibrate on")] = 384,
    tests: Annotated[int, typer.Option(help="test windows")] = 512,
    length: Annotated[int, typer.Option(help="bytes in a window")] = 128,
    device: Annotated[str, typer.Option(help="where all of it runs")] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the table."""
    calibration, test = (
        windows(text(split), length, n).to(device)
        for split, n in (("calibration", count), ("test", tests))
    )
    rows = measure(trained().to(device), calibration, test, flops or list(BUDGETS), ways=way)
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    typer.run(main)
