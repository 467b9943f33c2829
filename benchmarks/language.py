"""What a compressed language model still predicts: `python -m benchmarks.language`.

A causal language model of bytes (`python -m benchmarks.train_lm`) and 384 windows of 128 bytes of
docstrings that it was not trained on, for calibration; no labels, no fine-tuning; 512 windows of a
test split that nothing is fitted, selected or tuned on. `auto`, without narrower streams and
rotation, and the paper's method with uniform widths.
"""

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import fxprune
from benchmarks.datasets.docstrings import text, windows
from benchmarks.examination.opened import opened
from benchmarks.models.language import trained
from benchmarks.train_lm import evaluate
from fxprune.capture.undisturbed import undisturbed
from fxprune.pipeline import compress_session
from fxprune.plans.methods import METHODS, Method

SELECTED = "auto, no streams, no rotation"
COMPARED: dict[str, Method] = {
    "auto": METHODS["auto"],
    SELECTED: replace(METHODS["auto"], rotation=False),
    "paper-uniform": METHODS["paper-uniform"],
}
BUDGETS = (0.8, 0.65, 0.5)


@torch.no_grad()
def same_tokens(net: nn.Module, small: nn.Module, pieces: Tensor) -> float:
    """Share of the positions at which two models find the same byte most likely."""
    equal = [(net(p).argmax(2) == small(p).argmax(2)).double().mean(1) for p in pieces.split(64)]
    return float(torch.cat(equal).mean())


def measure(
    net: nn.Module, calibration: Tensor, test: Tensor, budgets: list[float], seed: int = 0
) -> list[dict[str, Any]]:
    """A row per method and budget."""
    before, rows = evaluate(net, test), list[dict[str, Any]]()
    for title, method in COMPARED.items():
        session = opened(net, calibration, seed)
        if title == SELECTED:
            left = tuple(
                group
                for group in session.analysis.groups
                if group.name not in session.analysis.normalized
            )
            session = session.with_analysis(replace(session.analysis, groups=left))
        for flops in budgets:
            start = time.perf_counter()
            with undisturbed(net, seed):
                small = compress_session(session.using(method=method), {"flops": flops})
            found = fxprune.report(small)
            rows.append(
                {
                    "what": title,
                    "flops": flops,
                    "kept": found.flops[1] / found.flops[0],
                    "params": found.params[1] / found.params[0],
                    "agreement": same_tokens(net, small, test),
                    "perplexity_ratio": math.exp(evaluate(small, test) - before),
                    "rotated": len(fxprune.plan_of(small).rotations),
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
    rows = measure(trained().to(device), calibration, test, flops or list(BUDGETS))
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    typer.run(main)
