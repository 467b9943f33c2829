"""`auto` mixes channels where they meet no nonlinearity: what it keeps, and what carries it."""

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.allocate.allocation import allocate
from fxprune.errors import PlanError
from fxprune.fit.build import trial_error
from fxprune.label.keep import keep_all
from fxprune.plans.budget import make_budget
from fxprune.plans.plan import Plan
from fxprune.timing.latency_target import MeasuredWidths
from tests.nets import session_of
from tests.rotations import HEADS, NETS, WIDTH, convolutions, examples, fused, grouped, separate

RANK = 3
"""Of the products of the attention below; its heads have 8 channels."""
SMALL = WIDTH // HEADS


def low_rank(rank: int = RANK, seed: int = 0) -> nn.Module:
    """Attention of which the products have this rank in each head, and nothing else does."""
    torch.manual_seed(seed)
    net: Any = separate()

    def made(*shape: int) -> Tensor:
        numbers: Tensor = torch.randn(shape) / shape[-1] ** 0.5
        return numbers

    with torch.no_grad():
        for head in range(HEADS):
            own = slice(head * SMALL, (head + 1) * SMALL)
            net.out.weight[:, own] = 3 * made(WIDTH, rank) @ made(rank, SMALL)
            inner = made(SMALL, rank) @ made(rank, SMALL)
            net.q.weight[own] = 4 * inner @ made(SMALL, WIDTH)
            net.k.weight[own] = 2 * made(SMALL, WIDTH)
            net.q.bias[own] = 0
    net.eval()
    result: nn.Module = net
    return result


