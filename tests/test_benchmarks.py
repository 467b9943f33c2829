"""The benchmarks' commands are where the documents say, and what they share stands below them."""

import ast
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from benchmarks import first_sight, large, time_left
from benchmarks.examination.study import Found, Subject, draw_lines, put_out
from benchmarks.examination.tradeoff_page import _curve, picture
from benchmarks.studies import app as studies
from fxprune.forecast import ExpectedCost, Stage
from fxprune.progress import Journal

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "benchmarks").rglob("*.py"))
SHARED = [path for path in FILES if path.parent.name != "benchmarks"]
COMMANDS = {p.stem for p in (ROOT / "benchmarks").glob("*.py") if "__main__" in p.read_text()}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *FILES]


def test_commands_that_documents_name_exist() -> None:
    named = {
        name for page in PAGES for name in re.findall(r"-m\s+benchmarks\.(\w+)", page.read_text())
    }
    assert len(named) > 10
    assert named <= COMMANDS


def test_every_folder_says_what_it_holds() -> None:
    for folder in {path.parent for path in FILES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


@pytest.mark.parametrize("path", SHARED, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_is_shared_imports_no_command(path: Path) -> None:
    text = path.read_text()
    names = re.findall(r"^\s*(?:from|import) benchmarks\.(\w+)", text, re.MULTILINE)
    assert not set(names) & COMMANDS


def test_the_tradeoff_is_drawn_from_the_rows_that_are_kept(tmp_path: Path) -> None:
    rows = json.loads((ROOT / "docs" / "tradeoff.json").read_text())
    page = (ROOT / "docs" / "tradeoff.md").read_text()
    for row in rows:
        assert f"{100 * row['agreement']:.2f} ({100 * row['accuracy']:.2f})" in page
    picture(rows, tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    for text in {row["net"] for row in rows} | {row["method"] for row in rows}:
        assert f">{text}</text>" in drawn
    curve = _curve([row for row in rows if row["net"] == "mlp"], "auto")
    assert [(spot.kept, round(spot.lost, 4)) for spot in curve] == [
        (0.7, 0.002),
        (0.5, 0.0027),
        (0.35, 0.0042),
    ]
    assert all(spot.lost < (spot.high or 0) < 2 * spot.lost for spot in curve)


def test_a_study_ends_in_a_table_and_a_picture(tmp_path: Path) -> None:
    def draw(panels: Sequence[Any]) -> None:
        draw_lines(panels[0], {"a": ([1, 2], [3, 4]), "b": ([1, 2], [4, 3])})

    put_out(Found("name", "title", ("x", "y"), [["1", "2"]], draw), tmp_path)
    assert (tmp_path / "name.md").read_text() == "| x | y |\n| --- | --- |\n| 1 | 2 |\n"
    assert (tmp_path / "name.png").read_bytes().startswith(b"\x89PNG")


def test_a_subject_judges_by_the_decisions_of_its_network() -> None:
    subject = Subject.of("mlp", None)
    assert (len(subject.pool), len(subject.images)) == (1000, 5000)
    rate, bound, right = subject.judge(subject.net)
    assert rate == 1.0
    assert 0.999 < bound < 1
    assert right == float((subject.decided == subject.labels).float().mean())
    assert bool(subject.same(subject.net).all())
    first = subject.draw(10, 0)
    assert torch.equal(first, subject.draw(10, 0))
    assert not torch.equal(first, subject.draw(10, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["widths", "scores"])
def test_a_study_runs(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(studies, [name, "--net", "mlp", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{name}.md", f"{name}.png"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_a_model_of_shards_is_compressed_where_it_lies(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    options = {"method": "channels", "selector": "magnitude", "effort": 1, "decision": "close"}
    row = large.measure(tmp_path, 4e5, 8, 8, 0.8, vocabulary=64, **options)
    assert sorted(tmp_path.glob("*.safetensors"))
    assert 3.5e5 < row["parameters"] < 4.5e5
    assert 0.7 < row["kept"] <= 0.8
    assert {"capture", "calibrate", "fit", "verify"} <= {s["station"] for s in row["stations"]}
    assert 0 < row["forward"] < row["seconds"]
    assert row["peak"] >= row["before"] > 1e7
    assert "| capture |" in large.table(row)


def test_a_report_has_fewer_lines_than_it_is_about() -> None:
    def alike() -> tuple[nn.Module, list[torch.Tensor]]:
        blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(30)]
        return nn.Sequential(*blocks), [torch.randn(2, 8, 5, 5)]

    rows, lines = first_sight.report_lines(alike)
    assert rows > 30
    assert 10 < lines < 40
    assert set(first_sight.MODELS) == {"ResNet-50", "BERT-base", "YOLO11n"}


def test_what_is_said_to_be_left_is_compared_with_the_truth() -> None:
    elapsed = np.array([2.0, 4.0, 6.0, 8.0])
    right = time_left.Followed(10.0, elapsed, 10 - elapsed)
    assert (right.told, right.off, right.jump, right.at(0.5)) == (8, 0, 0, (4, 4))
    wrong = time_left.Followed(10.0, elapsed, np.array([8.0, 2.0, 4.0, 2.0]))
    assert (wrong.off, wrong.jump, wrong.at(0.25)) == (1 / 8, 1 / 2, (2, 6))


def test_a_call_is_followed_while_it_runs() -> None:
    def call() -> None:
        with Journal(False) as journal:
            journal.foresee(ExpectedCost([Stage("fit", {"fit": [60.0]})], 1.0))
            with journal.station("fit"):
                time.sleep(4 * time_left.EVERY)

    seen = time_left.follow(call)
    assert len(seen.left) == len(seen.elapsed) > 0
    assert all(seen.left > 50)
    assert seen.whole > seen.elapsed[-1]


@pytest.mark.slow
def test_streams_of_an_architecture_are_turned() -> None:
    pytest.importorskip("transformers")
    from benchmarks import turned
    from benchmarks.models.entries import entries

    (entry,) = entries(False, 0, True, False, False, False, 100.0, "vit-msn")
    found = turned.turn(entry)
    assert (found.streams, found.maps, found.verdict) == (1, 0, "equal")
    assert found.effect > 1e-4
    assert turned.row(entry.name, found).startswith("| vit-msn | 1 | - |")
