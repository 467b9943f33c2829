"""Torch-Pruning at the same FLOPs, without fine-tuning: `python -m benchmarks.peer_tradeoff`, in
an environment that has torch-pruning.

Uniform ratios by its magnitude importance (its default) and by its Taylor importance, the
data-driven one, from gradients of the cross-entropy with the original's own decisions on the 1,000
unlabeled images. The ratio is bisected to the largest model within the budget. Test images and
calibration draws are those of `benchmarks.tradeoff`.
"""

import copy
import json
from pathlib import Path
from typing import Annotated

import torch_pruning
import typer
from torch import Tensor, nn

from benchmarks.data import DEBIAN, split
from benchmarks.nets import NETS, trained
from benchmarks.torch_pruning import last_layers
from benchmarks.tradeoff import draw, logits
from fxprune.capture.batch import make_batch
from fxprune.label.flops import count_flops

IMPORTANCES = {
    "magnitude": torch_pruning.importance.MagnitudeImportance,
    "taylor": torch_pruning.importance.TaylorImportance,
}
HALVINGS = 9


def with_gradients(net: nn.Module, calibration: Tensor) -> nn.Module:
    """A copy whose parameters hold the gradient of the cross-entropy with its own decisions."""
    held = copy.deepcopy(net)
    for x in calibration.split(100):
        scores = held(x)
        nn.functional.cross_entropy(scores, scores.argmax(1), reduction="sum").backward()
    return held


def pruned(net: nn.Module, importance: str, ratio: float, example: Tensor) -> nn.Module:
    """A copy with this share of every layer's channels gone."""
    model = copy.deepcopy(net)
    for ours, theirs in zip(model.parameters(), net.parameters(), strict=True):
        ours.grad = None if theirs.grad is None else theirs.grad.clone()
    torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=IMPORTANCES[importance](),
        pruning_ratio=ratio,
        ignored_layers=last_layers(model, [model(example)]),
    ).step()
    return model.eval()


def at_flops(net: nn.Module, importance: str, flops: float, example: Tensor) -> nn.Module:
    """The largest model within the budget."""
    batch = make_batch((example,), {})
    full, low, high = count_flops(net, batch), 0.0, 0.95
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        fits = count_flops(pruned(net, importance, middle, example), batch) <= flops * full
        low, high = (low, middle) if fits else (middle, high)
    return pruned(net, importance, high, example)


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
