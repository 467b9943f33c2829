"""The passes of the pipeline, each alone and all in torch's manager."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.infra.pass_manager import PassManager

from fxprune.capture.batch import make_batch
from fxprune.capture.export import Captured, capture
from fxprune.errors import PostconditionError, RequirementError
from fxprune.graph.nodes import attribute
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from fxprune.label.keep import keep_all, keep_last
from fxprune.label.survivors import Conflict
from fxprune.passes import Factorize, Facts, LiftModules, Pass, ReduceChannels
from fxprune.passes.facts import tensors_of

EXACT: dict[str, Any] = dict(rtol=1e-10, atol=1e-10)


def example(batch: int) -> Tensor:
    return torch.randn(
        batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch), dtype=torch.float64
    )


def captured() -> tuple[Captured, Analysis, np.ndarray]:
    """A graph whose reshape names its channels, with its analysis and a mask that drops some."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Unflatten(1, (4, 2)),
        nn.Flatten(1),
        nn.Linear(512, 6),
        nn.Dropout(0.5),
        nn.Linear(6, 4),
    )
    found = capture(model.double().eval(), make_batch((example(2),), {}))
    analysis = analyze_graph(found.graph, 2)
    orders, widths = zip(*((g.blocks, g.width - 1) for g in analysis.groups), strict=True)
    return found, analysis, keep_last(analysis, orders, widths)


def runs_its_graph(module: GraphModule) -> bool:
    interpreted = torch.fx.Interpreter(module).run(example(3))
    return module.code == module.graph.python_code("self").src and torch.equal(
        module(example(3)), interpreted
    )


def split(module: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """Factors of a linear weight at full rank."""
    weight = attribute(module, name).detach()
    return torch.eye(weight.shape[1], dtype=weight.dtype), weight


def test_all_three_in_the_manager() -> None:
    found, analysis, keep_mask = captured()
    before = found.graph(example(3))
    alone = ReduceChannels(analysis, keep_mask)(found.graph).graph_module
    factors = {"7.weight": split(alone, "7.weight")}
    chain = [ReduceChannels(analysis, keep_mask), Factorize(factors), LiftModules()]
    result = PassManager([*chain])(found.graph)
    small = result.graph_module
    assert result.modified
    assert runs_its_graph(small)
    torch.testing.assert_close(small(example(3)), alone(example(3)), **EXACT)
    assert torch.equal(found.graph(example(3)), before)
    layers = [type(small.get_submodule(p)).__name__ for p in ("0", "1", "5", "6", "7.0", "7.1")]
    assert layers == ["Conv2d", "BatchNorm2d", "Linear", "Dropout", "Linear", "Linear"]


@pytest.mark.parametrize("checked", [True, False])
def test_reduced_channels_never_run_old_code(checked: bool) -> None:
    """Shape arguments change with the channels: the old code would fail, or give another shape."""
    found, analysis, keep_mask = captured()
    step = ReduceChannels(analysis, keep_mask)
    result = (step if checked else step.call)(found.graph)
    small = result.graph_module
    assert result.modified
    assert str(small.graph) != str(found.graph.graph)
    assert small.code != found.graph.code
    assert runs_its_graph(small)


def test_keeping_everything_modifies_nothing() -> None:
    found, analysis, _ = captured()
    keep_mask = keep_all(analysis)
    result = ReduceChannels(analysis, keep_mask)(found.graph)
    assert not result.modified
    assert result.graph_module is not found.graph
    assert torch.equal(result.graph_module(example(3)), found.graph(example(3)))


def test_lifting_and_factorizing_twice_modify_once() -> None:
    graph = captured()[0].graph
    assert not Factorize({})(graph).modified
    assert Factorize({"7.weight": split(graph, "7.weight")})(graph).modified
    assert LiftModules()(graph).modified
    facts = Facts.of(graph)
    assert not LiftModules()(graph).modified
    assert facts.difference(Facts.of(graph)) == ""


def test_channels_are_reduced_by_the_graphs_own_analysis_only() -> None:
    found, analysis, keep_mask = captured()
    with pytest.raises(RequirementError, match=r"keep mask is bool of shape \(3,\)"):
        ReduceChannels(analysis, keep_mask[:3])(found.graph)
    with pytest.raises(RequirementError, match="keep mask is int64"):
        ReduceChannels(analysis, keep_mask.astype(int))(found.graph)
    other = capture(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid()).double(), make_batch((example(2),), {})
    )
    with pytest.raises(RequirementError, match="sigmoid is not in the analysis"):
        ReduceChannels(analysis, keep_mask)(other.graph)


