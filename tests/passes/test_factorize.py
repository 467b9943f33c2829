"""Two layers in one's place compute what their merged weight does."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.errors import PlanError
from fxprune.fit.factor import factorize_layers
from fxprune.graph.nodes import attribute
from fxprune.handover.masked import merge_factors
from fxprune.label.layers import factorable
from fxprune.passes import Factorize, LiftModules
from fxprune.plans.factoring import Factoring
from fxprune.plans.plan import Plan
from tests.tensors import EXACT, distance, normal


class Alone(nn.Module):
    """One layer behind another, so that it has a name of its own."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.tanh(self.layer(x))
        return out


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 8), (6,)),
    "linear on tokens": (nn.Linear(6, 8, bias=False), (5, 6)),
    "1-D": (nn.Conv1d(6, 8, 3, stride=2, padding=1), (6, 9)),
    "1 x 1": (nn.Conv2d(6, 8, 1, stride=2), (6, 7, 7)),
    "2-D": (nn.Conv2d(6, 8, (3, 5), stride=(2, 1), padding=(1, 2), bias=False), (6, 9, 8)),
    "dilated": (nn.Conv2d(6, 8, 3, padding="same", dilation=2), (6, 9, 8)),
    "valid": (nn.Conv2d(6, 8, (1, 3), padding="valid"), (6, 9, 8)),
    "grouped": (nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2), (8, 9, 8)),
    "3-D": (
        nn.Conv3d(6, 8, 3, stride=(2, 1, 2), padding=(0, 1, 2), dilation=(1, 2, 1)),
        (6, 7, 8, 6),
    ),
}


def captured(kind: str) -> tuple[nn.Module, GraphModule, Tensor]:
    torch.manual_seed(0)
    layer, shape = LAYERS[kind]
    model = Alone(copy.deepcopy(layer)).double().eval()
    x = normal(2, *shape)
    return model, capture(model, make_batch((x,), {})).graph, x


FORMS = {"kernel first": (1, False), "separable": (1, True), "encoders": (2, False)}


KINDS = [
    (kind, form)
    for kind in LAYERS
    for form in FORMS
    if "linear" not in kind or form == "kernel first"
]
"""A linear layer has no kernel to separate and no grouped form."""


@pytest.mark.parametrize(("kind", "form"), KINDS, ids=lambda v: v)
def test_two_layers_equal_their_merged_weight(kind: str, form: str) -> None:
    """At full rank the original's outputs; below, those of the original with the factors
    multiplied back.
    """
    model, graph, x = captured(kind)
    weight, (encoders, separable) = attribute(model, "layer.weight"), FORMS[form]
    groups = getattr(model.layer, "groups", 1)
    largest = Factoring(1, groups, encoders, separable).largest(tuple(weight.shape))
    for rank in (largest, 2):
        how = Factoring(rank, groups, encoders, separable)
        factorized = factorize_layers(copy.deepcopy(graph), {"layer.weight": how})
        small = LiftModules()(factorized).graph_module
        assert {n for n, _ in small.named_parameters()} == {"layer.0.weight", "layer.1.weight"} | (
            {"layer.1.bias"} if getattr(model.layer, "bias", None) is not None else set()
        )
        assert type(small.get_submodule("layer.1")) is type(model.layer)
        full = copy.deepcopy(model)
        plan = Plan({}, {"layer.weight": tuple(weight.shape)}, {}, factorings={"layer.weight": how})
        full.load_state_dict(merge_factors(small.state_dict(), plan))
        with torch.no_grad():
            assert distance(full(x), small(x)) <= EXACT
            if rank == largest:
                assert distance(model(x), small(x)) <= EXACT


def test_the_pass_refuses_what_is_not_one_layers_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(torch.relu(self.layer(x)))
            return out

    graph = capture(Twice(), make_batch((torch.randn(2, 4),), {})).graph
    found, others = factorable(graph, lambda name: False)
    assert not found
    assert others == {"layer.weight": "several calls share it"}
    with pytest.raises(PlanError, match="layer.weight is not the weight of one layer"):
        Factorize({"layer.weight": (torch.ones(2, 4), torch.ones(4, 2))})(graph)
