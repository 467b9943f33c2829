r"""Which calibration examples count as alike: `python -m benchmarks.near_duplicates --images DIR`.

Crops of photographs whose photograph is known, through an EfficientNet-Lite0: an example that is
found is right where the one most alike shows the same photograph. Beside them one crop of each
photograph, and Fashion-MNIST through the trained networks of this repository, where nothing belongs
together and no warning may come. The threshold is set on DIR/calib; DIR/test has other photographs.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.datasets.images import DEBIAN, photos, split
from benchmarks.models.nets import NETS, efficientnet_lite0, trained
from fxprune.calibrate.near_duplicates import SHARE, too_alike
from fxprune.calibrate.observe import Observer, arguments
from fxprune.calibrate.penultimate import Penultimate, Seen
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture

BATCH = 50


def look(net: nn.Module, x: Tensor) -> Seen:
    """What fxprune keeps of examples while the net runs on them."""
    graph = capture(net, make_batch((x[:2],), {})).graph
    kept = Penultimate(graph, np.ones(len(x), bool))
    observer = Observer(graph, kept.watch)
    numbers = torch.arange(len(x)).split(BATCH)
    numbered = ((n.numpy(), make_batch((x[n],), {})) for n in numbers)
    with torch.no_grad():
        for batch in kept.follow(numbered):
            observer.run(*arguments(graph, batch), enable_io_processing=False)
    seen = kept.seen()
    assert seen is not None
    return seen


def part_of(seen: Seen, chosen: np.ndarray) -> Seen:
    """Of some of the examples."""
    at = torch.from_numpy(chosen)
    return Seen(seen.numbers[chosen], seen.features[at], seen.values[at])


def photographs(folder: Path, part: str) -> Tensor:
    """(files,) number of every file's photograph, in order of the files' names."""
    with (folder / "index.csv").open(newline="") as file:
        rows = sorted((r["file"], r["photo"]) for r in csv.DictReader(file) if r["split"] == part)
    return torch.from_numpy(np.unique([photo for _, photo in rows], return_inverse=True)[1])


def sets(images: Path | None, data: Path, count: int) -> Iterator[tuple[str, Seen, Tensor]]:
    """Names, what is seen, and what belongs together."""
    for part in ("calib", "test") if images is not None else ():
        assert images is not None
        of = photographs(images, part)
        seen = look(efficientnet_lite0(), photos(images / part))
        yield f"{part}: crops of photographs", seen, of
        first = np.unique(of.numpy(), return_index=True)[1]
        yield f"{part}: one crop of each", part_of(seen, first), of[torch.from_numpy(first)]
    pool = split("calibration", data).images[:count]
    for name in NETS:
        yield f"Fashion-MNIST, {name}", look(trained(name).eval(), pool), torch.arange(count)


def row(name: str, seen: Seen, of: Tensor) -> list[str]:
    """What is found, and how much of it is right."""
    table = seen.features
    found = too_alike(table, seen.values, torch.arange(len(table)))
    unit = functional.normalize(table - table.mean(0), dim=1)
    nearest = (unit @ unit.mT).fill_diagonal_(-2).argmax(1)
    right = found & (of[nearest] == of)
    related = torch.bincount(of)[of] > 1
    share = float(found.double().mean())
    several = bool(related.any())
    return [
        name,
        f"{len(table):,}",
        f"{share:.1%}",
        f"{float(right.sum() / found.sum()):.1%}" if several else "",
        f"{float((found & related).sum() / related.sum()):.1%}" if several else "",
        "yes" if share >= SHARE else "no",
    ]


def main(
    images: Annotated[Path | None, typer.Option(help="with index.csv, calib/, test/")] = None,
    data: Annotated[Path, typer.Option(help="Fashion-MNIST's four files")] = DEBIAN,
    count: Annotated[int, typer.Option(help="images of Fashion-MNIST")] = 1000,
) -> None:
    """Print a row per set."""
    torch.set_num_threads(1)
    shown = Table("", "examples", "found", "precision", "recall", "warned")
    for name, seen, of in sets(images, data, count):
        shown.add_row(*row(name, seen, of))
    Console(width=120).print(shown)


if __name__ == "__main__":
    typer.run(main)
