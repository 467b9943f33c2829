"""The campaign of `python -m benchmarks.mutations`: what it plants, and that it tells."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mutants.areas import AREAS
from benchmarks.mutants.drawing import draw, every
from benchmarks.mutants.equivalent import EQUIVALENT
from benchmarks.mutants.page import page, totals
from benchmarks.mutants.reach import Reach
from benchmarks.mutants.reader import faults_of

ROOT = Path(__file__).resolve().parent.parent
SOURCE = b'''\
def held(count, spare=3):
    """How many of a count."""
    if count > 2 and spare:
        count += 1
        note(f"{count + 1}")
    elif not count:
        raise ValueError("none", 1)
    return max(count, spare)
'''


def test_single_changes_of_a_function() -> None:
    found = faults_of("fxprune/linalg/a.py", SOURCE)
    changes = {(fault.kind, fault.old, fault.new) for fault in found}
    assert changes == {
        (
            "connective",
            "if count > 2 and spare:",
            "if (count > 2 or spare):",
        ),
        (
            "condition",
            "if count > 2 and spare:",
            "if (not (count > 2 and spare)):",
        ),
        ("comparison", "if count > 2 and spare:", "if count >= 2 and spare:"),
        ("number", "if count > 2 and spare:", "if count > 3 and spare:"),
        ("dropped", "count += 1", "pass"),
        ("number", "count += 1", "count += 2"),
        ("dropped", 'note(f"{count + 1}")', "pass"),
        ("condition", "elif not count:", "elif (count):"),
        ("call", "return max(count, spare)", "return min(count, spare)"),
    }
    for fault in found:
        planted = fault.planted(SOURCE)
        assert planted != SOURCE
        compile(planted, "a.py", "exec")


def test_faults_are_spread_and_drawn_again_by_their_seed() -> None:
    faults = every(ROOT)
    drawn = draw(faults, 120, seed=0)
    assert [f.name for f in drawn] == [f.name for f in draw(every(ROOT), 120, seed=0)]
    assert len({f.name for f in faults}) == len(faults)
    assert [f.name for f in drawn] != [f.name for f in draw(faults, 120, seed=1)]
    assert {f.area for f in drawn} == set(AREAS)
    functions = [(f.path, f.function) for f in drawn]
    assert len(set(functions)) > 0.8 * len(functions)


def test_equivalent_faults_are_there_and_have_a_reason() -> None:
    names = {fault.name for fault in every(ROOT)}
    assert set(EQUIVALENT) <= names
    assert all(reason.endswith(".") for reason in EQUIVALENT.values())


def test_nearest_tests_come_first() -> None:
    fault = next(f for f in every(ROOT) if f.path == "fxprune/linalg/clopper_pearson.py")
    tests = {
        "tests/cli/test_app.py::test_a": 0.1,
        "tests/linalg/test_pca.py::test_b": 0.2,
        "tests/linalg/test_pca.py::test_c": 0.1,
        "tests/test_compress.py::test_d": 0.1,
        "tests/linalg/test_clopper_pearson.py::test_e": 0.3,
    }
    reaching = [test for test in tests if not test.endswith("c")]
    reach = Reach(tests, {fault.path: dict.fromkeys(fault.lines, reaching)})
    assert [test[-1] for test in reach.nearest(fault)] == list("ebdac")


def row(name: str, verdict: str, by: str = "") -> dict[str, object]:
    how = "AssertionError" if by else ""
    parts = {"area": "labels", "kind": "axis", "how": how, "tests": 1, "seconds": 1.0}
    return {"name": name, "verdict": verdict, "by": by, **parts}


def test_the_page_counts_what_breaks() -> None:
    names = [f"fxprune/rules/a.py:f: {n} -> {n + 1}" for n in range(5)]
    test = "tests/rules/test_a.py::test"
    rows = [row(names[0], "killed", test), row(names[1], "timeout"), row(names[2], "survived")]
    rows += [row(names[3], "survived"), row(names[4], "killed", test)]
    known = {names[2]: "It does not matter."}
    assert totals(rows, known).endswith("survived 1, equivalent 1, killed of what breaks 75.0%")
    text = page(rows, known, "Stamp.")
    assert "| **all** | 5 | 2 | 1 | 1 | 1 | 75.0% |" in text
    assert "- `fxprune/rules/a.py`, `f`: `2` becomes `3`. It does not matter." in text


@pytest.mark.slow
def test_a_fault_is_killed_and_an_equal_one_survives(tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in ROOT.glob("fxprune/linalg/*.py")}
    bound = "fxprune/linalg/clopper_pearson.py"
    tests = "tests/linalg/test_clopper_pearson.py"
    reach = {f"{tests}::test_groups_of_equal_size_count_as_many_examples": 0.1}
    lines = {bound: {str(line): [0] for line in range(1, 100)}}
    (tmp_path / "reach.json").write_text(json.dumps({"seconds": reach, "lines": lines}))
    rows = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "benchmarks.mutations", "--count", "100000"]
    command += ["--reach", str(tmp_path / "reach.json"), "--rows", str(rows)]
    command += ["--only", f"{bound}:lower_bound: [iw]*", "--tests", tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = {row["name"].partition(": ")[2]: row for row in map(json.loads, rows.open())}
    killed = found[
        "weight = 1.0 if independent is None else min(independent / examples, 1.0) -> "
        "weight = 1.0 if independent is None else max(independent / examples, 1.0)"
    ]
    assert killed["verdict"] == "killed"
    assert killed["by"] == f"{tests}::test_groups_of_equal_size_count_as_many_examples"
    assert killed["how"] == "AssertionError"
    assert any(row["verdict"] == "survived" for row in found.values())
    assert f"faults {len(found)}, killed" in done.stdout
    assert before == {path: path.read_bytes() for path in ROOT.glob("fxprune/linalg/*.py")}
