"""Compressing 3-D regression networks on voxel grids: one branch, and two branches for paired
structures.

    python -m benchmarks.atom3d      # small nets, trained first; a few minutes on two cores
    python -m benchmarks.atom3d --net cnn3d --side 41 --spacing 0.5 --wide

The nets follow ATOM3D's; the structures are synthetic (benchmarks.datasets.voxels). As in Chee et
al. (NeurIPS 2022) 80 examples that were not trained on are the calibration set, and no label is
used.
What counts is regression agreement: how far the compressed net's numbers are from the original's,
on test structures.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn

import fxprune
from benchmarks.datasets.voxels import ELEMENTS, dataset
from benchmarks.models.nets3d import CNN3D, WIDTHS, Paired3D

CALIBRATION = 80
NARROW = (16, 32, 64, 128)
COLUMNS = (
    "net",
    "method",
    "FLOPs",
    "parameters",
    "RMSE",
    "Pearson",
    "Spearman",
    "Pearson, labels",
    "Spearman, labels",
)


@dataclass(frozen=True)
class Data:
    """Inputs of the net, one tensor per branch, (N, 5, side, side, side) each, and labels (N,)."""

    inputs: tuple[Tensor, ...]
    labels: Tensor

    def batches(self, size: int, order: Tensor | None = None) -> list["Data"]:
        """The examples in batches, in order or in the given one."""
        order = torch.arange(len(self.labels)) if order is None else order
        return [Data(tuple(x[i] for x in self.inputs), self.labels[i]) for i in order.split(size)]


def data(branches: int, count: int, seed: int, side: int, spacing: float) -> Data:
    """Structures with their affinity, or pairs with the difference of theirs."""
    parts = [dataset(count, branches * seed + i, side, spacing) for i in range(branches)]
    labels = parts[0][1] if branches == 1 else parts[0][1] - parts[1][1]
    return Data(tuple(grids for grids, _ in parts), labels)


def train(net: nn.Module, examples: Data, epochs: int, seed: int) -> None:
    """Mean squared error of standardized labels, Adam, one cycle of the learning rate."""
    generator = torch.Generator().manual_seed(seed)
    mean, scale = examples.labels.mean(), examples.labels.std()
    steps = epochs * len(examples.batches(16))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    net.train()
    for _ in range(epochs):
        for batch in examples.batches(
            16, torch.randperm(len(examples.labels), generator=generator)
        ):
            loss = (net(*batch.inputs) - (batch.labels - mean) / scale).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()


def predict(net: nn.Module, examples: Data) -> np.ndarray:
    """(N,) outputs."""
    with torch.no_grad():
        return torch.cat([net(*batch.inputs) for batch in examples.batches(50)]).numpy()


def row(found: np.ndarray, original: np.ndarray, labels: np.ndarray) -> list[str]:
    """RMSE over the original's spread, Pearson and Spearman, against the original's outputs and
    against the labels.
    """
    rmse = float(np.sqrt(np.mean((found - original) ** 2)) / original.std())
    return [
        f"{rmse:.3f}",
        f"{pearsonr(found, original).statistic:.4f}",
        f"{spearmanr(found, original).statistic:.4f}",
        f"{pearsonr(found, labels).statistic:.4f}",
        f"{spearmanr(found, labels).statistic:.4f}",
    ]


def nets(side: int, wide: bool) -> dict[str, tuple[int, Callable[[], nn.Module]]]:
    """Number of branches and constructor by name."""
    widths, hidden, channels = (
        (WIDTHS, 512, len(ELEMENTS)) if wide else (NARROW, 128, len(ELEMENTS))
    )
    return {
        "cnn3d": (1, lambda: CNN3D(channels, side, widths, hidden)),
        "siamese-subtract": (
            2,
            lambda: Paired3D(channels, side, widths, hidden, shared=True, join="subtract"),
        ),
        "siamese-cat": (
            2,
            lambda: Paired3D(channels, side, widths, hidden, shared=True, join="cat"),
        ),
        "separate-cat": (
            2,
            lambda: Paired3D(channels, side, widths, hidden, shared=False, join="cat"),
        ),
    }


def rows(
    model: nn.Module,
    calibration: Data,
    test: Data,
    methods: Sequence[str],
    budgets: Sequence[float],
    seed: int,
) -> Iterator[list[str]]:
    """The cells of the trained net and of what each method makes of it, without the net's name."""
    original, labels = predict(model, test), test.labels.numpy()
    count = sum(p.numel() for p in model.parameters())
    yield ["original", "1", f"{count:,}", *row(original, original, labels)]
    loader = [batch.inputs for batch in calibration.batches(16)]
    for method in methods:
        for budget in budgets:
            small = fxprune.compress(
                model,
                loader,
                flops=budget,
                method=method,
                decision="close",
                seed=seed,
                progress=False,
            )
            before, after = fxprune.report(small).flops
            size = sum(p.numel() for p in small.parameters())
            agreement = row(predict(small, test), original, labels)
            yield [method, f"{after / before:.2f}", f"{size:,}", *agreement]


def main(
    net: Annotated[list[str] | None, typer.Option(help="Which nets; all by default.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Which methods; auto, paper and magnitude by default.")
    ] = None,
    flops: Annotated[
        list[float] | None, typer.Option(help="Budgets; 0.5 and 0.3 by default.")
    ] = None,
    side: Annotated[int, typer.Option(help="Voxels along an edge.")] = 21,
    spacing: Annotated[float, typer.Option(help="Edge of a voxel in angstrom.")] = 1.0,
    wide: Annotated[bool, typer.Option(help="The published widths, 32 to 256.")] = False,
    examples: Annotated[int, typer.Option(help="Training structures or pairs.")] = 600,
    tests: Annotated[int, typer.Option(help="Test structures or pairs.")] = 300,
    epochs: int = 8,
    seed: int = 0,
) -> None:
    """Train each net, compress it, and print how well its numbers are kept."""
    console = Console(width=160)
    table = Table(
        title="regression agreement on test structures; RMSE in units of the original's standard "
        "deviation"
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("net", "method") else "right")
    made = nets(side, wide)
    for name in net or made:
        branches, build = made[name]
        torch.manual_seed(seed)
        model = build()
        train(model, data(branches, examples, 1, side, spacing), epochs, seed)
        calibration = data(branches, CALIBRATION, 2, side, spacing)
        test = data(branches, tests, 3, side, spacing)
        methods, budgets = method or ("auto", "paper", "magnitude"), flops or (0.5, 0.3)
        for cells in rows(model, calibration, test, methods, budgets, seed):
            table.add_row(name, *cells)
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
