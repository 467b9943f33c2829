"""What `recover` refuses, in words, before anything is trained."""

import builtins
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import (
    BudgetError,
    CalibrationError,
    FxpruneError,
    PlanError,
    StorageError,
    UnsupportedError,
)
from fxprune.handover.report import attach
from tests.nets import images, tiny
from tests.recovery.subjects import classifier, compressed, examples, inputs, recovered


def refused(kind: type[FxpruneError], *words: str, data: Any = None, **options: Any) -> None:
    with pytest.raises(kind) as caught:
        recovered(compressed(), data, **{"steps": 2, **options})
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("package", ["accelerate", "pytorch_optimizer"])
def test_without_what_trains(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = builtins.__import__

    def gone(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named '{package}'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", gone)
    refused(UnsupportedError, "fxprune[train]", f"pip install {package.replace('_', '-')}")


def test_importing_fxprune_does_not_import_what_trains() -> None:
    import subprocess

    code = (
        "import fxprune, sys; sys.exit(bool({'accelerate', 'pytorch_optimizer'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_how_long() -> None:
    refused(BudgetError, "minutes=, steps= or epochs=", "0 are given", steps=None)
    refused(BudgetError, "2 are given", minutes=1)
    refused(BudgetError, "steps=0", steps=0)
    refused(BudgetError, "steps=1.5", steps=1.5)
    refused(BudgetError, "minutes=nan", steps=None, minutes=float("nan"))


@pytest.mark.parametrize(
    "bad",
    [
        {"optimizer": "lion"},
        {"schedule": 3},
        {"rate": 0},
        {"batch": 0},
        {"average": 1.0},
        {"label_share": 2},
        {"mixed_precision": "fp4"},
        {"freeze_statistics": None},
        {"warmup": "a"},
    ],
)
def test_training_checks_its_values(bad: dict[str, Any]) -> None:
    with pytest.raises(FxpruneError, match=next(iter(bad))):
        fxprune.Training(**bad)
    refused(UnsupportedError, "fxprune.Training(rate=1e-4)", training=bad)


def test_another_model() -> None:
    with pytest.raises(PlanError, match="not made from this one"):
        fxprune.recover(compressed(), tiny(), images(50), steps=2, progress=False)
    with pytest.raises(PlanError, match="no fxprune report"):
        recovered(classifier(), steps=2)
    other, small = nn.Sequential(nn.Linear(1, 1)), compressed()
    other.meta = {}  # type: ignore[assignment]
    attach(other, fxprune.report(small), fxprune.plan_of(small))
    with pytest.raises(PlanError, match="load"):
        recovered(other, steps=2)


def test_other_examples_and_none_that_are_left() -> None:
    refused(CalibrationError, "None of the 120", "augment=", data=[inputs(100, seed=5)])
    small = compressed()
    everything = fxprune.report(small)
    held = inputs()[held_out(small)]
    refused(CalibrationError, "Nothing is left to train on", data=[held])
    refused(CalibrationError, "held out 1 independent", data=[torch.cat([held[:1], inputs(9, 7)])])
    attach(small, replace(everything, held_out=""), fxprune.plan_of(small))
    with pytest.raises(CalibrationError, match="names no example"):
        recovered(small, steps=2)
    attach(small, replace(everything, held_out="!"), fxprune.plan_of(small))
    with pytest.raises(CalibrationError, match="damaged"):
        recovered(small, steps=2)


def held_out(small: nn.Module) -> torch.Tensor:
    from fxprune.calibrate.fingerprint import PACKED, fingerprints, unpack
    from fxprune.capture.batch import make_batch

    known = unpack(fxprune.report(small).held_out)
    marks = fingerprints(make_batch((inputs(),), {}))
    return torch.tensor([mark[:PACKED] in known for mark in marks])


def test_labels() -> None:
    refused(CalibrationError, "without labels", labels=True)
    refused(UnsupportedError, "labels='yes'", labels="yes")
    short = [(x, torch.zeros(3)) for x in examples()]
    refused(CalibrationError, "one for each example", labels=True, data=short)
    floats = [(x, torch.zeros(len(x))) for x in examples()]
    refused(CalibrationError, "class numbers", labels=True, data=floats)
    many = [(x, torch.full((len(x),), 9)) for x in examples()]
    refused(CalibrationError, "classes 0 to 4", labels=True, data=many)


def test_labels_of_an_output_without_classes() -> None:
    small = fxprune.compress(
        classifier(), examples(), flops=0.5, method="uniform", decision="close", progress=False
    )
    data = [(x, torch.zeros(len(x)).long()) for x in examples()]
    with pytest.raises(UnsupportedError, match="cross entropy"):
        recovered(small, data, labels=True, decision="close")


def test_another_decision() -> None:
    refused(UnsupportedError, "compress judged by", "same decision=", decision="close")


def test_batches_of_another_form() -> None:
    refused(CalibrationError, "in the form", data=[{"input": x} for x in examples()])


def test_augmentation() -> None:
    refused(UnsupportedError, "augment='rotate'", augment="rotate")
    refused(UnsupportedError, "floating (N, C, H, W)", augment="flip")
    refused(UnsupportedError, "augment is a dict", augment={})
    refused(CalibrationError, "augment=<lambda>", "AttributeError", augment=lambda x: x.nothing)
    refused(CalibrationError, "made 1 examples of 32", augment=lambda x: x[:1])


def test_a_checkpoint_folder_that_is_a_file(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("")
    refused(StorageError, "file", checkpoint=tmp_path / "file")


def test_half_precision() -> None:
    net = classifier().bfloat16()
    data = [x.bfloat16() for x in examples()]
    small = fxprune.compress(
        net, data, flops=0.5, method="uniform", decision="argmax", progress=False
    )
    with pytest.raises(UnsupportedError, match="mixed_precision"):
        fxprune.recover(small, net, data, steps=2, decision="argmax", progress=False)
