"""What mixing channels gains where they meet no nonlinearity: `python -m benchmarks.rotation`.

A transformer encoder trained on Fashion-MNIST (`python -m benchmarks.train_encoder`), with queries,
keys and values from three layers and, the same function, from one; and another with its norms
behind the sums (`--post`). 1,000 unlabeled calibration
images that it was not trained on, drawn per seed; no fine-tuning; 10,000 test images that nothing
is fitted, selected or tuned on. `auto` with rotation and without it, and the baselines.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

import fxprune
from benchmarks.datasets.images import DEBIAN, draw, split
from benchmarks.examination.opened import opened
from benchmarks.examination.outputs import logits
from benchmarks.models.encoder import Encoder, trained_encoder
from fxprune.capture.undisturbed import undisturbed
from fxprune.pipeline import compress_session
from fxprune.plans.methods import METHODS, Method

SELECTED = "auto, channels selected"
STREAMS = "auto, streams selected"
COMPARED: dict[str, Method] = {
    "auto": METHODS["auto"],
    STREAMS: replace(METHODS["auto"], streams=False),
    SELECTED: replace(METHODS["auto"], rotation=False),
    "paper": METHODS["paper"],
    "paper-uniform": METHODS["paper-uniform"],
}
BUDGETS = (0.8, 0.65, 0.5)
FORMS = {"q, k, v": {}, "qkv": {"fused": True}, "post-norm": {"post": True}}
"""What the encoder is made with, by the form's name."""


def measure(
    form: str, net: Encoder, calibration: Tensor, test: Tensor, budgets: list[float], seed: int
) -> list[dict[str, object]]:
    """A row per method and budget."""
    decided, rows = logits(net, test).argmax(1), []
    for title, method in COMPARED.items():
        session = opened(net, calibration, seed)
        for flops in budgets:
            start = time.perf_counter()
            with undisturbed(net, seed):
                small = compress_session(session.using(method=method), {"flops": flops})
            found = fxprune.report(small)
            assert found.agreement is not None
            rows.append(
                {
                    "form": form,
                    "seed": seed,
                    "flops": flops,
                    "what": title,
                    "kept": found.flops[1] / found.flops[0],
                    "agreement": float((logits(small, test).argmax(1) == decided).float().mean()),
                    "held_out_error": found.agreement.error,
                    "rotated": sorted(fxprune.plan_of(small).rotations),
                    "maps": len(fxprune.plan_of(small).maps),
                    "seconds": time.perf_counter() - start,
                }
            )
            print({k: v for k, v in rows[-1].items() if k != "rotated"}, flush=True)
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """Mean agreement with the original in %, over the seeds."""
    forms, budgets = (list(dict.fromkeys(r[key] for r in rows)) for key in ("form", "flops"))
    columns = [(form, flops) for form in forms for flops in budgets]
    lines = [
        "| | " + " | ".join(f"{form} at {flops}" for form, flops in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for title in dict.fromkeys(str(r["what"]) for r in rows):
        cells = []
        for form, flops in columns:
            own = [
                float(r["agreement"])  # type: ignore[arg-type]
                for r in rows
                if (r["what"], r["form"], r["flops"]) == (title, form, flops)
            ]
            cells.append(f"{100 * sum(own) / max(len(own), 1):.2f}")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    flops: Annotated[list[float] | None, typer.Option(help="budgets")] = None,
    form: Annotated[list[str] | None, typer.Option(help=f"of {'; '.join(FORMS)}")] = None,
    seeds: int = 3,
    count: Annotated[int, typer.Option(help="calibration images")] = 1000,
    tests: Annotated[int, typer.Option(help="test images")] = 10_000,
    data: Path = DEBIAN,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the table."""
    pool, test = split("calibration", data).images, split("test", data).images[:tests]
    rows: list[dict[str, object]] = []
    for name in form or list(FORMS):
        for seed in range(seeds):
            calibration = draw(pool, count, seed)
            net = trained_encoder(**FORMS[name])
            rows += measure(name, net, calibration, test, flops or list(BUDGETS), seed)
            if json_file is not None:
                json_file.write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    typer.run(main)
