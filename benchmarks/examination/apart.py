"""Networks judged on calibration images that no fit and no training saw, never on test images."""

from collections.abc import Iterator
from pathlib import Path

import torch
import typer
from torch import Tensor, nn

from benchmarks.datasets.images import draw, photographs, photos, split
from benchmarks.models.nets import NETS, efficientnet_lite0, trained
from fxprune.verify.outputs import squared_error

APART = 50
"""Photographs whose crops judge."""


def cases(
    names: list[str] | None, data: Path, folder: Path | None, seed: int
) -> Iterator[tuple[str, nn.Module, Tensor, Tensor | None, Tensor]]:
    """Networks, what calibrates them, in which groups, and what judges them."""
    if folder is None:
        order = draw(split("calibration", data).images, 5000, seed)
        for name in names or list(NETS):
            yield name, trained(name), order[:1000], None, order[1000:]
        return
    pool, groups = photos(folder), photographs(folder)
    if groups is None:
        raise typer.BadParameter(f"beside {folder} there is no index.csv with the photographs")
    apart = torch.isin(groups, draw(groups.unique(), APART, 100 + seed))
    yield "EfficientNet-Lite0", efficientnet_lite0(), pool[~apart], groups[~apart], pool[apart]


def judged(outputs: Tensor, reference: Tensor) -> str:
    """Agreement in %, relative error and divergence of logits (N, classes)."""
    agreement = float((outputs.argmax(1) == reference.argmax(1)).float().mean())
    error, spread = squared_error(reference, outputs)
    divergence = nn.functional.kl_div(
        outputs.log_softmax(1), reference.log_softmax(1), reduction="batchmean", log_target=True
    )
    return f"{100 * agreement:.2f}, {error / spread:.4f}, {float(divergence):.4f}"
