"""Which tests run which lines: from one run of the tests under coverage's contexts, by `record`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mutants.fault import Fault

WITHOUT = (
    "test_benchmarks",
    "test_installation",
    "test_documents",
    "test_package",
    "test_mutations",
)
"""Tests of how the code is written and packed, not of what it does."""
IGNORED = [f"--ignore=tests/{name}.py" for name in WITHOUT]


@dataclass(frozen=True)
class Reach:
    """What one run of the tests without a fault has seen.

    Attributes:
        seconds: that each test took, by its name.
        lines: by file and line the tests that run it; none where it runs at import only.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, list[str]]]

    @classmethod
    def read(cls, path: Path) -> "Reach":
        """What `record` wrote."""
        held = json.loads(path.read_text())
        names = list(held["seconds"])
        lines = {
            file: {int(line): [names[at] for at in tests] for line, tests in of.items()}
            for file, of in held["lines"].items()
        }
        return cls(held["seconds"], lines)

    def nearest(self, fault: Fault, unknown: Iterable[str] = ()) -> list[str]:
        """Tests that may notice a fault: of its own file, its own room, the whole, other rooms;
        last those that share a file with them, since what is made once for several tests counts for
        the first only. Of each the fast ones come first.

        Args:
            fault: one of today's code, on which the recording was made.
            unknown: tests that came after the recording; they may reach anything.
        """
        lines = self.lines.get(fault.path, {})
        span = range(fault.lines[0], fault.lines[1] + 1)
        reaching = {test for line in span for test in lines.get(line, [])} | set(unknown)
        files = {test.split("::")[0] for test in reaching}
        beside = {test for test in self.seconds if test.split("::")[0] in files} - reaching
        place = Path(fault.path)

        def distance(test: str) -> tuple[int, float]:
            file = Path(test.split("::")[0])
            room = file.parent.name
            near = 1 if room == place.parent.name else 2 if room == "tests" else 3
            near -= near == 1 and file.stem == f"test_{place.stem}"
            return (4 if test in beside else near), self.seconds.get(test, 0.0)

        return sorted(reaching | beside, key=distance)


def record(root: Path, out: Path) -> None:
    """Run all tests but the slow ones once, and write what they reach (coverage must be there).

    Args:
        root: of the tree.
        out: JSON file.
    """
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-m", "not slow", *IGNORED),
            *("-p", "no:cacheprovider", "-p", "benchmarks.mutants.recorder"),
        ],
        cwd=root,
        env={**os.environ, "REACH": str(out), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        check=True,
    )
