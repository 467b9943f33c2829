"""What a user meets first: `python -m benchmarks.first_sight`.

The time of `import fxprune` beside that of `import torch`, in fresh processes that take turns; the
size of the wheel; and how many lines the report of a ResNet-50, a BERT-base and a YOLO has, printed
at 80 columns, beside one line for everything that it is about. A model whose library is missing is
left out and named.
"""

import importlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import nn

import fxprune
from fxprune.timing.clock import machine_name

ROOT = Path(__file__).resolve().parent.parent
BUDGET = 0.7
"""Share of the FLOPs; magnitude decides, since nothing here depends on what is kept."""


def resnet50() -> tuple[nn.Module, Any]:
    """Of timm, untrained, and two batches of images."""
    import timm

    return timm.create_model("resnet50"), [torch.randn(2, 3, 64, 64) for _ in range(2)]


def bert_base() -> tuple[nn.Module, Any]:
    """Of transformers, untrained, and two batches of tokens."""
    import transformers

    net: nn.Module = transformers.BertForSequenceClassification(transformers.BertConfig())
    return net, [{"input_ids": torch.randint(1, 30_000, (2, 16))} for _ in range(2)]


def yolo11n() -> tuple[nn.Module, Any]:
    """Of ultralytics, untrained, in its form for export, and two batches of images."""
    from ultralytics.nn.tasks import DetectionModel

    net: Any = DetectionModel("yolo11n.yaml", verbose=False)
    net.model[-1].export, net.model[-1].format = True, "torchscript"
    return net, [torch.randn(2, 3, 64, 64) for _ in range(2)]


MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "ResNet-50": resnet50,
    "BERT-base": bert_base,
    "YOLO11n": yolo11n,
}


def import_seconds(module: str, environment: dict[str, str]) -> float:
    """Processor seconds of a fresh process that imports a module and does nothing else."""

    def used() -> float:
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        return own.ru_utime + own.ru_stime

    before = used()
    words = [sys.executable, "-W", "ignore", "-c", f"import {module}"]
    subprocess.run(words, check=True, env=environment, cwd=ROOT)
    return used() - before


def import_times(rounds: int) -> dict[str, float]:
    """Median processor seconds of each import, after one round that compiles both."""
    with tempfile.TemporaryDirectory() as bytecode:
        known = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment = known | {"PYTHONPYCACHEPREFIX": bytecode}
        taken: dict[str, list[float]] = {"torch": [], "fxprune": []}
        for _ in range(rounds + 1):
            for module, seconds in taken.items():
                seconds.append(import_seconds(module, environment))
    return {module: median(seconds[1:]) for module, seconds in taken.items()}


def wheel_bytes() -> int:
    """Size of the wheel that pip builds of this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        quiet = ("-q", "--no-deps", "--no-build-isolation", "-w", folder)
        subprocess.run([sys.executable, "-m", "pip", "wheel", *quiet, str(ROOT)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.stat().st_size


def report_lines(make: Callable[[], tuple[nn.Module, Any]]) -> tuple[int, int]:
    """Groups and weights that a report is about, and lines that it has."""
    torch.manual_seed(0)
    net, batches = make()
    small = fxprune.compress(
        net.eval(), batches, flops=BUDGET, method="magnitude", decision="close", progress=False
    )
    found = fxprune.report(small)
    return len(found.groups) + len(found.alone), len(str(found).splitlines())


def main(
    model: Annotated[list[str] | None, typer.Option(help="all by default; repeated")] = None,
    rounds: Annotated[int, typer.Option(help="imports of each, in turns")] = 7,
) -> None:
    """Measure and print."""
    console = Console(width=100)
    taken = import_times(rounds)
    ratio = taken["fxprune"] / taken["torch"]
    told = ", ".join(f"{module} {seconds:.2f} s" for module, seconds in taken.items())
    console.print(f"import: {told}, {ratio:.2f} times as long")
    console.print(f"wheel: {wheel_bytes() / 1e6:.2f} MB")
    for name in MODELS if model is None else model:
        try:
            # Beside a torch that torchvision does not fit, the others import it so.
            importlib.import_module("benchmarks.models.torchvision_ops")
            rows, lines = report_lines(MODELS[name])
        except ImportError as error:
            console.print(f"report of {name}: left out ({error})")
        else:
            console.print(f"report of {name}: {lines} lines about {rows} groups and weights")
    console.print(f"{machine_name(torch.device('cpu'))}, CPU, torch {torch.__version__}")


if __name__ == "__main__":
    typer.run(main)
