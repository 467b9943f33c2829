"""Models and data that are unusual, not wrong: they work, or say what to do before any work."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import (
    ArgumentError,
    BudgetError,
    CalibrationError,
    CaptureError,
    PlanError,
    UnsupportedError,
)
from fxprune.options import Options
from fxprune.plans.budget import Budget
from tests.nets import Net, images, tiny

FAST: dict[str, Any] = {"flops": 0.6, "method": "magnitude", "progress": False}


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)
    )


def vectors(*counts: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 8, generator=generator) for count in counts]


def check_masked(model: nn.Module, small: nn.Module, *args: Any) -> None:
    with torch.no_grad():
        full = fxprune.masked(model, small)
        torch.testing.assert_close(full(*args), small(*args), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_depthwise_layers_of_several_outputs_are_factored() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3, groups=32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)),
    ).eval()
    small = fxprune.compress(model, images(64), flops=0.5, progress=False)
    assert fxprune.report(small).flops[1] <= 0.5 * fxprune.report(small).flops[0]
    check_masked(model, small, images(5))
    small = fxprune.factorize(model, images(64), params=0.8, method="svd", progress=False)
    check_masked(model, small, images(5))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_few_examples_suffice(count: int) -> None:
    small = fxprune.compress(tiny(), images(count), flops=0.6, progress=False)
    check_masked(tiny(), small, images(5))


class Nested(nn.Module):
    """Takes a pair and a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, pair: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        a, b = pair
        result: Tensor = self.second((self.first(a) + self.first(b)).relu()) + y
        return result


def test_nested_inputs() -> None:
    torch.manual_seed(0)
    model = Nested().eval()
    a, b = vectors(16, 16)
    small = fxprune.compress(model, [((a, b), torch.ones(16, 4))] * 3, **FAST)
    check_masked(model, small, (a, b), torch.ones(16, 4))


def test_names_that_are_keywords_are_refused_by_name() -> None:
    model = Net(lambda s, x: s.heads["class"](x), heads=nn.ModuleDict({"class": nn.Linear(8, 4)}))
    with pytest.raises(UnsupportedError, match=r"^heads holds a module under the name 'class'.*'"):
        fxprune.compress(model, vectors(16), **FAST)


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, vectors(2))])
def test_scripted_modules_are_refused(make: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"^The model is a scripted or traced"):
        fxprune.compress(make(mlp()), vectors(16), **FAST)
    whole = nn.Sequential(make(mlp()), nn.Linear(4, 4))
    with pytest.raises(UnsupportedError, match=r"^0 is a scripted or traced"):
        fxprune.compress(whole, vectors(16), **FAST)


def test_models_that_cannot_be_copied_are_refused() -> None:
    model = mlp()
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(CaptureError, match=r"cannot be copied .*lock.* out of the module"):
        fxprune.compress(model, vectors(16), **FAST)


def test_dicts_with_other_keys_are_refused_by_key() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            result: Tensor = self.net(x) + (0 if y is None else y)
            return result

    full, part = {"x": vectors(8)[0], "y": torch.ones(8, 4)}, {"x": vectors(8)[0]}
    with pytest.raises(CalibrationError, match=r"from example 8 .*\['x'\].*\['x', 'y'\]"):
        fxprune.compress(Two(), [full, part], **FAST)
    with pytest.raises(CalibrationError, match=r"from example 8 .*\['x', 'y'\].*\['x'\]"):
        fxprune.compress(Two(), [part, full], **FAST)


def test_empty_batches_are_skipped() -> None:
    small = fxprune.compress(mlp(), vectors(0, 16, 0, 16), **FAST)
    plain = fxprune.compress(mlp(), [t for t in vectors(0, 16, 0, 16) if len(t)], **FAST)
    assert torch.equal(small(vectors(4)[0]), plain(vectors(4)[0]))


@pytest.mark.slow
def test_the_callers_modes_of_arithmetic_do_not_matter() -> None:
    wanted = fxprune.compress(tiny(), images(64), flops=0.6, progress=False)
    for mode in (torch.autocast("cpu", torch.bfloat16), torch.no_grad(), torch.inference_mode()):
        with mode:
            small = fxprune.compress(tiny(), images(64), flops=0.6, progress=False)
            assert torch.is_autocast_enabled("cpu") == isinstance(mode, torch.autocast)
        assert fxprune.plan_of(small).kept == fxprune.plan_of(wanted).kept
        with torch.no_grad():
            assert torch.equal(small(images(5)), wanted(images(5)))


