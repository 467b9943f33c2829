"""What a certificate says of models whose decision is open, or of several outputs."""

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.capture.batch import make_batch
from fxprune.errors import BudgetError, CalibrationWarning, UnsupportedError
from fxprune.handover.report import Report
from fxprune.verify.agreement import compare


class Several(nn.Module):
    """Two linear layers and as many heads as are named, on (N, 12)."""

    def __init__(self, wrap: Callable[..., Any], *sizes: int) -> None:
        super().__init__()
        self.wrap = wrap
        self.first, self.second = nn.Linear(12, 48), nn.Linear(48, 48)
        self.heads = nn.ModuleList(nn.Linear(48, size) for size in sizes)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.wrap(*(head(x) for head in self.heads))


def several(wrap: Callable[..., Any], *sizes: int) -> nn.Module:
    torch.manual_seed(0)
    return Several(wrap, *sizes).eval()


class OneChannel(nn.Module):
    """Convolutions to one channel, as for depth, masks and denoising, on (N, 1, 8, 8)."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.head, self.last = nn.Conv2d(24, 1, 1), last

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        result: Tensor = self.last(self.head(x))
        return result


class Depth(nn.Module):
    """Positive values beyond 1."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.1 + (3 * x).exp()


def one_channel(last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return OneChannel(last).eval()


def numbers(count: int = 500) -> Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(0))


def pictures(count: int = 460) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass
class Scores:
    loss: Tensor
    logits: Tensor


# What is asked


@pytest.mark.parametrize("last", [nn.Identity(), nn.Sigmoid()], ids=["denoised", "mask"])
def test_one_channel_is_not_certified_by_its_only_class(last: nn.Module) -> None:
    """It is asked before anything is fitted."""
    with pytest.raises(UnsupportedError, match='one of "sign", "close"'):
        fxprune.compress(one_channel(last), pictures(), progress=False)


def test_depth_far_off_is_not_certified_by_default() -> None:
    model = one_channel(Depth())
    small = fxprune.compress(model, pictures(), flops=0.1, method="magnitude", progress=False)
    found = fxprune.report(small).agreement
    assert found is not None
    assert found.decision == "relative error at most 5 % per example (close)"
    assert found.bound < 0.5
    with torch.no_grad():
        expected, got = model(pictures(50)), small(pictures(50))
    assert ((expected - got).flatten(1).norm(dim=1) > 0.05 * expected.flatten(1).norm(dim=1)).any()


@pytest.mark.parametrize("agreement", [None, 0.9], ids=["by default", "asked for"])
def test_several_numbers_are_not_certified_as_classes(agreement: float | None) -> None:
    model = several(lambda a: a, 4)
    with pytest.raises(UnsupportedError, match='"argmax", "multilabel", "close"'):
        fxprune.compress(model, numbers(), agreement=agreement, progress=False)
    with pytest.raises(UnsupportedError, match='"argmax", "multilabel", "close"'):
        fxprune.plan(model, numbers(), agreement=agreement, progress=False)


def test_in_doubt_without_agreement_it_warns_once_and_tells_both_readings() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        curve = fxprune.sweep(
            several(lambda a: a, 4), numbers(), budgets=(0.8, 0.5), effort=1, progress=False
        )
    asked = [w for w in caught if issubclass(w.category, CalibrationWarning)]
    assert len(asked) == 1
    text = str(fxprune.report(curve[0.5]))
    assert text.startswith("Decision: relative error at most 5 % per example (close).")
    assert "For information, not judged so: output:" in text


def test_with_a_rule_nothing_is_asked() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Shape and values", CalibrationWarning)
        small = fxprune.compress(
            several(lambda a: a, 4), numbers(), flops=0.5, decision="argmax", progress=False
        )
    text = str(fxprune.report(small))
    assert text.startswith("Decision: largest class along axis 1 (argmax).\n")


# Several outputs


