"""Masked equivalence: a shrunken graph equals the original with zeros where channels went."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_manager import PassManager

from fxprune.capture.batch import make_batch
from fxprune.capture.export import Captured, capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from fxprune.label.keep import keep_all, keep_random
from fxprune.passes import LiftModules, ReduceChannels
from fxprune.plans.plan import Plan, keep_mask_of, make_plan, scatter
from tests.blocks import SIZE
from tests.strategies import BLOCKS, Flat, Pooled, networks, randomized

EXACT = 1e-10
SINGLE = 1e-4
# Shrinking a failure would take minutes: the failing network prints itself.
relaxed = settings(
    phases=(Phase.explicit, Phase.generate),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)


def example(batch: int, seed: int = 0) -> Tensor:
    """Random images, float64."""
    return torch.randn(
        batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def analyzed(model: nn.Module) -> tuple[Captured, Analysis]:
    captured = capture(model, make_batch((example(2),), {}))
    return captured, analyze_graph(captured.graph, 2)


def choose(analysis: Analysis, seed: int, width: int = 0) -> np.ndarray:
    """In each group a random width (or the one given), in each of its blocks a random choice."""
    generator = np.random.default_rng(seed)
    widths = [width or int(generator.integers(1, g.width + 1)) for g in analysis.groups]
    return keep_random(analysis, generator, widths)


def masked(model: nn.Module, small: nn.Module, plan: Plan) -> nn.Module:
    """The original with the small weights scattered back."""
    big = copy.deepcopy(model)
    full, reduced = big.state_dict(), small.state_dict()
    for name in plan.kept:
        full[name].copy_(scatter(reduced[name], plan.shapes[name], plan.kept[name]))
    return big


def distance(expected: Tensor, found: Tensor) -> float:
    assert expected.shape == found.shape
    return float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-30))


def reduced(captured: Captured, analysis: Analysis, keep_mask: np.ndarray) -> GraphModule:
    """The shrunken graph, lifted."""
    small: GraphModule = PassManager([ReduceChannels(analysis, keep_mask), LiftModules()])(
        captured.graph
    ).graph_module
    return small


def prove(model: nn.Module, seed: int, width: int = 0) -> Analysis:
    """Shrink at random; compare in both precisions and at batch sizes that were not traced."""
    captured, analysis = analyzed(model)
    keep_mask = choose(analysis, seed, width)
    small = reduced(captured, analysis, keep_mask)
    plan = make_plan(analysis, keep_mask, model.state_dict(), "random", {})
    assert (keep_mask_of(analysis, Plan.from_json(plan.to_json()))[1:] == keep_mask[1:]).all()
    big = masked(model, small, plan)
    with torch.no_grad():
        for batch in (1, 2, 3):
            assert distance(big(example(batch, batch)), small(example(batch, batch))) <= EXACT
        assert (
            distance(big.float()(example(2).float()), small.float()(example(2).float())) <= SINGLE
        )
    return analysis


@pytest.mark.slow
@settings(relaxed, max_examples=30)
@given(networks(), st.integers(0, 1000))
def test_any_network_keeps_masked_equivalence(model: nn.Module, seed: int) -> None:
    prove(model, seed)


@pytest.mark.parametrize("width", [0, 1])
@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.__name__)
def test_every_construct_shrinks(block: type[nn.Module], width: int) -> None:
    """Each construct alone, between prunable layers, loses channels; all but one of each head
    too.
    """
    torch.manual_seed(0)
    inner = block(8, 4)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), inner, Pooled(inner.out, 4))  # type: ignore[arg-type]
    analysis = prove(randomized(model).double(), seed=3, width=width)
    produced = {
        parameter.split(".")[0] for group in analysis.groups for parameter, _ in group.members
    }
    assert "2" in produced


@settings(relaxed, max_examples=5)
@given(networks())
def test_keeping_everything_returns_the_original(model: nn.Module) -> None:
    captured, analysis = analyzed(model)
    keep_mask = keep_all(analysis)
    same = reduced(captured, analysis, keep_mask)
    assert distance(model(example(3)), same(example(3))) <= EXACT
    assert {n: t.shape for n, t in same.state_dict().items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }


def test_flatten_drops_every_pixel_of_a_channel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), Flat(6, 4)).double().eval()
    captured, analysis = analyzed(model)
    group = next(g for g in analysis.groups if g.name == "0")
    keep_mask = keep_all(analysis)
    keep_mask[group.blocks[0][:2]] = False
    small = ReduceChannels(analysis, keep_mask)(captured.graph).graph_module
    assert small.get_parameter("2.first.weight").shape == (4, 4 * SIZE * SIZE)


@pytest.mark.parametrize("shared", [False, True])
def test_weights_that_stay_whole_lie_where_they_lay_if_asked(shared: bool) -> None:
    layers = nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1)
    captured, analysis = analyzed(nn.Sequential(*layers).double().eval())
    keep_mask = keep_all(analysis)
    group = next(g for g in analysis.groups if g.name == "2")
    keep_mask[group.blocks[0][:2]] = False
    graph = captured.graph
    small = ReduceChannels(analysis, keep_mask, shared)(graph).graph_module
    places = {n: t.untyped_storage().data_ptr() for n, t in graph.state_dict().items()}
    same = {n for n, t in small.state_dict().items() if t.untyped_storage().data_ptr() == places[n]}
    whole = {n for n, t in small.state_dict().items() if t.shape == graph.state_dict()[n].shape}
    assert same == (whole if shared else set())
    assert "0.weight" in whole


class TwoNames(nn.Module):
    """A branch registered under two names, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1))
        self.second = self.first
        self.left, self.right, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(12, 2)
        self.right.weight = self.left.weight

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).mean((2, 3)), self.second(x.flip(3)).mean((2, 3))
        result: Tensor = self.head(torch.cat([self.left(a).relu(), self.right(b).relu()], 1))
        return result


def test_a_weight_under_two_names_is_one_weight() -> None:
    """It shrinks once, under every name, and both layers that share it still share it."""
    torch.manual_seed(0)
    model = TwoNames().double().eval()
    captured, analysis = analyzed(model)
    assert {
        name for name, _ in analysis.axes if name.startswith(("second", "right.weight"))
    } == set()
    keep_mask = choose(analysis, seed=1)
    small = reduced(captured, analysis, keep_mask)
    plan = make_plan(analysis, keep_mask, dict(captured.graph.named_parameters()), "random", {})
    assert distance(masked(model, small, plan)(example(3)), small(example(3))) <= EXACT
    assert small.get_parameter("right.weight") is small.get_parameter("left.weight")
    assert small.get_parameter("second.0.weight") is small.get_parameter("first.0.weight")
    assert small.get_parameter("first.0.weight").shape[0] < 8
