"""The table of single calls: measured once, kept on disk, empty where it cannot be read."""

import json
from pathlib import Path

import pytest
import torch

from fxprune.timing.layer_times import LayerTimes
from fxprune.timing.workload import Workload


def test_a_table_is_measured_once(tmp_path: Path) -> None:
    add, relu = torch.ops.aten.add.Tensor, torch.ops.aten.relu_.default
    x = torch.full((3, 4), -1.0)
    table = LayerTimes(torch.device("cpu"), Workload(), tmp_path / "new")
    first = table.time(add, (x, x), {})
    assert table.time(add, (x, x), {}) == first
    table.time(relu, (x,), {})
    assert x.eq(-1).all(), "operators that change their inputs work on copies"
    table.time(add, (x, x.T.contiguous().T), {})
    assert table.measured == 3
    table.save()
    again = LayerTimes(torch.device("cpu"), Workload(), tmp_path / "new")
    assert again.time(add, (x, x), {}) == first
    assert again.measured == 0
    assert (
        LayerTimes(
            torch.device("cpu"), Workload(threads=torch.get_num_threads() + 1), tmp_path
        ).path
        != again.path
    )
    assert "threads" in json.loads(again.path.read_text())["target"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"seconds": {"a": "b"}}', '{"seconds": {"a": -1}}', '{"seconds": 3}', "\0"]
)
def test_an_unreadable_table_counts_as_empty(text: str, tmp_path: Path) -> None:
    path = LayerTimes(torch.device("cpu"), Workload(), tmp_path).path
    path.write_text(text)
    assert LayerTimes(torch.device("cpu"), Workload(), tmp_path).seconds == {}
