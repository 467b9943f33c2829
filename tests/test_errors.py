"""Bad input: each its own clear error, and nothing changed."""

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import fxprune
from fxprune.errors import (
    BudgetError,
    CalibrationError,
    CalibrationWarning,
    CaptureError,
    FxpruneError,
    PlanError,
    UnsupportedError,
)
from tests.nets import Stream, images, loader, tiny


def refused(
    kind: type[FxpruneError],
    *words: str,
    net: nn.Module | None = None,
    data: Any = None,
    **options: Any,
) -> None:
    """`compress` raises this kind of error with these words in its text and leaves the model as it
    was.
    """
    net = tiny() if net is None else net
    state = copy.deepcopy(net.state_dict())
    modes = [m.training for m in net.modules()]
    generator = torch.random.get_rng_state()
    with pytest.raises(kind) as caught:
        fxprune.compress(
            net, loader() if data is None else data, **{"flops": 0.5, "progress": False, **options}
        )
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value)
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), generator)
    for name, tensor in net.state_dict().items():
        if isinstance(tensor, Tensor) and not (is_lazy(tensor) or tensor.is_meta):
            assert torch.equal(tensor, state[name]) or not torch.isfinite(tensor).all()


def test_empty_loader() -> None:
    refused(CalibrationError, "no example", data=[])
    refused(CalibrationError, "no example", data=images(0))


def test_not_a_loader() -> None:
    refused(CalibrationError, "int", data=3)
    refused(CalibrationError, "str", data=["a"])
    refused(CalibrationError, "no tensor", data=[(3, 4)])


def test_nan_weights_name_the_layer() -> None:
    net = tiny()
    with torch.no_grad():
        net.get_parameter("second.weight")[0, 0] = float("nan")
    refused(CalibrationError, "second", "NaN", net=net)
    with torch.no_grad():
        net.get_parameter("second.weight")[0, 0] = float("inf")
    refused(CalibrationError, "second", net=net)


def test_nan_data() -> None:
    bad = images(64)
    bad[40] = float("nan")
    refused(CalibrationError, "NaN", "example 32", data=list(bad.split(32)))


def test_wrong_shapes() -> None:
    refused(CaptureError, "Tiny", "(2, 5, 8, 8)", data=torch.randn(32, 5, 8, 8))
    refused(CaptureError, "Tiny", data=torch.randn(32, 3))
    refused(CalibrationError, "float64", data=[images(32), images(32).double()])


@pytest.mark.parametrize("name", ["flops", "params", "agreement"])
@pytest.mark.parametrize("value", [0, -0.1, 1.5, float("nan"), "half", True])
def test_budget_out_of_range(name: str, value: Any) -> None:
    refused(BudgetError, name, "above 0 and at most 1", **{"flops": None, name: value})


def test_budget_out_of_reach_names_the_closest() -> None:
    refused(BudgetError, "flops=0.0001", "keeps flops=0.", flops=0.0001)
    refused(BudgetError, "params", "keeps params=0.", flops=None, params=0.0001)


def test_agreement_that_cannot_be_certified() -> None:
    refused(BudgetError, "299 held-out", "128 calibration examples", flops=None, agreement=0.99)
    refused(BudgetError, "cannot be certified", flops=None, agreement=1)


def test_unsupported_dtype() -> None:
    net = tiny()
    net.get_submodule("second").to(torch.complex64)
    refused(UnsupportedError, "second.weight", "complex64", net=net)


def test_quantized() -> None:
    net = tiny()
    linear = net.get_submodule("hidden")
    assert isinstance(linear, nn.Linear)
    packed = torch.quantize_per_tensor(linear.weight.detach(), 0.1, 0, torch.qint8)
    linear.weight = nn.Parameter(packed, requires_grad=False)
    with pytest.raises(UnsupportedError, match=r"hidden\.weight.*quantized"):
        fxprune.compress(net, loader(), flops=0.5, progress=False)


def test_weights_without_a_size() -> None:
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU())
    refused(UnsupportedError, "0.weight has no size yet", "Call the model on a batch", net=net)


