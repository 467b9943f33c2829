"""The coverage rows as lines and as a page of markdown."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

JSON = dict[str, Any]

HEAD = """\
# Coverage

What the compiler pass does with the models people bring. Every row is one model with random
weights: captured by `torch.export` with a free batch size, its channel groups found, 30 % of the
FLOPs asked away with channels chosen at random, the small graph compared with the original in
which the removed channels' weights are zero. Nothing here says how well a compressed model
decides; see the README for that.

A model *passes* when the two agree at batch sizes 1, 2 and 3 (to 1e-4 of the largest output in
single precision, or to 1e-8 in double where random weights blow rounding up), and at least 10 %
of the FLOPs are really gone, counted by `torch.utils.flop_counter` in the compressed graph, or
the reason is printed why the architecture cannot give them.

    python -m benchmarks.coverage --torchvision --timm 250 --transformers --atom3d --yolo \\
        --detection --json coverage.json
    python -m benchmarks.coverage --torchvision --timm 250 --yolo --most 700 --limit 700 \\
        --json coverage.json
    python -m benchmarks.torch_pruning --torchvision --timm 250 --transformers --atom3d \\
        --yolo --detection --limit 12 --json torch_pruning.json
    python -m benchmarks.coverage --json coverage.json --peer torch_pruning.json \\
        --markdown docs/coverage.md

2-core CPU, torch 2.13.0, 2026-11-22, one thread; seconds are processor time.
"""

COLUMNS = """\
- *groups*: channel groups; *prunable*: share of the parameters with an axis from which channels
  can go; *pinned*: the largest shares of the others with their reason.
- *capture*, *labels*: seconds for tracing and for label propagation. *FLOPs*: what is left of
  them, counted.
- *equal*: largest difference to the masked original over the largest output, in single precision;
  `64:` in double.
- *compiled*: `torch.compile(fullgraph=True)` takes the result and returns the same. *shapes*:
  outputs at batch sizes 1 and 3.
"""

PEER = """\
- *Torch-Pruning*: FLOPs left by Torch-Pruning 1.6.1 from PyPI, its `MagnitudePruner` with default
  options and the last layer ignored as its examples do, pruning ratios 0.16, 0.3 and 0.5 tried
  until 25 % of the FLOPs are gone; 12 processor seconds per model, 20 to 150 for the rows taken
  first. It passes where the pruned model runs and 10 % of the FLOPs are gone; whether the numbers
  are right is not asked.
