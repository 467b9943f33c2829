"""The demo: a trained VGG on Fashion-MNIST, compressed to half its FLOPs, with the reference
method beside it.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fxprune.api import compress
from fxprune.capture.batch import to_batch
from fxprune.demo.data import FOLDER, load
from fxprune.demo.net import VGG
from fxprune.handover.report import report
from fxprune.linalg.clopper_pearson import lower_bound
from fxprune.options import RoundTo
from fxprune.timing.clock import time_in_turns
from fxprune.timing.workload import Workload, prepare_call, use_settings

METHODS: dict[str, RoundTo] = {"auto": "auto", "paper": 1}
"""Methods with what widths are multiples of: what the processor's kernels use well; the reference
knows none.
"""
LATENCY_BATCH = 100
ROUNDS = 9


@dataclass(frozen=True)
class Measured:
    """One model of the demo on the evaluation images.

    Attributes:
        name: `original` or the method that compressed it.
        accuracy: share of evaluation images whose largest logit is the label's.
        agreement: share decided like the original; `bound` its one-sided 95 % Clopper-Pearson
            lower bound.
        flops, params: per example, and of all weights.
        bytes: of the weights as a safetensors file, float32.
        latency: median seconds for a batch of `LATENCY_BATCH` images.
        seconds: that compressing took.
    """

    name: str
    accuracy: float
    agreement: float
    bound: float
    flops: float
    params: int
    bytes: int
    latency: float
    seconds: float


@dataclass(frozen=True)
class Demo:
    """What the demo found."""

    images: int
    calibration: int
    threads: int
    models: tuple[Measured, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)

    def __rich__(self) -> Table:
        """One column per model."""
        table = Table(
            title=f"VGG on Fashion-MNIST at half the FLOPs: {self.calibration:,} unlabeled "
            "calibration images, no fine-tuning, "
            f"{self.images:,} test images",
            title_justify="left",
            caption=f"Latency: median of {ROUNDS} interleaved rounds, batch of {LATENCY_BATCH}, "
            f"{self.threads} thread(s). "
            "Bounds: one-sided 95 % Clopper-Pearson. fxprune's widths suit the processor "
            "(round_to='auto'), the reference's are free.",
            caption_justify="left",
        )
        table.add_column("")
        names = {"original": "original", "auto": "fxprune", "paper": "paper (Chee et al. 2022)"}
        for model in self.models:
            table.add_column(names[model.name], justify="right")
        first = self.models[0]
        table.add_row("accuracy", *(f"{m.accuracy:.2%}" for m in self.models))
        table.add_row(
            "same decision as the original",
            *("" if m is first else f"{m.agreement:.2%}" for m in self.models),
        )
        table.add_row(
            "  at least, with 95 % confidence",
            *("" if m is first else f"{m.bound:.2%}" for m in self.models),
        )
        table.add_row(
            "MFLOPs per image",
            *(f"{m.flops / 1e6:.1f} ({m.flops / first.flops:.0%})" for m in self.models),
        )
        table.add_row(
            "parameters", *(f"{m.params:,} ({m.params / first.params:.0%})" for m in self.models)
        )
        table.add_row("weights, kB", *(f"{m.bytes / 1e3:,.0f}" for m in self.models))
        table.add_row(
            "latency, ms",
            *(f"{m.latency * 1e3:.1f} ({m.latency / first.latency:.0%})" for m in self.models),
        )
        table.add_row(
            "compressing took, s", *("" if m is first else f"{m.seconds:.1f}" for m in self.models)
        )
        return table


def vgg() -> nn.Module:
    """The demo network with its trained weights, in eval mode."""
    net = VGG()
    net.load_state_dict(load_file(FOLDER / "vgg.safetensors"))
    return net.eval()


@torch.no_grad()
def decisions(net: nn.Module, images: Tensor) -> Tensor:
    """Largest logit per image, (N,)."""
    return torch.cat([net(x).argmax(1) for x in images.split(250)])


def run(flops: float = 0.5, seed: int = 0, progress: bool = True) -> Demo:
    """Compress the demo network by both methods and measure all three models.

    Args:
        flops: fraction of the FLOPs to keep.
        seed: of the split of the calibration images.
        progress: show bars on a terminal.
    """
    images, original = load(), vgg()
    nets, seconds = [original], [0.0]
    for method, multiple in METHODS.items():
        start = time.perf_counter()
        nets.append(
            compress(
                original,
                images.calibration,
                flops=flops,
                method=method,
                round_to=multiple,
                seed=seed,
                progress=progress,
            )
        )
        seconds.append(time.perf_counter() - start)
    reports = [report(net) for net in nets[1:]]
    flop_counts = [reports[0].flops[0], *(r.flops[1] for r in reports)]
    reference = decisions(original, images.images)
    workload = Workload(LATENCY_BATCH)
    with use_settings(workload):
        example = to_batch(original, images.images[:LATENCY_BATCH])
        times = np.median(
            time_in_turns([prepare_call(net, example, workload) for net in nets], ROUNDS, 0.1),
            axis=0,
        ).tolist()
    measured = []
    for name, net, count, latency, took in zip(
        ("original", *METHODS), nets, flop_counts, times, seconds, strict=True
    ):
        chosen = decisions(net, images.images)
        agreeing = int((chosen == reference).sum())
        measured.append(
            Measured(
                name,
                float((chosen == images.labels).float().mean()),
                agreeing / len(chosen),
                lower_bound(agreeing, len(chosen)),
                count,
                sum(p.numel() for p in net.parameters()),
                len(save({k: v.contiguous() for k, v in net.state_dict().items()})),
                latency,
                took,
            )
        )
    return Demo(
        len(images.images), len(images.calibration), torch.get_num_threads(), tuple(measured)
    )