def test_meta() -> None:
    refused(UnsupportedError, "first.weight", "meta device", net=tiny().to("meta"))


def test_not_a_model() -> None:
    with pytest.raises(UnsupportedError, match=r"not a torch\.nn\.Module"):
        fxprune.compress("resnet", loader())  # type: ignore[arg-type]
    refused(UnsupportedError, "no parameters", net=nn.ReLU())


def test_no_prunable_group() -> None:
    refused(
        UnsupportedError, "no channel group", net=nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    )


def test_names_that_match_nothing() -> None:
    refused(PlanError, "nowhere", "first", ignore=["nowhere"])
    refused(PlanError, "nowhere", ignore="nowhere.*")
    refused(PlanError, "nowhere", "first", keep={"nowhere": 0.5})
    refused(PlanError, "first", "above 0", keep={"first": 0})
    refused(PlanError, "first", "at most 1", keep={"first": 1.5})


def test_targets_that_match_nothing() -> None:
    pytest.importorskip("fxprune.targets")
    refused(PlanError, "nowhere", targets=["nowhere"])


def test_unknown_choices() -> None:
    refused(UnsupportedError, "best", "auto", method="best")
    refused(UnsupportedError, "luck", "output-aware", selector="luck")
    refused(BudgetError, "round_to=0", round_to=0)
    refused(UnsupportedError, "decision", decision=3)


def test_untraceable() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny()

        def forward(self, x: Tensor) -> Tensor:
            if float(x.sum()) > 0:
                return self.inner(x)  # type: ignore[no-any-return]
            return self.inner(-x)  # type: ignore[no-any-return]

    refused(CaptureError, "Branching", "targets=", net=Branching())


def test_too_few_samples_warn_with_the_number() -> None:
    with pytest.warns(
        CalibrationWarning, match=r"16 channels and 7 observations.*at least \d+ examples"
    ):
        small = fxprune.compress(tiny(), images(10), flops=0.5, progress=False)
    assert any("observations" in note for note in fxprune.report(small).notes)


def test_foreign_modules_have_no_report() -> None:
    with pytest.raises(PlanError, match="carries no fxprune report"):
        fxprune.report(tiny())
    with pytest.raises(PlanError, match="carries no fxprune plan"):
        fxprune.masked(tiny(), tiny())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"version": 99, "kept": {}, "shapes": {}, "widths": {}}',
        '{"version": 1, "kept": 3, "shapes": {}, "widths": {}}',
    ],
)
def test_broken_plans(text: str) -> None:
    with pytest.raises(PlanError):
        fxprune.Plan.from_json(text)


@cache
def _made() -> fxprune.Plan:
    return fxprune.plan(tiny(), loader(), flops=0.5, method="magnitude", progress=False)


@pytest.mark.parametrize(
    "change", [{"first.weight": {0: [99]}}, {"nowhere.weight": {0: [0]}}, {"head.weight": {0: [0]}}]
)
def test_plans_that_do_not_fit(change: dict[str, dict[int, Any]]) -> None:
    made = _made()
    with pytest.raises(PlanError):
        fxprune.apply(
            tiny(),
            fxprune.Plan({**made.kept, **change}, made.shapes, made.widths),
            loader(),
            progress=False,
        )


def test_streams_are_read_anew() -> None:
    small = fxprune.compress(tiny(), Stream(4, lambda i: images(32, i)), flops=0.5, progress=False)
    assert fxprune.report(small).agreement is not None


def test_a_plan_of_an_unknown_method_is_not_fitted_like_another() -> None:
    made = replace(
        fxprune.plan(tiny(), images(60), flops=0.6, method="uniform", progress=False),
        method="joint",
    )
    with pytest.raises(PlanError, match="'joint' is not one of auto"):
        fxprune.apply(tiny(), made, images(60), progress=False)


def test_names_of_an_iterator_are_read_once_and_kept() -> None:
    names: Any = (name for name in ["hidden"])
    small = fxprune.compress(
        tiny(), loader(), flops=0.8, method="magnitude", progress=False, ignore=names
    )
    assert tuple(small.get_parameter("hidden.weight").shape) == (16, 8)