def test_the_second_output_counts_too() -> None:
    """A model that is exact in its first output and off in the second agrees on nothing."""
    model = several(lambda a, b: (a, b), 3, 2)

    def off(x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = model(x)
        return a, 1.3 * b

    batches = [make_batch((numbers(40),), {})]
    found = compare(model, off, batches, {0: "argmax", 1: "close"})
    assert (found.rate, found.bound) == (0, 0)
    assert [output.rate for output in found.outputs] == [1, 0]
    assert [output.error for output in found.outputs][0] == 0
    assert found.error > 0.03


def test_the_joint_decision_is_certified_and_each_rate_told() -> None:
    small = fxprune.compress(
        several(lambda a, b: {"a": a, "b": b}, 3, 2),
        numbers(),
        flops=0.3,
        method="uniform",
        decision={"a": "argmax", "b": fxprune.decisions.close(tolerance=0.3)},
        progress=False,
    )
    found = fxprune.report(small).agreement
    assert found is not None
    assert found.rate <= min(output.rate for output in found.outputs)
    text = str(fxprune.report(small))
    assert text.startswith("Decision: a: largest class along axis 1 (argmax); b: relative error")
    assert f"b: {found.outputs[1].rate:.2%} of the examples agree" in " ".join(text.split())


def test_an_error_names_the_output_that_agrees_least() -> None:
    with pytest.raises(BudgetError, match=r"least in b, [0-9.]+%; decision: a: largest class"):
        fxprune.compress(
            several(lambda a, b: {"a": a, "b": b}, 3, 2),
            numbers(),
            agreement=0.9,
            decision={"a": "argmax", "b": lambda a, b: (a == b).all(1)},
            progress=False,
        )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: {"loss": z.square().mean(), "logits": z},
        lambda z: Scores(z.square().mean(), z),
        lambda z: (Scores(z.square().mean(), z),),
    ],
    ids=["dict", "dataclass", "nested"],
)
def test_losses_and_dataclasses_are_returned(wrap: Callable[..., Any]) -> None:
    model = several(wrap, 4)
    small = fxprune.compress(model, numbers(120), flops=0.5, decision="argmax", progress=False)
    with torch.no_grad():
        output, expected = small(numbers(5)), fxprune.masked(model, small)(numbers(5))
    assert type(output) is type(expected)
    while isinstance(output, tuple):
        output, expected = output[0], expected[0]
    found, wanted = (o.logits if isinstance(o, Scores) else o["logits"] for o in (output, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    report = fxprune.report(small)
    assert any("loss is not judged: it is one number" in note for note in report.notes)


def test_a_saved_dataclass_is_read_as_a_dict(tmp_path: Path) -> None:
    model = several(lambda z: Scores(z.square().mean(), z), 4)
    small = fxprune.compress(model, numbers(120), flops=0.5, decision="argmax", progress=False)
    fxprune.save(small, tmp_path / "small.safetensors")
    with torch.no_grad():
        found = fxprune.load(tmp_path / "small.safetensors")(numbers(5))
        assert torch.equal(found["logits"], small(numbers(5)).logits)


# Fails closed


@pytest.mark.parametrize(
    "decision",
    [
        lambda a, b: a == b,
        lambda a, b: (a - b).abs().sum(1),
        lambda a, b: torch.full((len(a),), math.nan),
        lambda a, b: torch.tensor(True),
        lambda a, b: [True] * len(a),
        lambda a: a,
    ],
    ids=["(N, C)", "distances", "nan", "one", "list", "one argument"],
)
def test_a_callers_function_that_gives_something_else_is_refused_first(
    decision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fxprune.pipeline.fit_within", lambda *_: pytest.fail("work was begun"))
    model = several(lambda a: a, 4)
    with pytest.raises(UnsupportedError, match="decision"):
        fxprune.compress(model, numbers(), flops=0.5, decision=decision, progress=False)
    with pytest.raises(UnsupportedError, match="decision"):
        fxprune.compress(model, numbers(), agreement=0.9, decision=decision, progress=False)


@pytest.mark.parametrize("rule", ["argmax", "sign", "multilabel", "close"])
def test_a_small_model_of_nan_agrees_on_nothing(rule: str) -> None:
    model = several(lambda a: a, 4)
    batches = [make_batch((numbers(30),), {})]
    found = compare(model, lambda x: torch.nan * model(x), batches, rule)
    assert (found.rate, found.bound) == (0, 0)
    assert math.isnan(found.error)


def test_reports_are_json_without_nan() -> None:
    small = fxprune.compress(
        several(lambda a: a, 4), numbers(60), flops=0.5, decision="argmax", progress=False
    )
    report = fxprune.report(small)
    assert Report.from_json(report.to_json()) == report
    assert report.agreement is not None
    broken = replace(report, agreement=replace(report.agreement, error=math.nan))
    text = broken.to_json()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)
    again = Report.from_json(text)
    assert again.agreement is not None
    assert math.isnan(again.agreement.error)
    old = json.loads(report.to_json())
    del old["agreement"]["decision"], old["agreement"]["outputs"]
    assert Report.from_json(json.dumps(old)).agreement is not None


def test_a_sweeps_reports_have_times_of_their_own() -> None:
    curve = fxprune.sweep(
        several(lambda a: a, 4),
        numbers(),
        budgets=(0.8, 0.5),
        decision="argmax",
        progress=False,
    )
    first, second = (fxprune.report(small) for small in curve.values())
    assert {"capture", "label", "calibrate", "fit"} <= set(first.seconds)
    assert not {"capture", "label"} & set(second.seconds)
    assert second.seconds["fit"] > 0
    assert any("timed in the report of the first budget" in note for note in second.notes)