"""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _error(row: JSON) -> str:
    if row["error"] is None:
        return "-"
    return f"{row['error']:.0e}" + (
        f", 64: {row['error64']:.0e}" if row["error64"] is not None else ""
    )


def line(row: JSON) -> str:
    """One row for a log."""
    return (
        f"{row['source']}/{row['name']}: {row['verdict']} {row['failure']} error {_error(row)} "
        f"flops {row['flops']:.2f}/{row['counted']:.2f} "
        f"effect {row['effect']:.2g} groups {row['groups']} prunable {row['prunable']:.2f} "
        f"capture {row['capture_s']:.1f}s "
        f"analysis {row['analysis_s']:.1f}s compiled {row['compiled'][:80]}"
    )


def totals(rows: list[JSON]) -> str:
    """Passes by source, as a table of markdown."""
    lines = [
        "| source | models | pass | of them 10 % of the FLOPs gone | one graph under "
        "torch.compile |",
        "|---|---|---|---|---|",
    ]
    for source in dict.fromkeys(r["source"] for r in rows):
        own = [r for r in rows if r["source"] == source]
        passed = [r for r in own if r["verdict"] != "FAIL"]
        real = sum(r["verdict"] == "pass" for r in own)
        whole = sum(r["compiled"] == "yes" for r in own)
        lines.append(f"| {source} | {len(own)} | {len(passed)} | {real} | {whole} |")
    return "\n".join(lines)


def _peer_totals(rows: list[JSON], peer: dict[str, JSON]) -> str:
    both = [(r, peer[key]) for r in rows if (key := f"{r['source']}/{r['name']}") in peer]
    table = Counter((r["verdict"] != "FAIL", p["passed"]) for r, p in both)
    real = sum(r["verdict"] == "pass" for r, _ in both)
    return (
        f"On the {len(both)} models that both were run on, fxprune passes "
        f"{table[True, True] + table[True, False]} ({real} of them with 10 % of "
        f"the FLOPs gone), Torch-Pruning {table[True, True] + table[False, True]}; Torch-Pruning "
        f"alone passes {table[False, True]}. "
        f"Torch-Pruning's time was up on {sum(late(p) for _, p in both)}."
    )


def late(peer: JSON) -> bool:
    """Whether Torch-Pruning failed because its time was up."""
    return not peer["passed"] and "took longer than" in peer["failure"]


def _times(rows: list[JSON]) -> str:
    captured = [r for r in rows if r["analysis_s"]]
    if not captured:
        return ""
    longest = max(captured, key=lambda r: r["analysis_s"])
    worst = max(captured, key=lambda r: r["analysis_s"] / r["capture_s"])
    return (
        f"Labels and groups take at most {longest['analysis_s']:.1f} s ({longest['name']}), and "
        "at most "
        f"{worst['analysis_s'] / worst['capture_s']:.2f} of the time that tracing takes "
        f"({worst['name']})."
    )


def _cells(row: JSON, peer: JSON | None) -> Iterable[str]:
    pinned = [f"{_percent(s)} {reason}" for reason, s in row["pinned"].items() if s >= 0.005][:3]
    shapes = ", ".join(str(row["shapes"][k][0]) for k in ("1", "3") if row["shapes"].get(k))
    yield row["name"]
    yield f"{row['parameters'] / 1e6:.1f}"
    yield str(row["groups"])
    yield _percent(row["prunable"])
    yield "; ".join(pinned)
    yield f"{row['capture_s']:.1f}"
    yield f"{row['analysis_s']:.1f}"
    yield f"{row['counted']:.2f}"
    yield _error(row)
    yield row["compiled"][:60] or "-"
    yield shapes or "-"
    yield row["verdict"] if row["verdict"] != "FAIL" else f"**FAIL** {row['failure'][:160]}"
    yield from () if peer is None else (_beside(peer),)


def _beside(peer: JSON) -> str:
    if not peer:
        return "not run"
    return (
        f"{peer['counted']:.2f}"
        if peer["passed"]
        else f"fails: {peer['failure'][:60] or 'FLOPs ' + format(peer['counted'], '.2f')}"
    )


def _escaped(cells: Iterable[str]) -> str:
    return "| " + " | ".join(c.replace("|", "/").replace("\n", " ") for c in cells) + " |"


def _section(source: str, rows: list[JSON], peer: dict[str, JSON]) -> str:
    columns = [
        "model",
        "M params",
        "groups",
        "prunable",
        "pinned",
        "capture s",
        "labels s",
        "FLOPs",
        "equal",
        "compiled",
        "shapes",
        "verdict",
    ]
    columns += ["Torch-Pruning"] if peer else []
    lines = [f"## {source}", "", _escaped(columns), "|" + "---|" * len(columns)]
    for row in rows:
        lines.append(
            _escaped(_cells(row, peer.get(f"{source}/{row['name']}", {}) if peer else None))
        )
    return "\n".join(lines)


def page(rows: list[JSON], peer: dict[str, JSON], note: str = "") -> str:
    """The whole page.

    Args:
        rows: of `benchmarks.coverage`.
        note: a paragraph under the head, about this run.
        peer: of `benchmarks.torch_pruning`, by `source/name`; empty leaves its column out.
    """
    parts = [HEAD, *([note, ""] if note else []), totals(rows), "", _times(rows), ""]
    if peer:
        parts += [_peer_totals(rows, peer), ""]
    failed = [r for r in rows if r["verdict"] == "FAIL"]
    short = [r for r in rows if r["verdict"].startswith("pass (")]
    parts += ["## What is missed, and why", ""]
    parts += [f"- {r['source']}/{r['name']}: {_cause(r)}" for r in failed] or ["Nothing."]
    parts += ["", "Equal, but with less than 10 % of the FLOPs gone:", ""]
    parts += [
        f"- {r['source']}/{r['name']}, {_percent(r['counted'])} left: {r['verdict'][6:-1]}"
        for r in short
    ] or ["None."]
    parts += ["", "## Columns", "", COLUMNS + (PEER if peer else "")]
    for source in dict.fromkeys(r["source"] for r in rows):
        parts += [_section(source, [r for r in rows if r["source"] == source], peer), ""]
    return "\n".join(parts).rstrip() + "\n"


def _cause(row: JSON) -> str:
    if row["failure"]:
        return str(row["failure"])[:300].replace("|", "/")
    if not (row["error"] or 0) <= 1e-4:
        return f"differs from the masked original by {row['error']:.1e} of the largest output"
    return (
        f"{_percent(row['counted'])} of the FLOPs are left where {_percent(row['flops'])} were "
        "predicted"
    )
