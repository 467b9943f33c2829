"""Plugin of pytest: a coverage context for every test, and at the end what each has reached."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest


class Recorder:
    """Names the running test to coverage.

    Args:
        root: of the tree.
        out: JSON file that `Reach.read` reads.
    """

    def __init__(self, root: Path, out: Path) -> None:
        self.root, self.out = root, out
        self.seconds: dict[str, float] = {}
        sources = [str(root / "fxprune"), str(root / "passes")]
        self.coverage = coverage.Coverage(data_file=None, source=sources, config_file=False)
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Before each test."""
        self.coverage.switch_context(item.nodeid)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """After its set-up, itself and what it leaves."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        """Write it."""
        self.coverage.stop()
        data = self.coverage.get_data()
        at = {name: index for index, name in enumerate(self.seconds)}
        lines = {
            str(Path(file).relative_to(self.root)): {
                str(line): sorted(at[test] for test in tests if test in at)
                for line, tests in data.contexts_by_lineno(file).items()
            }
            for file in sorted(data.measured_files())
        }
        self.out.write_text(json.dumps({"seconds": self.seconds, "lines": lines}))


def pytest_configure(config: pytest.Config) -> None:
    """Start before anything of fxprune is imported."""
    config.pluginmanager.register(Recorder(config.rootpath.resolve(), Path(os.environ["REACH"])))
