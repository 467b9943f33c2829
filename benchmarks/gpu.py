"""What compressing costs and gives on a GPU: `python -m benchmarks.gpu --out docs/gpu.md`.

torchvision's ResNet-50 and ViT-B/16, with random weights, on synthetic images: seconds of every
station, the most memory that is held on the device, and the time of both models after. The trained
networks of this repository, on Fashion-MNIST's demo images: whether a GPU plans as a CPU does.
Needs torchvision.
"""

import datetime
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

import fxprune
from benchmarks.examination.outputs import logits
from benchmarks.models.nets import NETS, trained
from fxprune.demo import data
from fxprune.timing.clock import machine_name

MODELS = ("resnet50", "vit_b_16")
PIXELS = 224
DTYPES = (torch.float32, torch.bfloat16)
TIMED = (1, 64)
"""Examples per call that is timed."""
BUDGET = 0.5


@dataclass(frozen=True)
class Cost:
    """What a call cost, and what it gave.

    Attributes:
        net: which.
        seconds: by station.
        forward: seconds of a forward pass over all calibration images.
        memory: most bytes that the original's pass, and the call, hold on the device.
        flops: of an example, before and after.
        timings: of both models, by dtype.
    """

    net: str
    seconds: dict[str, float]
    forward: float
    memory: tuple[int, int]
    flops: tuple[float, float]
    timings: dict[str, fxprune.Benchmark]


@dataclass(frozen=True)
class Likeness:
    """What a GPU and a CPU made of the same network and images.

    Attributes:
        net: which.
        seconds: on the CPU, and on the GPU.
        widths: channels kept, summed over the groups, by each.
        groups: groups that have one width on both, and how many there are.
        channels: of the channels that either keeps in those, the share that both keep.
        agreement: with the original on the demo's test images, of each.
        error: relative squared difference of each one's logits to the original's.
    """

    net: str
    seconds: tuple[float, float]
    widths: tuple[int, int]
    groups: tuple[int, int]
    channels: float
    agreement: tuple[float, float]
    error: tuple[float, float]


def synthetic(count: int, generator: torch.Generator) -> Tensor:
    """Images (count, 3, PIXELS, PIXELS) float32 of smooth noise, about of variance one."""
    coarse = torch.randn(count, 3, 28, 28, generator=generator)
    size = (PIXELS, PIXELS)
    return 1.5 * F.interpolate(coarse, size, mode="bicubic", align_corners=False)


def measure(name: str, count: int, device: str, compiled: bool) -> Cost:
    """Compress one of torchvision's networks to half of its FLOPs, and time what comes of it."""
    from benchmarks.models.torchvision_ops import torchvision

    torch.manual_seed(0)
    net: nn.Module = getattr(torchvision.models, name)().eval().to(device)
    images = list(synthetic(count, torch.Generator().manual_seed(1)).split(64))
    every = torch.cat(images)
    logits(net, every)
    torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    logits(net, every)
    forward, plain = time.perf_counter() - start, torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    small = fxprune.compress(net, images, flops=BUDGET, decision="argmax", progress=False)
    held = torch.cuda.max_memory_allocated(device)
    report = fxprune.report(small)
    print(name, forward, plain, held, report.seconds, flush=True)
    modes = ("eager", "compiled") if compiled else ("eager",)
    timings = {
        str(dtype).removeprefix("torch."): fxprune.benchmark(
            small, net, images[0][:1], batches=TIMED, modes=modes, dtype=dtype
        )
        for dtype in DTYPES
    }
    return Cost(name, report.seconds, forward, (plain, held), report.flops, timings)


def compare(name: str, device: str) -> Likeness:
    """Compress a trained network on the CPU and on the device."""
    images, found = data.load(), []
    for place in ("cpu", device):
        net = trained(name).to(place)
        reference = logits(net, images.images)
        start = time.perf_counter()
        small = fxprune.compress(net, images.calibration, flops=BUDGET, progress=False)
        took, gives = time.perf_counter() - start, logits(small, images.images)
        error = (gives - reference).square().sum() / reference.square().sum()
        same = (gives.argmax(1) == reference.argmax(1)).float().mean()
        found.append((fxprune.plan_of(small), took, float(same), float(error)))
    (plan, *first), (other, *second) = found
    alike = [g for g, width in plan.widths.items() if other.widths.get(g) == width]
    both = [
        (set(indices), set(other.kept.get(weight, {}).get(axis, ())))
        for weight, axes in plan.kept.items()
        for axis, indices in axes.items()
        if all(isinstance(i, int) for i in indices)
    ]
    shared = sum(len(a & b) for a, b in both if len(a) == len(b))
    either = sum(len(a | b) for a, b in both if len(a) == len(b))
    return Likeness(
        name,
        (first[0], second[0]),
        (sum(plan.widths.values()), sum(other.widths.values())),
        (len(alike), len(plan.widths.keys() | other.widths.keys())),
        shared / either if either else 1.0,
        (first[1], second[1]),
        (first[2], second[2]),
    )


