"""The page about the random networks that were judged."""

from collections import Counter
from collections.abc import Sequence

from benchmarks.random_graphs.constructs import CONSTRUCTS
from benchmarks.random_graphs.judge import EQUAL, FAILURES, INVALID, NOTHING, REFUSED
from benchmarks.random_graphs.ledger import JUDGED, Shard, together
from fxprune.linalg.clopper_pearson import lower_bound

INTRODUCTION = """# Random networks

`python -m benchmarks.graphs` writes random networks, removes random channels of each, and compares
the result with the original in which the same channels are zeros. Figures: 2-core AMD EPYC, CPU,
torch 2.13.0, {days}.

    # Goes on where the ledger docs/graphs.jsonl ends, adds to it, and writes this page anew.
    python -m benchmarks.graphs --minutes 60 --shard 0/2 --out docs/graphs.md
    python -m benchmarks.graphs --only 1234     # one seed: its source, and what became of it
    python -m benchmarks.graphs --shrink 1234   # the smallest network that fails alike, to run
    python -m benchmarks.graphs --replay        # every seed that failed, on today's code

**A network** is one `nn.Module` of its own, from one seed: one to three inputs (maps of one to
three spatial dimensions, tokens, vectors, whole numbers for an embedding), chained from
{constructs} constructs (each in many forms) until it has 3 to 60 operators as they are written,
with branches, shared weights and several outputs. How many calls the graphs have stands below: last
constructs, last layers and torch's own modules go beyond. It is written as Python source, so that
one that fails can be read.

**Judged**: of every group a random number of channels goes, in each block others. The reduced graph
and the masked original must agree in float64 to {exact:.0e} of the largest output (or to 1,000
times what a change of the inputs in their last bit does, at most 1e-4), on another number of
examples than was traced. Weights of other types (a fifth: float32, bfloat16) are compared in
float64 too.

**Lanes**. `traced`: the graph comes from a tracer that is cheaper than torch.export (two runs on
numbers, `benchmarks/random_graphs/tracing.py`), and the pass runs without its own check of the
labels, which would refuse some of what is wrong here. `exported`: torch.export and the whole of
`fxprune.capture`, the pass with its check, layers lifted; one in {exported}, and those that the
tracer does not take; the groups must be those of the tracer. `compressed`: `fxprune.compress` with
32 examples (decided, folded, refitted) against `fxprune.masked`; one in {compressed}.
"""


def bound(failures: int, count: int) -> float:
    """The largest failure rate that is in keeping with this at 95 % confidence (Clopper-Pearson;
    3 / count without failures).
    """
    return 1 - lower_bound(count - failures, count) if count else 1.0


def page(
    shards: Sequence[Shard], version: str, exact: float, exported: int, compressed: int
) -> str:
    """The whole page, in Markdown."""
    days = sorted({shard.day for shard in shards})
    introduction = INTRODUCTION.format(
        days=" to ".join(dict.fromkeys((days[0], days[-1]))) if days else "never",
        constructs=len(CONSTRUCTS),
        exact=exact,
        exported=exported,
        compressed=compressed,
    )
    now = together([shard for shard in shards if shard.version == version])
    every = together(shards)
    parts = [
        introduction,
        _counts({"today's code": now, "every version": every}),
        f"The first column is of code `{version}` ({', '.join(JUDGED)} and the passes, by content; "
        "`compressed` runs through more). The others ran while failures were being mended.",
        _table("lane", every.lanes, "networks", "seconds each", _each(every)),
        _table("operators", _tens(every.sizes), "networks"),
        _table(
            "why nothing was prunable", Counter(dict(every.reasons.most_common(12))), "networks"
        ),
        _refusals(every),
        _constructs(every),
        _failures(shards),
    ]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def _counts(columns: dict[str, Shard]) -> str:
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]

    def row(name: str, values: Sequence[object]) -> None:
        lines.append(f"| {name} | " + " | ".join(map(str, values)) + " |")

    shards = list(columns.values())
    row("networks", [f"{s.count:,}" for s in shards])
    for verdict in (EQUAL, NOTHING, REFUSED, INVALID, *FAILURES):
        row(verdict, [f"{s.verdicts[verdict]:,}" for s in shards])
    row("equal, and the outputs are not the original's", [f"{s.visible:,}" for s in shards])
    judged = [s.verdicts[EQUAL] + sum(s.verdicts[f] for f in FAILURES) for s in shards]
    failed = [sum(s.verdicts[f] for f in FAILURES) for s in shards]
    rates = [f"{bound(f, n):.1e}" for f, n in zip(failed, judged, strict=True)]
    row("**failure rate of reduced networks, at most (95 %)**", [f"**{r}**" for r in rates])
    return "\n".join(lines)


def _each(shard: Shard) -> dict[str, str]:
    return {k: f"{shard.seconds.get(k, 0.0) / n:.3f}" for k, n in shard.lanes.items()}


def _tens(sizes: Counter[str]) -> Counter[str]:
    return Counter({f"{k} to {int(k) + 9}": sizes[k] for k in sorted(sizes, key=int)})


def _table(
    name: str,
    counts: Counter[str],
    unit: str,
    extra: str = "",
    values: dict[str, str] | None = None,
) -> str:
    if not counts:
        return ""
    lines = [f"| {name} | {unit} |" + (f" {extra} |" if extra else "")]
    lines.append("| --- | ---: |" + (" ---: |" if extra else ""))
    for key, count in counts.items():
        tail = f" {(values or {}).get(key, '')} |" if extra else ""
        lines.append(f"| {key} | {count:,} |{tail}")
    return "\n".join(lines)


def _refusals(every: Shard) -> str:
    return _table("refused, in words", Counter(dict(every.refused.most_common(12))), "networks")


def _constructs(every: Shard) -> str:
    names = sorted(CONSTRUCTS, key=lambda name: -every.constructs[name])
    cells = [
        f"{name} {every.constructs[name]:,} ({every.constructs[f'{name}.']:,})" for name in names
    ]
    return (
        "Constructs, in how many networks, and in how many of those that were reduced and equal: "
        + ", ".join(cells)
        + "."
    )


def _failures(shards: Sequence[Shard]) -> str:
    found = [(shard.version, *failure) for shard in shards for failure in shard.failures]
    if not found:
        return ""
    lines = [
        "Failures, each with the code it was found in. `--replay` runs those on today's "
        "whose networks are still written alike.",
        "",
    ]
    lines += ["| code | seed | lane | | |", "| --- | ---: | --- | --- | --- |"]
    for version, seed, lane, verdict, text in found[-60:]:
        lines.append(f"| {version} | {seed} | {lane} | {verdict} | {text.replace('|', '/')[:90]} |")
    return "\n".join(lines)