def test_channels_that_do_not_fit_together_are_refused() -> None:
    found, analysis, keep_mask = captured()
    (group,) = (g for g in analysis.groups if len(g.blocks) > 1)
    keep_mask[group.blocks] = True
    keep_mask[group.blocks[0, 0]] = False  # of one block only
    with pytest.raises(RequirementError, match="ReduceChannels does not take this graph") as caught:
        ReduceChannels(analysis, keep_mask)(found.graph)
    assert isinstance(caught.value.__cause__, Conflict)


@pytest.mark.parametrize("name", ["7.bias", "1.weight", "nowhere.weight", "weight"])
def test_what_is_not_a_layers_own_weight_is_not_factorized(name: str) -> None:
    graph = captured()[0].graph
    code, tensors = graph.code, tensors_of(graph)
    with pytest.raises(RequirementError, match=f"{name} is not the weight of one layer"):
        Factorize({name: (torch.ones(2, 6), torch.ones(4, 2))})(graph)
    assert graph.code == code
    assert tensors_of(graph).keys() == tensors.keys()


class Forgetful(ReduceChannels):
    """Leaves a parameter as it was."""

    def call(self, module: GraphModule) -> PassResult:
        result = super().call(module)
        wide = nn.Parameter(attribute(module, "5.bias").detach().clone())
        result.graph_module.get_submodule("5").register_parameter("bias", wide)
        return result


class Renaming(LiftModules):
    """Gives a lifted layer another tensor."""

    def call(self, module: GraphModule) -> PassResult:
        result = super().call(module)
        other = nn.Parameter(torch.zeros(4, dtype=torch.float64))
        module.get_submodule("7").register_parameter("bias", other)
        return result


class Half(Factorize):
    """Loses a bias."""

    def call(self, module: GraphModule) -> PassResult:
        result = super().call(module)
        fresh = nn.Parameter(torch.zeros(4, dtype=torch.float64))
        module.get_submodule("7.1").register_parameter("bias", fresh)
        return result


def test_each_pass_notices_when_it_breaks_its_promise() -> None:
    found, analysis, keep_mask = captured()
    broken: dict[Pass, str] = {
        Forgetful(analysis, keep_mask): r"5.bias has shape \(6,\) where \(5,\) survives",
        Half({"7.weight": split(found.graph, "7.weight")}): "7.bias is not the tensor it was",
    }
    for step, words in broken.items():
        with pytest.raises(PostconditionError, match=words):
            step(captured()[0].graph)
    with pytest.raises(PostconditionError, match="7.bias is not the tensor it was"):
        Renaming()(captured()[0].graph)


class Adding(LiftModules):
    """Leaves a tensor that nobody asked for."""

    def call(self, module: GraphModule) -> PassResult:
        result = super().call(module)
        module.get_submodule("7").register_buffer("spare", torch.zeros(1))
        return result


def test_a_lifted_layer_has_new_tensors_for_counting_only() -> None:
    graph = captured()[0].graph
    del graph.get_submodule("1")._buffers["num_batches_tracked"]
    assert LiftModules()(graph).modified
    counter = graph.get_buffer("1.num_batches_tracked")
    assert (counter.device.type, counter.item()) == ("cpu", 0)
    with pytest.raises(PostconditionError, match="7.spare is a tensor that the graph did not have"):
        Adding()(captured()[0].graph)
