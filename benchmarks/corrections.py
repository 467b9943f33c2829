"""Corrections after the fit, and why there are none: `python -m benchmarks.corrections`.

Each is applied to what `compress` gives, from the same calibration images and without labels, and
judged on images that neither saw: calibration images outside the draw, never test images.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import fxprune
from benchmarks.datasets.images import DEBIAN, draw, split
from benchmarks.examination.outputs import logits
from benchmarks.models.nets import NETS, trained
from fxprune.verify.outputs import squared_error

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
Model = Callable[[Tensor], Tensor]


def re_estimated(twin: nn.Module, original: nn.Module, images: Tensor) -> Model:
    """BatchNorm statistics taken anew."""
    update_bn(images.split(200), twin)
    return lambda x: logits(twin.eval(), x)


def outputs_of(model: nn.Module, name: str, images: Tensor) -> Tensor:
    """What a submodule gives, (examples x positions, channels)."""
    held: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda module, args, output: held.append(output.transpose(1, -1).flatten(0, -2))
    )
    logits(model, images)
    handle.remove()
    return torch.cat(held)


@torch.no_grad()
def rescaled(twin: nn.Module, original: nn.Module, images: Tensor) -> Model:
    """Mean and deviation of every channel behind a BatchNorm brought to the original's, layer
    after layer.
    """
    for name, module in twin.named_modules():
        if isinstance(module, NORMS):
            ours, theirs = (outputs_of(model, name, images) for model in (twin, original))
            spread = ours.std(0)
            scale = torch.where(spread > 1e-4, theirs.std(0) / spread.clamp(min=1e-4), 1.0)
            shift = torch.where(spread > 1e-4, theirs.mean(0) - scale * ours.mean(0), 0.0)
            module.weight.mul_(scale)
            module.bias.mul_(scale).add_(shift)
    return lambda x: logits(twin, x)


def logits_refitted(twin: nn.Module, original: nn.Module, images: Tensor) -> Model:
    """An affine map of the outputs to the original's, by least squares."""
    ours, theirs = (logits(model, images) for model in (twin, original))
    features = torch.cat([ours, torch.ones(len(ours), 1)], 1)
    found = torch.linalg.lstsq(features.double(), theirs.double()).solution.float()
    return lambda x: logits(twin, x) @ found[:-1] + found[-1]


CORRECTIONS = {
    "BatchNorm re-estimated": re_estimated,
    "scale and bias per channel": rescaled,
    "outputs refitted": logits_refitted,
}


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    flops: float = 0.5,
    method: str = "auto",
    count: Annotated[int, typer.Option(help="calibration images")] = 1000,
    unseen: Annotated[int, typer.Option(help="images that judge")] = 4000,
    data: Path = DEBIAN,
) -> None:
    """Print the table."""
    table = Table(
        title=f"{method} at flops={flops:g}: agreement %, relative error of the output",
        title_justify="left",
    )
    for column in ("net", "as fitted", *CORRECTIONS):
        table.add_column(column, justify="left" if column == "net" else "right")
    pool = split("calibration", data).images
    order = draw(pool, len(pool), 0)
    images, judging = order[:count], order[count : count + unseen]
    for name in net or list(NETS):
        original = trained(name)
        small = fxprune.compress(original, images, flops=flops, method=method, progress=False)
        reference = logits(original, judging)
        # The original with the removed channels at zero gives the same outputs, and its channels
        # are the original's.
        models: list[Model] = [lambda x, small=small: logits(small, x)]  # type: ignore[misc]
        models += [
            correct(fxprune.masked(original, small), original, images)
            for correct in CORRECTIONS.values()
        ]
        cells = []
        for model in models:
            found = model(judging)
            wrong, norm = squared_error(reference, found)
            cells.append(
                f"{100 * float((found.argmax(1) == reference.argmax(1)).float().mean()):.2f}, "
                f"{wrong / norm:.4f}"
            )
        table.add_row(name, *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
