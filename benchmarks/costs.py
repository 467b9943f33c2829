"""What compressing costs and gives on the trained networks, as a page and a plot: `python -m
benchmarks.costs`.

Runs benchmarks/bench_costs.py under pytest-benchmark and writes docs/costs.md and docs/costs.svg.
Needs pytest-benchmark and matplotlib.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.bench_costs import BATCH, CALIBRATION, WHICH
from fxprune.drawing.picture import new_picture
from fxprune.drawing.style import AFTER, BEFORE, COLORS, INK, styled
from fxprune.timing.clock import machine_name

FOLDER = Path(__file__).resolve().parent.parent / "docs"
HERE = Path(__file__).resolve().parent
BESIDE: dict[str, Any] = {
    **{"xytext": (3, 0), "textcoords": "offset points", "va": "center"},
    **{"fontsize": 7, "color": INK},
}
"""How a value stands beside the end of its bar."""


def measured(keyword: str) -> dict[str, Any]:
    """pytest-benchmark's document."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        options = [
            "-q",
            "-p",
            "no:cacheprovider",
            "--benchmark-only",
            f"--benchmark-json={path}",
            *(["-k", keyword] if keyword else []),
        ]
        subprocess.run(
            [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "pytest",
                str(HERE / "bench_costs.py"),
                *options,
            ],
            cwd=HERE.parent,
            check=True,
        )
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def medians(found: dict[str, Any], kind: str) -> dict[str, dict[str, float]]:
    """Seconds by net and by original or small, of the benchmarks whose group begins with `kind`."""
    result: dict[str, dict[str, float]] = {}
    for entry in found["benchmarks"]:
        if entry["group"].startswith(f"{kind} "):
            info = entry["extra_info"]
            result.setdefault(info["net"], {})[info["which"]] = entry["stats"]["median"]
    return result


def stations(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds by net and station."""
    return {
        e["extra_info"]["net"]: e["extra_info"]["stations"]
        for e in found["benchmarks"]
        if e["group"] == "stations"
    }


def page(found: dict[str, Any]) -> str:
    """docs/costs.md."""
    spent, latency, compiled = stations(found), medians(found, "latency"), medians(found, "compile")
    names = list(dict.fromkeys(s for held in spent.values() for s in held))
    lines = [
        "# What compressing costs, and what it gives",
        "",
        '`python -m benchmarks.costs`: the trained networks at `flops=0.5`, `round_to="auto"`, '
        f"{CALIBRATION} calibration images; latency of a",
        f"batch of {BATCH}, eager; compile time is that of the first call under torch.compile "
        "with nothing cached. pytest-benchmark, medians;",
        f"{machine_name(torch.device('cpu'))}, {torch.get_num_threads()} thread(s), torch "
        f"{torch.__version__}, {found['datetime'][:10]}.",
        "",
        "![Seconds per station, and latency](costs.svg)",
        "",
        "| net | " + " | ".join(f"{s}, s" for s in names) + " | all, s |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for net, held in spent.items():
        lines.append(
            f"| {net} | "
            + " | ".join(f"{held.get(s, 0):.2f}" for s in names)
            + f" | {sum(held.values()):.1f} |"
        )
    lines += [
        "",
        "| net | latency, ms | small, ms | speedup | compile, s | small, s |",
        "|---|---|---|---|---|---|",
    ]
    for net, held in latency.items():
        built = compiled.get(net, {})
        lines.append(
            f"| {net} | {1e3 * held['original']:.1f} | {1e3 * held['small']:.1f} | "
            f"{held['original'] / held['small']:.2f}x | "
            + " | ".join(f"{built[w]:.1f}" if w in built else "" for w in WHICH)
            + " |"
        )
    return "\n".join(lines) + "\n"


def plot(found: dict[str, Any], path: Path) -> None:
    """Stations stacked by net; latency before and after."""
    with styled():
        figure = new_picture(10, 3.6)
        left, right = figure.subplots(1, 2)
        draw_stations(left, stations(found))
        draw_latency(right, medians(found, "latency"))
        for axes in (left, right):
            axes.invert_yaxis()
            axes.grid(axis="y", visible=False)
            axes.margins(x=0.12)
        figure.savefig(path, metadata={"Date": None})


def draw_stations(axes: Any, spent: dict[str, dict[str, float]]) -> None:
    """A bar per net, its seconds beside it; beyond the colors, stations are hatched."""
    offset = dict.fromkeys(spent, 0.0)
    for at, name in enumerate(dict.fromkeys(s for held in spent.values() for s in held)):
        values = [held.get(name, 0.0) for held in spent.values()]
        axes.barh(
            list(spent),
            values,
            left=list(offset.values()),
            label=name,
            color=COLORS[at % len(COLORS)],
            hatch="////" if at >= len(COLORS) else None,
            edgecolor="white",
            linewidth=0.4,
        )
        offset = {net: offset[net] + value for net, value in zip(offset, values, strict=True)}
    for at, seconds in enumerate(offset.values()):
        axes.annotate(f"{seconds:.1f} s", (seconds, at), **BESIDE)
    axes.set(xlabel="seconds", title="Compressing, by station")
    axes.legend(fontsize=7, ncols=2, loc="upper right")


def draw_latency(axes: Any, latency: dict[str, dict[str, float]]) -> None:
    """Two bars per net, their milliseconds beside them."""
    for index, (which, color) in enumerate(zip(WHICH, (BEFORE, AFTER), strict=True)):
        values = [1e3 * held[which] for held in latency.values()]
        places = [i + 0.4 * index for i in range(len(latency))]
        axes.barh(places, values, 0.38, label=which, color=color)
        for at, value in zip(places, values, strict=True):
            axes.annotate(f"{value:.1f}", (value, at), **BESIDE)
    axes.set_yticks([i + 0.2 for i in range(len(latency))], list(latency))
    axes.set(xlabel=f"ms per batch of {BATCH}", title="Latency, eager")
    axes.legend()


def main(
    only: Annotated[str, typer.Option(help="pytest's -k")] = "",
    folder: Annotated[Path, typer.Option(help="for costs.md and costs.svg")] = FOLDER,
) -> None:
    """Run the benchmarks and write the page and the plot."""
    found = measured(only)
    (folder / "costs.md").write_text(page(found))
    plot(found, folder / "costs.svg")


if __name__ == "__main__":
    typer.run(main)
