"""Shards of random networks, added up: one JSON line each, so that days and processes add up."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.random_graphs.judge import EQUAL, FAILURES, REFUSED, Outcome

ROOT = Path(__file__).resolve().parents[2]
JUDGED = ("graph", "rules", "capture", "label", "plans")
"""Rooms of fxprune that decide what becomes of a network, beside the passes."""
VISIBLE = 1e-6
"""A relative difference of the outputs that shows that something went."""


@dataclass
class Shard:
    """What became of some networks.

    Attributes:
        first, last, step: their seeds.
        version: of the code that was judged.
        writer: of the code that writes the networks; a seed is the same network under the same.
        day: when.
        verdicts, lanes, sizes: how many of each; sizes by tens of operators, of judged graphs.
        visible: equal ones in which what went made a difference.
        seconds: of the processor, per lane.
        reasons: why weights stayed in those with nothing prunable.
        refused: first words of refusals.
        constructs: in how many networks each was; and in how many equal ones, after a dot.
        failures: seed, lane, verdict and text of each.
    """

    first: int
    last: int
    step: int
    version: str
    writer: str = ""
    day: str = field(default_factory=lambda: date.today().isoformat())
    verdicts: Counter[str] = field(default_factory=Counter)
    lanes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    visible: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    constructs: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str, str]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """One more network."""
        self.last = outcome.seed
        self.verdicts[outcome.verdict] += 1
        self.lanes[outcome.lane] += 1
        self.seconds[outcome.lane] = self.seconds.get(outcome.lane, 0.0) + outcome.seconds
        for name in set(outcome.used):
            self.constructs[name] += 1
        if outcome.operators:
            self.sizes[str(outcome.operators // 10 * 10)] += 1
        if outcome.verdict == EQUAL:
            self.visible += outcome.effect > VISIBLE
            self.constructs.update(f"{name}." for name in set(outcome.used))
        elif outcome.verdict == REFUSED:
            self.refused[head(outcome.text)] += 1
        elif outcome.verdict in FAILURES:
            line = " ".join(outcome.text.split())[:200]
            self.failures.append((outcome.seed, outcome.lane, outcome.verdict, line))
        else:
            self.reasons.update(outcome.reasons)

    @property
    def count(self) -> int:
        """How many networks."""
        return sum(self.verdicts.values())

    def line(self) -> str:
        """As JSON."""
        numbers = vars(self) | {"seconds": {k: round(v, 1) for k, v in self.seconds.items()}}
        return json.dumps(numbers)


def head(text: str) -> str:
    """The first words of a refusal, without what is this network's own."""
    return " ".join(text.split()[:12])


def code_version() -> str:
    """A name for the code that decides: of the contents of its files."""
    folders = [*(ROOT / "fxprune" / room for room in JUDGED), ROOT / "passes"]
    files = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return _digest(files)


def writer_version() -> str:
    """A name for the code that says which network a seed is."""
    other = ("judge", "ledger", "page", "shrink", "tracing")
    return _digest([p for p in sorted(Path(__file__).parent.glob("*.py")) if p.stem not in other])


def _digest(files: Sequence[Path]) -> str:
    content = b"\0".join(path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()[:10]


def read(path: Path) -> list[Shard]:
    """Every shard of a ledger; none where there is no file."""
    if not path.exists():
        return []
    return [_shard(json.loads(line)) for line in path.read_text().splitlines() if line]


def _shard(numbers: dict[str, Any]) -> Shard:
    failures = [tuple(entry) for entry in numbers.pop("failures")]
    shard = Shard(numbers.pop("first"), numbers.pop("last"), numbers.pop("step"), "")
    for name, value in numbers.items():
        counted = isinstance(value, dict) and name != "seconds"
        setattr(shard, name, Counter(value) if counted else value)
    shard.failures = failures
    return shard


def append(path: Path, shard: Shard) -> None:
    """Write a shard to the ledger's end."""
    with path.open("a") as file:
        file.write(shard.line() + "\n")


def following(shards: Sequence[Shard], residue: int, step: int) -> int:
    """The first seed of a residue after all that are in the ledger."""
    start = max((shard.last + 1 for shard in shards), default=0)
    return start + (residue - start) % step


def together(shards: Sequence[Shard]) -> Shard:
    """All as one; the seeds do not mean anything then."""
    total = Shard(0, 0, 1, shards[-1].version if shards else "")
    for shard in shards:
        total.visible += shard.visible
        total.failures += shard.failures
        for lane, seconds in shard.seconds.items():
            total.seconds[lane] = total.seconds.get(lane, 0.0) + seconds
        for name in ("verdicts", "lanes", "sizes", "reasons", "refused", "constructs"):
            getattr(total, name).update(getattr(shard, name))
    return total
