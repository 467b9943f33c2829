"""All faults there are, and a draw of them that is spread over areas, functions and kinds."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.mutants.areas import AREAS
from benchmarks.mutants.fault import Fault
from benchmarks.mutants.reader import faults_of


def every(root: Path) -> list[Fault]:
    """All faults of all areas, in the order of files and lines."""
    found: list[Fault] = []
    for patterns in AREAS.values():
        for path in sorted({p for pattern in patterns for p in root.glob(pattern)}):
            found += faults_of(path.relative_to(root).as_posix(), path.read_bytes())
    return found


def draw(faults: list[Fault], count: int, seed: int) -> list[Fault]:
    """So many of them: areas in turn, of each its functions in turn, of each function a fault of
    the kind that the area has had least. Where the code changes, most of what is drawn stays.
    """
    areas: dict[str, dict[str, list[Fault]]] = defaultdict(lambda: defaultdict(list))
    for fault in sorted(faults, key=lambda fault: _place(fault.name, seed)):
        areas[fault.area][f"{fault.path}:{fault.function}"].append(fault)
    turns = [_turns(functions, seed) for functions in areas.values()]
    drawn: list[Fault] = []
    while turns and len(drawn) < count:
        for turn in turns.copy():
            found = next(turn, None)
            if found is None:
                turns.remove(turn)
            elif len(drawn) < count:
                drawn.append(found)
    return drawn


def _place(name: str, seed: int) -> bytes:
    """Where a name stands in the order of a seed."""
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


def _turns(functions: dict[str, list[Fault]], seed: int) -> Iterator[Fault]:
    """One area's faults, in the order in which they are drawn."""
    names = sorted(functions, key=lambda name: _place(name, seed))
    had = Counter[str]()
    while any(functions.values()):
        for name in names:
            left = functions[name]
            if left:
                found = min(left, key=lambda fault: had[fault.kind])
                left.remove(found)
                had[found.kind] += 1
                yield found
