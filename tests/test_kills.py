"""A short seed of `python -m benchmarks.kills`: real processes, really killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.killing.page import marks, put_in

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
def test_killed_runs_end_in_the_same_bytes() -> None:
    words = ("--net", "small", "--images", "200", "--count", "4", "--seed", "2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.kills", *words],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
        cwd=ROOT,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "SIGKILL" in found.stdout
    assert "killed" in found.stdout
    assert found.stdout.count("the same bytes") >= 2


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_table_is_put_between_the_marks(ranks: int, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (begin, end), (own, others) = marks(ranks), marks(3 - ranks)
    page.write_text(f"before\n{own}\nstays\n{others}\n{begin}\nold\n{end}\nafter\n")
    put_in(page, ("kind", "times"), [("SIGKILL", "3")], "3 disturbances", "5", ranks)
    told = page.read_text()
    assert "old" not in told
    assert f"{own}\nstays\n{others}\n" in told
    assert "| SIGKILL | 3 |" in told
    assert told.startswith("before")
    assert told.endswith("after\n")