def cost_lines(costs: list[Cost], count: int) -> list[str]:
    """The stations and the memory, and the times of both models."""
    stations = list(dict.fromkeys(station for cost in costs for station in cost.seconds))
    lines = [
        f"## What it costs, on {count} images of {PIXELS}x{PIXELS}",
        "",
        "Seconds by station; a pass is one of the original over all calibration images; memory is "
        "the most that is allocated on the device.",
        "",
        f"| net | {' | '.join(stations)} | all | one pass | memory, a pass | memory, the call |",
        f"|{'---|' * (len(stations) + 5)}",
    ]
    for cost in costs:
        cells = [f"{cost.seconds.get(station, 0.0):.1f}" for station in stations]
        cells += [f"{sum(cost.seconds.values()):.1f}", f"{cost.forward:.2f}"]
        cells += [f"{size / 1e9:.2f} GB" for size in cost.memory]
        lines.append(f"| {cost.net} | {' | '.join(cells)} |")
    lines += [
        "",
        "## What it gives",
        "",
        "Milliseconds per call, medians of interleaved rounds; the speedup's quartiles beside it.",
        "",
        "| net | FLOPs | dtype | mode | batch | original | small | speedup |",
        f"|{'---|' * 8}",
    ]
    for cost in costs:
        kept = f"{cost.flops[1] / cost.flops[0]:.3f}"
        for dtype, timing in cost.timings.items():
            for row in timing.rows:
                times = f"{1e3 * row.original:.2f} | {1e3 * row.small:.2f}"
                speedup = f"{row.speedup:.2f} ({row.low:.2f} to {row.high:.2f})"
                cells = [cost.net, kept, dtype, row.mode, str(row.batch), times, speedup]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def likeness_lines(found: list[Likeness]) -> list[str]:
    """A line per trained network: CPU / GPU."""
    lines = [
        "## CPU and GPU plan alike",
        "",
        f"The trained networks at {BUDGET:g} of the FLOPs, from the demo's images; what "
        "the CPU gives / what the GPU gives.",
        "",
        "| net | seconds | channels kept | groups of one width | indices shared | agreement, % | "
        "output error |",
        f"|{'---|' * 7}",
    ]
    for row in found:
        agreement, error = (
            " / ".join(f"{scale * v:.{digits}f}" for v in values)
            for values, scale, digits in ((row.agreement, 100, 2), (row.error, 1, 5))
        )
        lines.append(
            f"| {row.net} | {row.seconds[0]:.1f} / {row.seconds[1]:.1f} | {row.widths[0]} / "
            f"{row.widths[1]} | {row.groups[0]} of {row.groups[1]} | {row.channels:.1%} | "
            f"{agreement} | {error} |"
        )
    return lines


def page(costs: list[Cost], found: list[Likeness], count: int, device: str) -> str:
    """All of it, with the machine and the date."""
    where = f"{machine_name(torch.device(device))}, torch {torch.__version__}, "
    where += f"Python {platform.python_version()}, {datetime.date.today().isoformat()}"
    return "\n".join(
        [
            "# On a GPU",
            "",
            f"Written by `python -m benchmarks.gpu` ({where}). Batches may stay on the CPU: they "
            "are moved to where the model is. Sums,",
            "fits and checks are computed in full single precision, whatever "
            "`torch.backends.cudnn.allow_tf32` says; what is timed, as the caller computes.",
            "",
            *(cost_lines(costs, count) if costs else []),
            "",
            *(likeness_lines(found) if found else []),
            "",
        ]
    )


def main(
    model: Annotated[list[str] | None, typer.Option(help="torchvision's; two by default")] = None,
    net: Annotated[list[str] | None, typer.Option(help="trained; all by default")] = None,
    count: Annotated[int, typer.Option(help="synthetic images")] = 256,
    compiled: Annotated[bool, typer.Option(help="time torch.compile, too")] = True,
    device: str = "cuda",
    out: Annotated[Path | None, typer.Option(help="the page")] = None,
) -> None:
    """Measure, and write the page, anew after every network."""
    costs, found, text = list[Cost](), list[Likeness](), ""

    def write() -> str:
        made = page(costs, found, count, device)
        if out is not None:
            out.write_text(made)
        return made

    for name in model if model is not None else MODELS:
        costs.append(measure(name, count, device, compiled))
        text = write()
    for name in net if net is not None else list(NETS):
        found.append(compare(name, device))
        text = write()
    print(text)


if __name__ == "__main__":
    typer.run(main)
