"""Torch-Pruning at the same FLOPs, without fine-tuning: `python -m benchmarks.peer_tradeoff`, in
an environment that has torch-pruning.

Uniform ratios by its magnitude importance (its default) and by its Taylor importance, the
data-driven one, from gradients of the cross-entropy with the original's own decisions on the 1,000
unlabeled images. The ratio is bisected to the largest model within the budget. Test images and
calibration draws are those of `benchmarks.tradeoff`.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.datasets.images import DEBIAN, draw, split
from benchmarks.examination.outputs import logits
from benchmarks.models.nets import NETS, trained
from benchmarks.models.peer import IMPORTANCES, at_flops, with_gradients
from fxprune.capture.batch import make_batch
from fxprune.label.flops import count_flops


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    flops: Annotated[
        list[float] | None, typer.Option(help="budgets; 0.7, 0.5 and 0.35 by default")
    ] = None,
    data: Path = DEBIAN,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print one line per network, budget and importance."""
    pool, test = split("calibration", data), split("test", data)
    rows = []
    for name in net or list(NETS):
        model = trained(name)
        decided = logits(model, test.images).argmax(1)
        held = with_gradients(model, draw(pool.images, 1000, 0))
        for budget in flops or [0.7, 0.5, 0.35]:
            for importance in IMPORTANCES:
                small = at_flops(held, importance, budget, test.images[:2])
                kept = count_flops(small, make_batch((test.images[:2],), {})) / count_flops(
                    model, make_batch((test.images[:2],), {})
                )
                found = logits(small, test.images).argmax(1)
                agreement, accuracy = (
                    float((found == wanted).float().mean()) for wanted in (decided, test.labels)
                )
                rows.append(
                    {
                        "net": name,
                        "flops": budget,
                        "importance": importance,
                        "kept": kept,
                        "agreement": agreement,
                        "accuracy": accuracy,
                    }
                )
                print(
                    f"{name} {budget} {importance}: {kept:.3f} of the FLOPs, agreement "
                    f"{agreement:.2%}, accuracy {accuracy:.2%}",
                    flush=True,
                )
                if json_file is not None:
                    json_file.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    typer.run(main)
