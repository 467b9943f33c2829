"""Files for other runtimes that give something else, or cannot be made, are refused."""

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxprune.capture.batch import Batch, make_batch
from fxprune.cli import runtimes
from fxprune.cli.runtimes import FORMATS, export_checked
from fxprune.errors import StorageError, UnsupportedError
from tests.cli.test_app import TINY, bad
from tests.nets import images, tiny

EXAMPLE = make_batch((images(2),), {})


def replaced(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """The runtime of .pt2 gives changed outputs."""
    net = tiny()

    def run(batch: Batch) -> Sequence[Tensor]:
        return [change(net(*batch.args))]

    form = replace(FORMATS["pt2"], open=lambda file: ("another runtime", run))
    monkeypatch.setitem(runtimes.FORMATS, "pt2", form)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: 1.01 * y, r"differs from the model by 1\.0e-02 of the largest output"),
        (lambda y: y * float("nan"), "differs from the model by nan"),
        (lambda y: y if len(y) < 5 else y / y.new_zeros(()), "differs from the model by (inf|nan)"),
        (lambda y: y if len(y) < 5 else y * y.new_tensor(float("nan")), "by nan"),
        (lambda y: y[:, :3], r"gives outputs of the shapes \[\(2, 4\)\].*\[\(2, 3\)\]"),
    ],
)
def test_other_outputs_are_an_error_and_leave_no_file(
    change: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(monkeypatch, change)
    with pytest.raises(StorageError, match=words):
        export_checked(tiny(), EXAMPLE, "pt2", tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_number_of_examples_is_told(tmp_path: Path) -> None:
    class Pairs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, -1).sum(1)

    done = export_checked(Pairs().eval(), EXAMPLE, "pt2", tmp_path / "m.pt2")
    assert (done.batch, done.runtime, done.difference) == ("2", "torch.export", 0.0)
    assert (tmp_path / "m.pt2").stat().st_size == done.bytes


def test_arguments_by_name_and_whole_numbers(tmp_path: Path) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 5)

        def forward(self, ids: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
            result: Tensor = (self.table(ids) * mask.unsqueeze(-1)).sum(1) * scale
            return result

    values = {
        "mask": torch.zeros(2, 6, dtype=torch.bool),
        "ids": torch.zeros(2, 6, dtype=torch.int64),
        "scale": torch.tensor(2.0),
    }
    done = export_checked(Words().eval(), make_batch((), values), "pt2", tmp_path / "m.pt2")
    assert (done.batch, done.difference) == ("free", 0.0)


def test_what_a_model_does_not_take_is_said_before_the_export(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="Tiny does not take the example"):
        export_checked(tiny(), make_batch((torch.zeros(2, 9),), {}), "pt2", tmp_path / "m.pt2")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("export", TINY, "--shape", "3,8,8")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = bad(*words, "--to", "onnx", "--out", tmp_path / "m.onnx")
    assert 'needs onnx and onnxscript: pip install "fxprune[onnx]"' in line
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no compiler" in bad(*words, "--to", "aoti", "--out", tmp_path / "m.pt2")
    assert "'tflite' is not one of onnx, pt2, aoti" in bad(*words, "--to", "tflite")
    assert "ends in .onnx" in bad(*words, "--to", "onnx", "--out", tmp_path / "m.pt2")
    assert "--out" in bad(*words, "--to", "pt2", "--out", tmp_path / "none" / "m.pt2")