def compressed(net: nn.Module, x: Tensor, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fxprune.compress(net, x, progress=False, **options)


@pytest.fixture(scope="module")
def result() -> tuple[nn.Module, Tensor, Any]:
    net, x = low_rank(), examples(separate, 400).float()
    return net, x, compressed(net, x, flops=0.5)


def test_products_of_low_rank_cost_nothing(result: tuple[nn.Module, Tensor, Any]) -> None:
    """No selection of channels could: every channel of the heads is read, and none repeats."""
    _, _, small = result
    plan, agreement = fxprune.plan_of(small), fxprune.report(small).agreement
    assert set(plan.rotations) == {"q", "v"}
    assert max(plan.widths["q"], plan.widths["v"]) < SMALL
    assert agreement is not None
    assert agreement.error < 1e-6
    selected = compressed(*result[:2], flops=0.5, method="paper")
    other = fxprune.report(selected).agreement
    assert other is not None
    assert other.error > 100 * agreement.error


def test_the_best_selection_errs_more(result: tuple[nn.Module, Tensor, Any]) -> None:
    """At equal widths, one for queries and keys and one for values."""
    net, x, small = result
    widths = fxprune.plan_of(small).widths
    session = session_of(net, x)
    errors = []
    rotated = session.rotated
    assert rotated is not None
    for each in (session, rotated):
        profiles = each.statistics.profiles("output-aware")
        keep_mask = keep_all(each.analysis)
        for group, profile in zip(each.analysis.groups, profiles, strict=True):
            dropped = profile.order[:, : group.width - widths[group.name]]
            keep_mask[dropped.reshape(-1)] = False
        errors.append(trial_error(each, keep_mask))
    assert errors[1] < 0.01 * errors[0]


def test_zeros_in_new_coordinates_are_the_same_model(
    result: tuple[nn.Module, Tensor, Any],
) -> None:
    net, x, small = result
    with torch.no_grad():
        torch.testing.assert_close(fxprune.masked(net, small)(x), small(x), atol=1e-5, rtol=1e-4)


def test_the_report_says_rotated(result: tuple[nn.Module, Tensor, Any]) -> None:
    report = fxprune.report(result[2])
    assert {row.name for row in report.groups if row.rotated} == {"q", "v"}
    assert "q (rotated)" in str(report)
    assert type(report).from_json(report.to_json()).groups == report.groups


def test_a_plan_is_json_and_applies_again(result: tuple[nn.Module, Tensor, Any]) -> None:
    net, x, small = result
    plan = fxprune.plan_of(small)
    read = Plan.from_json(plan.to_json())
    assert read == plan
    # The first coordinates stay.
    assert plan.kept["v.weight"][0] == [
        head * SMALL + i for head in range(HEADS) for i in range(plan.widths["v"])
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = fxprune.apply(net, read, x, progress=False)
    assert not any("found anew" in note for note in fxprune.report(again).notes)
    with torch.no_grad():
        torch.testing.assert_close(again(x), small(x))


def test_another_checkpoint_gets_coordinates_of_its_own(
    result: tuple[nn.Module, Tensor, Any],
) -> None:
    plan, x = fxprune.plan_of(result[2]), result[1]
    other = low_rank(seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = fxprune.apply(other, plan, x, progress=False)
    assert any("found anew" in note for note in fxprune.report(small).notes)
    found = fxprune.plan_of(small)
    assert found.widths == plan.widths
    assert found.rotations["v"].digest != plan.rotations["v"].digest
    with torch.no_grad():
        torch.testing.assert_close(fxprune.masked(other, small)(x), small(x), atol=1e-5, rtol=1e-4)


def test_a_plan_that_rotates_what_meets_a_nonlinearity_is_refused(
    result: tuple[nn.Module, Tensor, Any],
) -> None:
    net, x, small = result
    plan = fxprune.plan_of(small)

    class Bent(nn.Module):
        """The same, with an activation after the values."""

        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out, self.head = (
                getattr(net, name) for name in ("q", "k", "v", "out", "head")
            )

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                y.view(*x.shape[:2], HEADS, -1).transpose(1, 2)
                for y in (self.q(x), self.k(x), torch.relu(self.v(x)))
            )
            weights = (q @ k.transpose(-1, -2) * SMALL**-0.5).softmax(-1)
            logits: Tensor = self.head(
                (x + self.out((weights @ v).transpose(1, 2).flatten(2))).mean(1)
            )
            return logits

    with pytest.raises(PlanError, match=r"rotated channels of v.*aten.relu.*fxprune.plan"):
        fxprune.apply(Bent().eval(), plan, x, progress=False)


def test_a_saved_model_is_the_model(result: tuple[nn.Module, Tensor, Any], tmp_path: Path) -> None:
    _, x, small = result
    fxprune.save(small, tmp_path / "small.fxprune")
    loaded = fxprune.load(tmp_path / "small.fxprune")
    assert fxprune.plan_of(loaded).rotations == fxprune.plan_of(small).rotations
    with torch.no_grad():
        assert torch.equal(loaded(x), small(x))


@pytest.mark.slow
def test_training_goes_on_from_it(result: tuple[nn.Module, Tensor, Any]) -> None:
    """Features of rotated layers are no features of the original."""
    pytest.importorskip("accelerate")
    net, x, small = result
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        better = fxprune.recover(small, net, x, steps=4, progress=False)
    assert fxprune.plan_of(better).rotations == fxprune.plan_of(small).rotations


@pytest.mark.parametrize("method", ["uniform", "paper", "paper-uniform", "magnitude"])
def test_other_methods_select(method: str) -> None:
    net, x = low_rank(), examples(separate, 200).float()
    assert not fxprune.plan_of(compressed(net, x, flops=0.8, method=method)).rotations


@pytest.mark.slow
@pytest.mark.parametrize("make", [fused, grouped, convolutions], ids=lambda m: m.__name__)
def test_dropped_coordinates_are_exact_in_every_form(make: Any) -> None:
    torch.manual_seed(1)
    net, x = make().double().eval(), examples(make, 300)
    rotated = session_of(net, x).rotated
    assert rotated is not None
    plan = fxprune.plan_of(compressed(net, x, flops=0.6))
    small = compressed(net, x, flops=0.6)
    with torch.no_grad():
        torch.testing.assert_close(rotated.graph.forward(x), net(x), atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(fxprune.masked(net, small)(x), small(x), atol=1e-9, rtol=1e-9)
    assert plan == fxprune.plan_of(small)


def test_the_scale_of_attention_stays_that_of_the_original() -> None:
    """Fewer channels of a head do not sharpen its scores."""
    torch.manual_seed(0)
    net, x = fused().eval(), examples(fused, 300).float()
    small = compressed(net, x, flops=0.5)
    scales = [
        node.kwargs.get("scale")
        for node in small.graph.nodes
        if "scaled_dot_product" in str(node.target)
    ]
    assert scales == [pytest.approx(SMALL**-0.5)]


def test_weights_of_half_precision_are_rotated_too() -> None:
    net, x = low_rank().to(torch.bfloat16), examples(separate, 200).to(torch.bfloat16)
    small = compressed(net, x, flops=0.6)
    assert set(fxprune.plan_of(small).rotations) == {"q", "v"}
    assert {t.dtype for t in small.state_dict().values()} == {torch.bfloat16}
    agreement = fxprune.report(small).agreement
    assert agreement is not None
    assert agreement.error < 1e-3


def test_networks_of_activations_are_left_as_they_are() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
                        nn.Linear(128, 4)).eval()  # fmt: skip
    x = torch.randn(200, 3, 8, 8)
    assert session_of(net, x).rotated is None
    plan = fxprune.plan_of(compressed(net, x, flops=0.6))
    assert not plan.rotations
    assert '"version": 2' in plan.to_json()
    assert "rotations" not in plan.to_json()


@pytest.mark.slow
def test_layers_become_two_beside_rotations() -> None:
    """Ranks are chosen and fitted on the rotated graph."""
    net, x = low_rank(), examples(separate, 400).float()
    small = compressed(net, x, flops=0.6, effort=6)
    plan = fxprune.plan_of(small)
    again = fxprune.factorize(small, x, flops=0.9, progress=False)
    assert plan.rotations
    assert fxprune.plan_of(again).factorings
    with torch.no_grad():
        torch.testing.assert_close(fxprune.masked(net, small)(x), small(x), atol=1e-4, rtol=1e-3)


def test_under_a_latency_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes so long; here what is predicted is taken for measured."""

    def met(ratio: Any, target: float, smallest: Any, predict: Any, scale: Any, *more: Any) -> Any:
        return MeasuredWidths(scale(target), target, target)

    monkeypatch.setattr("fxprune.allocate.allocation.meet_latency", met)
    monkeypatch.setattr(
        "fxprune.session.fit_call_seconds", lambda graph, analysis, *_: analysis.costs
    )
    net, x = low_rank(), examples(separate, 300).float()
    session = session_of(net, x, budget=make_budget(latency=0.6))
    allocation = allocate(session, {"latency": 0.6})
    assert set(allocation.plan.rotations) == {"q", "v"}
    assert allocation.session is session.rotated
    assert "measured" in allocation.plan.settings


@pytest.mark.slow
def test_the_page_runs() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "rotation.md"
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S):
            exec(compile(block, page.name, "exec"), names)
    assert names["plan"].rotations


@pytest.mark.slow
def test_every_form_is_a_rotation_or_says_why() -> None:
    for make in NETS:
        analysis = fxprune.analyze(make().eval(), examples(make, 2).float())
        assert analysis.rotatable
        assert all(dataclasses.asdict(analysis)["unmixed"].values())
