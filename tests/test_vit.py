"""A small trained vision transformer: its stream is narrowed where that is needed or better."""

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import fxprune
from benchmarks import streams, train_vit
from benchmarks.models.vit import trained
from fxprune.demo.data import load
from fxprune.errors import BudgetError, StorageError

LITTLE = 0.05
"""Of the FLOPs: less than is left without narrowing the stream."""


def calibration() -> Tensor:
    return load().calibration[:64]


@cache
def little() -> GraphModule:
    return fxprune.compress(
        trained(), calibration(), flops=LITTLE, method="uniform", progress=False
    )


def width(small: nn.Module) -> int:
    return small.get_parameter("positions").shape[-1]


def test_most_decisions_are_right() -> None:
    data = load()
    with torch.no_grad():
        right = trained()(data.images[:1000]).argmax(1) == data.labels[:1000]
    assert float(right.float().mean()) > 0.8


@pytest.mark.slow
def test_a_stream_keeps_its_width_where_the_budget_allows_it() -> None:
    small = fxprune.compress(trained(), calibration(), flops=0.6, method="uniform", progress=False)
    assert width(small) == 64


@pytest.mark.slow
def test_a_stream_is_narrowed_where_the_budget_cannot_be_kept_without() -> None:
    with pytest.raises(BudgetError):
        fxprune.compress(
            *(trained(), calibration()), flops=LITTLE, ignore=streams.WITHOUT, progress=False
        )
    small = little()
    assert width(small) < 64
    images, exact = load().images[:200].double(), copy.deepcopy(small).double()
    with torch.no_grad():  # in single precision, rounding alone comes to 1e-5 on some CPUs
        torch.testing.assert_close(fxprune.masked(trained(), small).double()(images), exact(images))
    assert "divide by the number of all channels" in str(fxprune.report(small).notes)


def test_a_smaller_norm_of_the_original_class_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    fxprune.save(little(), path)
    images = load().images[:20]
    with torch.no_grad():
        assert torch.equal(fxprune.load(path)(images), little()(images))
    with pytest.raises(StorageError, match=r"those of a ViT with fewer channels: blocks.0.norm1"):
        fxprune.load(path, into=trained())


@pytest.mark.slow
def test_the_commands_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load()

    class Labeled:
        images, labels = data.images[:500], data.labels[:500]

    for command in (streams, train_vit):
        monkeypatch.setattr(command, "split", lambda part, folder: Labeled)
    train_vit.main(epochs=1, most=256, out=tmp_path / "vit.safetensors")
    assert "vit: test accuracy" in capsys.readouterr().out
    streams.main(budgets="0.6", seeds=1, images=100, tests=100)
    shown = capsys.readouterr().out
    assert all(f"'stream': '{way}'" in shown for way in streams.WAYS)
