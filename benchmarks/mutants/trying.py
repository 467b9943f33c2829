"""Faults planted in the running code, and the tests that run the changed lines, nearest first.

One process imports the library and collects the tests, once. Per fault it forks; the fork gives the
function that holds the fault its new code and runs tests until one fails. No file is ever changed,
and what a test starts anew as a process of its own runs the code without the fault.
"""

import gc
import os
import signal
import tempfile
import time
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from benchmarks.examination.isolation import Failed, isolated
from benchmarks.mutants.fault import Fault
from benchmarks.mutants.reach import IGNORED, Reach

GRACE, SHARE = 10, 10
"""Processor seconds that a test may take, beside so many times what it took without a fault."""

LATE = int(signal.SIGPROF)


@dataclass(frozen=True)
class Row:
    """What came of one fault.

    Attributes:
        name, area, kind: of the fault.
        verdict: "killed", "timeout" or "survived".
        by: the test that failed first.
        how: the exception it failed with, or what ended the process.
        tests: how many were run, the last one included.
        seconds: by the clock.
    """

    name: str
    area: str
    kind: str
    verdict: str
    by: str
    how: str
    tests: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For a line of a file."""
        return asdict(self)


def code_of(fault: Fault, source: bytes, path: Path) -> types.CodeType:
    """The code, with the fault in it, of the outermost function that holds it."""
    pending: list[types.CodeType] = [compile(fault.planted(source), str(path), "exec")]
    while pending:
        code = pending.pop()
        if (code.co_qualname, code.co_firstlineno) == fault.holder:
            return code
        pending += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    raise LookupError(f"no function {fault.holder} in {path}")


class Planter:
    """Finds the functions of the library in this process.

    Args:
        root: of the tree.
    """

    def __init__(self, root: Path):
        self.root = root
        self.functions: dict[tuple[str, str, int], list[types.FunctionType]] = {}
        for found in gc.get_objects():
            if type(found) is types.FunctionType:
                code = found.__code__
                if code.co_filename.startswith(str(root)):
                    path = os.path.realpath(code.co_filename)
                    key = path, code.co_qualname, code.co_firstlineno
                    self.functions.setdefault(key, []).append(found)

    def plant(self, fault: Fault) -> None:
        """Give the function that holds a fault its new code, for the rest of this process."""
        path = self.root / fault.path
        held = self.functions[(str(path), *fault.holder)]
        code = code_of(fault, path.read_bytes(), path)
        for function in held:
            function.__code__ = code


class Campaign:
    """Plugin of pytest that runs its tests once per fault instead of once.

    Args:
        root: of the tree.
        faults: to plant.
        reach: of the tests.
        most: seconds of tests after which a fault counts as survived.
        done: takes what came of each fault.
    """

    def __init__(
        self,
        root: Path,
        faults: list[Fault],
        reach: Reach,
        most: float,
        done: Callable[[Row], None],
    ):
        self.root, self.faults, self.reach = root, faults, reach
        self.most, self.done = most, done
        self.sound: dict[str, bool] = {}

    def pytest_configure(self) -> None:
        """On a busy machine no test may fail for its time, and none may leave examples behind."""
        import hypothesis  # here, since pytest rewrites its asserts first

        hypothesis.settings.register_profile(
            "mutations",
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        hypothesis.settings.load_profile("mutations")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own loop."""
        self.items = {item.nodeid: item for item in session.items}
        self.unknown = [test for test in self.items if test not in self.reach.seconds]
        self.planter = Planter(self.root)
        gc.freeze()
        for fault in self.faults:
            self.done(self.tried(fault))
        return True

    def tried(self, fault: Fault) -> Row:
        """Plant one fault in a fork and run the tests that reach it."""
        start, ran, spent = time.monotonic(), 0, 0.0
        tests = []
        for test in self.reach.nearest(fault, self.unknown):
            if test in self.items and spent < self.most:
                spent += self.reach.seconds.get(test, 0.0)
                tests.append(test)
        verdict, by, how = "survived", "", ""
        while tests:
            verdict, by, how, count = self.attempt(tests, fault)
            ran += count
            # A test that fails without the fault too says nothing.
            if not by or self.is_sound(by):
                break
            verdict, by, how, tests = "survived", "", "", tests[count:]
        took = round(time.monotonic() - start, 1)
        return Row(fault.name, fault.area, fault.kind, verdict, by, how, ran, took)

    def is_sound(self, test: str) -> bool:
        """Whether a test passes where nothing is planted."""
        if test not in self.sound:
            self.sound[test] = self.attempt([test], None)[0] == "survived"
        return self.sound[test]

    def limit(self, test: str) -> float:
        """Processor seconds that a test may take."""
        return GRACE + SHARE * self.reach.seconds.get(test, 0.0)

    def attempt(self, tests: list[str], fault: Fault | None) -> tuple[str, str, str, int]:
        """Verdict, the test that failed first, how, and how many ran."""
        limit = sum(self.limit(test) for test in tests)
        with tempfile.TemporaryDirectory() as folder:
            try:
                by, how, count = isolated(int(limit), self._run, tests, fault, folder)
            except Failed as failed:
                if not str(failed).startswith(("took longer", "the process died")):
                    raise
                late = str(failed).startswith("took longer") or f"code -{LATE}" in str(failed)
                return ("timeout" if late else "killed"), "", str(failed), 0
        return ("killed" if by else "survived"), by, how, count

    def _run(self, tests: list[str], fault: Fault | None, folder: str) -> tuple[str, str, int]:
        """In the fork: the test that failed first and its exception, and how many ran."""
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        if fault is not None:
            self.planter.plant(fault)
        items = [self.items[test] for test in tests]
        for count, (item, following) in enumerate(zip(items, [*items[1:], None], strict=True), 1):
            self.how = ""
            # Ends the fork where a test hangs.
            signal.setitimer(signal.ITIMER_PROF, self.limit(item.nodeid))
            if any(r.failed for r in runtestprotocol(item, log=False, nextitem=following)):
                return item.nodeid, self.how, count
        return "", "", len(items)

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Remember the exception that a test ends with; `pytest.raises` that sees none asserts."""
        if call.excinfo is not None:
            kind = call.excinfo.typename
            self.how = "AssertionError" if kind == "Failed" else kind


def run_campaign(campaign: Campaign, tests: str = "tests") -> None:
    """Collect the tests and try every fault.

    Args:
        campaign: whose root must be the current folder.
        tests: the folder or file that they lie in.

    Raises:
        RuntimeError: pytest does not collect the tests.
    """
    options = ["-q", "-s", "-m", "not slow", "-p", "no:cacheprovider", "--tb=short", *IGNORED]
    status = pytest.main([*options, tests], plugins=[campaign])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"pytest ended with {status!r}")
