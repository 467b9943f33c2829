"""Channel reduction and low rank, alone, one after the other and planned together: `python -m
benchmarks.composition`.

Every trained network is reduced to 60 % of its FLOPs by channels, then by each low-rank method to
a share of the parameters that are left (as Chee et al. 2022 compose their interpolative
decomposition with PCA, learned rank and ALDS). Beside it, at the parameters and FLOPs each such
pair ends at: the low-rank method alone; and at those of the pair with PCA: the reverse order,
channels alone, and the joint plan of `compress(method="auto")`. Unlabeled calibration images that
no network was trained on; no fine-tuning; test images that nothing is fitted or tuned on.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fxprune
from benchmarks.datasets.images import DEBIAN, Split, draw, split
from benchmarks.examination.opened import opened
from benchmarks.examination.outputs import logits
from benchmarks.models.nets import NETS, trained
from fxprune.capture.undisturbed import undisturbed
from fxprune.errors import BudgetError
from fxprune.pipeline import compress_session
from fxprune.plans.methods import METHODS, RANK_METHODS
from fxprune.session import Session

BATCH, ROUNDS = 20, 15
"""Images per call whose latency is measured, and how often."""
REDUCED = 0.6
"""FLOPs that channel reduction keeps before low rank."""
Row = dict[str, object]
CHANNELS, JOINT, REVERSED = "channels alone", "joint", "pca, then channels"
EVERY = "the best order of each case, known afterwards"
ALONE, COMPOSED = "{} alone", "channels, then {}"


@torch.no_grad()
def processor_seconds(nets: Sequence[nn.Module], images: Tensor) -> list[float]:
    """Median processor time per call, the networks taking turns: on one thread the latency of an
    idle machine, also on a busy one.
    """
    times = []
    for _ in range(ROUNDS):
        for net in nets:
            start = time.process_time()
            net(images)
            times.append(time.process_time() - start)
    return [float(t) for t in torch.tensor(times).view(ROUNDS, len(nets))[1:].median(0).values]


class Bench:
    """One network on one draw of calibration images.

    Args:
        name: of `NETS`.
        calibration, test: images for fitting, and images with labels for measuring.
        seed: of the split of the calibration images.
    """

    def __init__(self, name: str, calibration: Tensor, test: Split, seed: int):
        self.name, self.net, self.calibration, self.test, self.seed = (
            name,
            trained(name),
            calibration,
            test,
            seed,
        )
        self.decided = logits(self.net, test.images).argmax(1)
        self.rows: list[Row] = []

    def _made(self, session: Session, method: str, limits: dict[str, float]) -> nn.Module:
        with undisturbed(session.model, self.seed):
            return compress_session(session.using(method=METHODS[method]), limits)

    def sizes(self, small: nn.Module) -> dict[str, float]:
        """Fractions of the original, whatever the model was made from."""
        found = fxprune.report(small)
        return {"params": found.params[1] / self.params, "flops": found.flops[1] / self.flops}

    def record(self, what: str, keep: float, small: nn.Module, seconds: float) -> None:
        """Measure a model."""
        found = logits(small, self.test.images).argmax(1)
        before, after = processor_seconds([self.net, small], self.test.images[:BATCH])
        self.rows.append(
            {
                "net": self.name,
                "seed": self.seed,
                "keep": keep,
                "what": what,
                **self.sizes(small),
                "latency": after / before,
                "agreement": float((found == self.decided).float().mean()),
                "accuracy": float((found == self.test.labels).float().mean()),
                "two_layers": len(fxprune.plan_of(small).factorings),
                "seconds": seconds,
            }
        )

    def attempt(
        self, what: str, keep: float, session: Session, method: str, limits: dict[str, float]
    ) -> nn.Module | None:
        """Compress and measure; None where the budget is out of reach."""
        start = time.perf_counter()
        try:
            small = self._made(session, method, limits)
        except BudgetError:
            return None
        self.record(what, keep, small, time.perf_counter() - start)
        return small

    def run(self, keeps: list[float]) -> list[Row]:
        """All rows."""
        whole = opened(self.net, self.calibration, self.seed)
        start = time.perf_counter()
        reduced = self._made(whole, "channels", {"flops": REDUCED})
        self.params, self.flops = (
            fxprune.report(reduced).params[0],
            fxprune.report(reduced).flops[0],
        )
        self.record(CHANNELS, 1.0, reduced, time.perf_counter() - start)
        inner = opened(reduced, self.calibration, self.seed)
        for keep in keeps:
            budget: dict[str, float] = {}
            for method in RANK_METHODS:
                composed = self.attempt(
                    COMPOSED.format(method), keep, inner, method, {"params": keep}
                )
                if composed is None:
                    continue
                limits = self.sizes(composed)
                budget = budget or limits
                self.attempt(ALONE.format(method), keep, whole, method, limits)
            self.attempt(CHANNELS, keep, whole, "channels", budget)
            self.attempt(JOINT, keep, whole, "auto", budget)
            start = time.perf_counter()
            first = self._made(whole, "pca", {"params": keep})
            rest = {k: min(v / self.sizes(first)[k], 1.0) for k, v in budget.items()}
            try:
                last = self._made(opened(first, self.calibration, self.seed), "channels", rest)
            except BudgetError:
                continue
            self.record(REVERSED, keep, last, time.perf_counter() - start)
        return self.rows


def mean(rows: list[Row], key: str, **fixed: object) -> float | None:
    """Mean over the rows that match, None without any."""
    values = [float(r[key]) for r in rows if all(r[k] == v for k, v in fixed.items())]  # type: ignore[arg-type]
    return sum(values) / len(values) if values else None


def show(rows: list[Row], console: Console) -> None:
    """Print a line per network, budget and way, means over seeds, and what they say."""
    table = Table(
        title="Agreement and accuracy on the test images, processor time relative to the "
        "original's, %",
        title_justify="left",
    )
    keys = ("params", "flops", "agreement", "accuracy", "latency")
    for column in ("net", "keep", "way", *keys):
        table.add_column(column, justify="right" if column in keys else "left")
    wins: dict[str, dict[object, list[float]]] = {method: {} for method in RANK_METHODS}
    orders = (REVERSED, *(COMPOSED.format(method) for method in RANK_METHODS))
    gaps: dict[str, list[float]] = {other: [] for other in (CHANNELS, *orders, EVERY)}
    for name, keep in dict.fromkeys((r["net"], r["keep"]) for r in rows):
        found = {
            str(r["what"]): mean(rows, "agreement", net=name, keep=keep, what=r["what"])
            for r in rows
        }
        for what in dict.fromkeys(
            str(r["what"]) for r in rows if (r["net"], r["keep"]) == (name, keep)
        ):
            values = [mean(rows, key, net=name, keep=keep, what=what) for key in keys]
            table.add_row(
                str(name),
                str(keep),
                what,
                *(f"{100 * value:.2f}" for value in values if value is not None),
            )
        for method in RANK_METHODS:
            composed, alone = found.get(COMPOSED.format(method)), found.get(ALONE.format(method))
            if composed is not None and alone is not None:
                wins[method].setdefault(name, []).append(composed - alone)
        joint = found.get(JOINT)
        fixed = [value for order in orders if (value := found.get(order)) is not None]
        for other, value in (found | {EVERY: max(fixed, default=None)}).items():
            if joint is not None and value is not None and other in gaps:
                gaps[other].append(joint - value)
    console.print(table)
    for method, nets in wins.items():
        above = sum(sum(gains) > 0 for gains in nets.values())
        console.print(
            f"{COMPOSED.format(method)}: above {ALONE.format(method)} on {above} of {len(nets)} "
            "nets, means over budgets."
        )
    for other, differences in gaps.items():
        if differences:
            console.print(
                f"Joint plan less {other}: {100 * sum(differences) / len(differences):+.2f} "
                f"points of agreement, mean of {len(differences)} "
                f"budgets; at worst {100 * min(differences):+.2f}."
            )


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    keep: Annotated[
        list[float] | None,
        typer.Option(help="of the reduced model's parameters; 0.9, 0.8 and 0.7 by default"),
    ] = None,
    seeds: int = 1,
    images: Annotated[int, typer.Option(help="for calibration")] = 1000,
    tests: Annotated[int, typer.Option(help="most test images")] = 10000,
    data: Path = DEBIAN,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="written after every network, and continued")
    ] = None,
) -> None:
    """Write the composition table."""
    pool, held = split("calibration", data), split("test", data)
    test = Split(held.images[:tests], held.labels[:tests])
    rows: list[Row] = (
        json.loads(json_file.read_text()) if json_file is not None and json_file.exists() else []
    )
    for name in net or list(NETS):
        for seed in range(seeds):
            rows += Bench(name, draw(pool.images, images, seed), test, seed).run(
                keep or [0.9, 0.8, 0.7]
            )
            if json_file is not None:
                json_file.write_text(json.dumps(rows, indent=1))
    show(rows, Console(width=140))


if __name__ == "__main__":
    typer.run(main)