@pytest.mark.slow
@pytest.mark.parametrize("given", [True, False])
def test_transformers_with_a_causal_mask(given: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
            self.head = nn.Linear(16, 4)

        def forward(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
            if mask is None:
                mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
            result: Tensor = self.head(self.body(source, target, tgt_mask=mask))
            return result

    torch.manual_seed(0)
    model = Model().eval()
    batch = {"source": torch.randn(16, 5, 16), "target": torch.randn(16, 6, 16)}
    if given:
        batch["mask"] = nn.Transformer.generate_square_subsequent_mask(6)
    small = fxprune.compress(model, [batch] * 2, flops=0.9, method="magnitude", progress=False)
    check_masked(model, small, *batch.values())


def test_a_branch_on_the_batch_size_bounds_the_result() -> None:
    model = Net(lambda s, x: s.net(x) if len(x) <= 10 else s.net(x) + 1, net=mlp())
    small = fxprune.compress(model, vectors(25, 25), **FAST)
    assert "the model does something else on more than 10 examples in one call" in (
        fxprune.report(small).notes
    )
    check_masked(model, small, *vectors(10))
    with pytest.raises(ArgumentError, match=r"^x holds 11 examples: .* more than 10 in one call"):
        small(*vectors(11))


def test_a_bound_on_examples_holds_for_what_has_rows_beside_what_has_none() -> None:
    net = mlp()
    model = Net(lambda s, x: s.net(x[0]) * x[1] if len(x[0]) <= 10 else s.net(x[0]), net=net)
    data = [{"x": (x, torch.ones(1))} for x in vectors(25, 25)]
    small = fxprune.compress(model, data, **FAST)
    small(x=(vectors(10)[0], torch.ones(1)))
    with pytest.raises(ArgumentError, match=r"^x holds 11 examples: .* more than 10 in one call"):
        small(x=(vectors(11)[0], torch.ones(1)))


def test_kernels_that_are_chosen_by_size_bound_nothing() -> None:
    """torch.cdist takes another one from 26 rows on."""
    net = mlp()
    model = Net(lambda s, x: torch.cdist(s.net(x), torch.ones(5, 4)), net=net)
    small = fxprune.compress(model, vectors(*[40] * 4), decision="close", **FAST)
    assert fxprune.report(small).notes == ()
    check_masked(model, small, *vectors(200))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"seed": "a"}, BudgetError, "seed='a': a seed is a whole number"),
        ({"seed": -1}, BudgetError, "seed=-1: a seed is a whole number"),
        ({"seed": 1.5}, BudgetError, "seed=1.5: a seed is a whole number"),
        ({"memory": "1 GB"}, BudgetError, "memory='1 GB': give a number of bytes"),
        ({"memory": float("nan")}, BudgetError, "memory=nan: give a number of bytes"),
        ({"keep": 0.5}, PlanError, "keep=0.5: give the least share"),
        ({"keep": {"0": "a"}}, PlanError, r"keep\['0'\]='a': give the least share"),
        ({"workload": 8}, BudgetError, "workload=8: give a fxprune.Workload"),
        ({"ignore": 3}, PlanError, "ignore=3: give names"),
        ({"selector": ["magnitude"]}, UnsupportedError, "selector="),
        ({"effort": True}, BudgetError, "effort=True"),
    ],
)
def test_options_of_the_wrong_kind(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        Options(**wrong)


@pytest.mark.parametrize("number", [np.float64, np.array, torch.tensor])
def test_scalars_of_arrays_and_tensors_are_numbers(number: Any) -> None:
    assert Budget(flops=number(0.5)) == Budget(flops=0.5)
    count: Any = np.int64 if number is np.float64 else number
    wanted = Options(seed=3, effort=2, round_to=4, memory=1e9, keep={"0": 0.5})
    given = Options(
        seed=count(3),
        effort=count(2),
        round_to=count(4),
        memory=number(1e9),
        keep={"0": number(0.5)},
    )
    assert given == wanted
