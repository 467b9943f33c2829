"""What several processes spare each other, and what passes between them: `python -m
benchmarks.scale`.

Processor seconds of the busiest rank, on one thread each, by the stations that are shared out and
by those that every rank goes through; the memory of the largest; whether all ranks have the bytes
that one process makes. Linux only.
"""

import pickle
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

import fxprune
from benchmarks.datasets.images import DEBIAN, draw, split
from benchmarks.examination.resident import resident
from benchmarks.models.encoder import trained_encoder
from benchmarks.models.nets import trained
from benchmarks.models.nets3d import CNN3D
from fxprune.distributed import together
from fxprune.distributed.group import Group
from fxprune.fit import layer
from fxprune.progress import Advance, Journal

SHARED = ("calibrate", "profile", "allocate", "fit", "verify")
"""Stations whose work is shared out."""
BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"
"""Between these stands the table in a page."""
VOXELS, ENCODER, SIDE = "voxels", "encoder", 25
"""A 3-D network on grids of so many voxels a side, and a transformer on images' rows."""
HEAD = (
    "| network | ranks | processor s: all | shared part | quotient | parallel part | quotient "
    "| solves | exchanges | memory, MB | sent, MB | a layer, kB |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass
class Spent:
    """What a call took on one rank.

    Attributes:
        seconds: of the processor, by station.
        parts: seconds of the solves of fits, and of exchanges without what is made in them.
        whole: seconds of all.
        sent: bytes, by what for.
        layers: that were fitted.
        memory: bytes at most, beyond what was there with network and examples loaded.
        digest: of the weights and the plan.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=lambda: {"solves": 0.0, "exchanges": 0.0})
    whole: float = 0.0
    sent: dict[str, int] = field(default_factory=dict)
    layers: int = 0
    memory: int = 0
    digest: str = ""

    @property
    def shared(self) -> float:
        """Seconds of the stations that are shared out."""
        return sum(self.seconds.get(station, 0.0) for station in SHARED)

    @property
    def parallel(self) -> float:
        """Of these, all but the solves of fits, which wait for each other."""
        return self.shared - self.parts["solves"]


def load(net: str, images: int, data: Path) -> tuple[nn.Module, list[Tensor]]:
    """A network and its calibration batches: trained ones and images, or, as `voxels`, a random 3-D
    one and random grids.
    """
    if net == VOXELS:
        draws = torch.Generator().manual_seed(0)
        grids = torch.randn(images, 5, SIDE, SIDE, SIDE, generator=draws)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return CNN3D(5, SIDE, (12, 16, 16, 24), 64).eval(), list(grids.split(25))
    model = trained_encoder() if net == ENCODER else trained(net)
    return model, list(draw(split("calibration", data).images, images, 0).split(50))


def spend(net: str, images: int, flops: float, data: Path) -> Spent:
    """Compress a network, and count."""
    model, batches = load(net, images, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fxprune.alone():  # importing torch.export takes a second, once per process
            small = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
            fxprune.compress(small, torch.randn(100, 8), flops=0.9, effort=1, progress=False)
        with counted() as found:
            before, start = sum(resident()), time.process_time()
            made = fxprune.compress(model, batches, flops=flops, progress=False, seed=0)
            found.whole = time.process_time() - start
    found.memory = max(fxprune.report(made).peak_memory - before, 0)
    mark = sha256(fxprune.plan_of(made).to_json().encode())
    for _, tensor in sorted(made.state_dict().items()):
        mark.update(tensor.contiguous().numpy().tobytes())
    found.digest = mark.hexdigest()
    return found


@contextmanager
def counted() -> Iterator[Spent]:
    """Processor seconds by station and by part, layers that are fitted, and what is sent."""
    found, groups, inner = Spent(), list[Group](), list[float]()
    station, meet = Journal.station, together._meet

    @contextmanager
    def timed(self: Journal, name: str, total: int | None = None) -> Iterator[Advance]:
        start = time.process_time()
        with station(self, name, total) as advance:
            yield advance
        found.seconds[name] = found.seconds.get(name, 0.0) + time.process_time() - start

    def kept() -> Group:
        groups.append(meet())
        return groups[-1]

    def part(name: str, call: Callable[..., object]) -> Callable[..., object]:
        """A call whose seconds are counted, without those of counted calls in it."""

        def timed_part(*args: Any, **kwargs: Any) -> object:
            found.layers += name == "exchanges" and args[-1] == "fits"
            inner.append(0.0)
            start = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                taken = time.process_time() - start
                found.parts[name] += taken - inner.pop()
                if inner:
                    inner[-1] += taken

        return timed_part

    with ExitStack() as stack:
        patched = partial(_patched, stack)
        patched(Journal, "station", timed)
        patched(together, "_meet", kept)
        patched(layer, "_solve", part("solves", layer._solve))
        for name in ("gather", "first", "first_tensors", "hand_in", "total"):
            patched(Group, name, part("exchanges", getattr(Group, name)))
        yield found
    for group in groups:
        found.sent |= group.sent


def _patched(stack: ExitStack, place: object, name: str, call: object) -> None:
    """Put something in the place of a function, for a while."""
    stack.callback(setattr, place, name, getattr(place, name))
    setattr(place, name, call)


def _start(rank: int, ranks: int, folder: str, call: tuple[str, int, float, Path]) -> None:
    torch.set_num_threads(1)
    where = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=ranks)
    found = spend(*call)
    (Path(folder) / str(rank)).write_bytes(pickle.dumps(found))
    distributed.destroy_process_group()


def on_ranks(ranks: int, call: tuple[str, int, float, Path]) -> list[Spent]:
    """What every rank spends."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_start, (ranks, folder, call), nprocs=ranks)
        return [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(ranks)]


def row(net: str, found: Sequence[Spent], one: Spent) -> str:
    """A line of the table.

    Raises:
        SystemExit: a rank has other bytes than one process.
    """
    if any(spent.digest != one.digest for spent in found):
        raise SystemExit(f"{net}: {len(found)} ranks do not make the bytes that one makes")
    whole, shared, parallel, solves, exchanges = (
        max(own)
        for own in zip(
            *((s.whole, s.shared, s.parallel, *s.parts.values()) for s in found), strict=True
        )
    )
    sent = max(sum(spent.sent.values()) for spent in found)
    products = max(spent.sent.get("products", 0) + spent.sent.get("fits", 0) for spent in found)
    a_layer = products / max(found[0].layers, 1) / 1e3
    memory = max(spent.memory for spent in found)
    return (
        f"| {net} | {len(found)} | {whole:.1f} | {shared:.1f} | {one.shared / shared:.2f} | "
        f"{parallel:.1f} | {one.parallel / parallel:.2f} | {solves:.1f} | {exchanges:.1f} | "
        f"{memory / 1e6:.0f} | {sent / 1e6:.1f} | {a_layer:.0f} |"
    )


def put_in(page: Path, table: str) -> None:
    """Replace a page's table."""
    text = re.sub(
        f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table}\n{END}", page.read_text(), flags=re.DOTALL
    )
    page.write_text(text)


def main(
    net: Annotated[
        list[str] | None,
        typer.Option(help="networks; encoder, voxels; vgg and resnet20 by default"),
    ] = None,
    ranks: Annotated[list[int] | None, typer.Option(help="how many; 2, 3 and 4 by default")] = None,
    images: Annotated[int, typer.Option(help="for calibration")] = 1000,
    flops: Annotated[float, typer.Option(help="budget")] = 0.5,
    data: Path = DEBIAN,
    page: Annotated[Path | None, typer.Option(help="whose table is replaced")] = None,
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    lines = [HEAD]
    print(HEAD)
    for name in net or ["vgg", "resnet20"]:
        call = (name, images, flops, data)
        (one,) = on_ranks(1, call)
        for count in (1, *(ranks or (2, 3, 4))):
            lines.append(row(name, [one] if count == 1 else on_ranks(count, call), one))
            print(lines[-1], flush=True)
    if page is not None:
        put_in(page, "\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
