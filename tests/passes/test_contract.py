"""Each breach of the contract of passes is caught, with its own error; passes that keep it compose
in torch's manager.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.infra.pass_manager import PassManager, this_before_that_pass_constraint

from fxprune.errors import (
    DeclarationError,
    FxpruneError,
    PassError,
    PlanError,
    PostconditionError,
    RequirementError,
)
from fxprune.passes import Facts, FunctionalPass, InPlacePass, Pass


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.relu(self.layer(x))
        return out


@pytest.fixture
def module() -> GraphModule:
    torch.manual_seed(0)
    return symbolic_trace(Net())


Change = Callable[[GraphModule], Any]


@dataclass(frozen=True, eq=False)
class InPlace(InPlacePass):
    change: Change

    def call(self, module: GraphModule) -> PassResult:
        found: PassResult = self.change(module)
        return found


@dataclass(frozen=True, eq=False)
class Functional(FunctionalPass):
    change: Change

    def call(self, module: GraphModule) -> PassResult:
        found: PassResult = self.change(module)
        return found


def drop_relu(module: GraphModule) -> None:
    """Edits the graph, and forgets to recompile."""
    (relu,) = (n for n in module.graph.nodes if n.target is torch.relu)
    relu.replace_all_uses_with(relu.args[0])
    module.graph.erase_node(relu)


def edited(module: GraphModule, modified: bool = True) -> PassResult:
    drop_relu(module)
    return PassResult(module, modified)


def copied(module: GraphModule, modified: bool = True) -> PassResult:
    small = copy.deepcopy(module)
    drop_relu(small)
    return PassResult(small, modified)


@pytest.mark.parametrize("step", [InPlace(edited), Functional(copied)], ids=lambda s: s.name)
def test_what_comes_back_runs_its_own_graph(module: GraphModule, step: Pass) -> None:
    """Though neither of the two recompiles."""
    x = torch.randn(16, 4)
    before = module(x)
    result = step(module)
    assert result.modified
    small = result.graph_module
    assert small.code == small.graph.python_code("self").src
    assert "relu" not in small.code
    assert (before < 0).sum() == 0 < (small(x) < 0).sum()
    assert torch.equal(small(x).relu(), before)
    if small is not module:
        assert torch.equal(module(x), before)


def test_a_module_that_is_up_to_date_is_not_compiled_again(
    module: GraphModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(GraphModule, "recompile", lambda self: calls.append(self))
    assert not InPlace(lambda m: PassResult(m, False))(module).modified
    assert not calls


def written(module: GraphModule) -> None:
    with torch.no_grad():
        module.get_parameter("layer.weight").mul_(2)


def replaced(module: GraphModule) -> None:
    layer = module.get_submodule("layer")
    layer.register_parameter("weight", nn.Parameter(torch.zeros(4, 4)))


def resized(module: GraphModule) -> None:
    module.get_parameter("layer.weight").data = torch.zeros(4, 3)


def removed(module: GraphModule) -> None:
    del module.get_submodule("layer")._parameters["bias"]


def added(module: GraphModule) -> None:
    module.register_buffer("extra", torch.zeros(1))


CHANGES: dict[Callable[[GraphModule], None], str] = {
    drop_relu: "the graph reads 'return layer' where it read '%relu",
    written: "layer.weight was written to",
    replaced: "layer.weight is another tensor",
    resized: r"layer.weight has shape \(4, 3\) where it had \(4, 4\)",
    removed: "layer.bias is gone",
    added: "extra is new",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_a_functional_pass_that_changes_its_input(
    module: GraphModule, change: Callable[[GraphModule], None]
) -> None:
    def call(given: GraphModule) -> PassResult:
        small = copy.deepcopy(given)
        change(given)
        return PassResult(small, True)

    with pytest.raises(
        DeclarationError,
        match=f"Functional is declared functional, but changed .*: {CHANGES[change]}.*Change a cop",
    ):
        Functional(call)(module)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_a_pass_that_denies_its_change(
    module: GraphModule, change: Callable[[GraphModule], None]
) -> None:
    def call(given: GraphModule) -> PassResult:
        change(given)
        return PassResult(given, False)

    with pytest.raises(DeclarationError, match=f"changed nothing, but {CHANGES[change]}"):
        InPlace(call)(module)


def test_a_functional_pass_that_denies_its_change(module: GraphModule) -> None:
    with pytest.raises(DeclarationError, match="changed nothing, but the graph reads"):
        Functional(lambda m: copied(m, modified=False))(module)
    assert not Functional(lambda m: PassResult(copy.deepcopy(m), False))(module).modified


def test_a_pass_in_place_that_returns_another(module: GraphModule) -> None:
    with pytest.raises(DeclarationError, match="InPlace is declared in place.*FunctionalPass"):
        InPlace(copied)(module)


def test_a_functional_pass_that_returns_what_it_was_given(module: GraphModule) -> None:
    with pytest.raises(DeclarationError, match="Functional is declared functional.*InPlacePass"):
        Functional(edited)(module)


def test_a_functional_pass_whose_result_shares_a_tensor(module: GraphModule) -> None:
    def call(given: GraphModule) -> PassResult:
        return PassResult(GraphModule(given, copy.deepcopy(given.graph)), False)

    with pytest.raises(DeclarationError, match="shares layer.weight with the module"):
        Functional(call)(module)


@pytest.mark.parametrize("returned", [None, 3, nn.Linear(1, 1), PassResult(nn.Linear(1, 1), True)])
def test_a_pass_that_returns_no_result(module: GraphModule, returned: Any) -> None:
    with pytest.raises(DeclarationError, match=f"returned a {type(returned).__name__}"):
        InPlace(lambda m: returned)(module)


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(RequirementError, match=r"takes a torch\.fx\.GraphModule, not a Net"):
        InPlace(edited)(Net())  # type: ignore[arg-type]


def test_a_graph_that_is_not_well_formed(module: GraphModule) -> None:
    def call(given: GraphModule) -> PassResult:
        with given.graph.inserting_before():
            given.graph.get_attr("nowhere")
        return PassResult(given, True)

    with (
        pytest.warns(UserWarning, match="no underlying reference"),
        pytest.raises(PostconditionError, match="nowhere references nonexistent") as caught,
    ):
        InPlace(call)(module)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "return relu" not in str(caught.value)


@dataclass(frozen=True, eq=False)
class Demanding(InPlacePass):
    """Asks for two things that are not so."""

    required: FxpruneError | None = None
    ensured: FxpruneError | None = None

    def requires(self, module: GraphModule) -> None:
        if self.required:
            raise self.required

    def call(self, module: GraphModule) -> PassResult:
        return edited(module)

    def ensures(self, before: Facts, after: GraphModule) -> None:
        assert "relu" in before.text
        assert "relu" not in str(after.graph)
        if self.ensured:
            raise self.ensured


def test_requirements_and_promises_are_chained(module: GraphModule) -> None:
    reason = PlanError("layer.weight is too large. Slice it.")
    code = module.code
    with pytest.raises(RequirementError, match="Demanding does not take.*layer.weight") as caught:
        Demanding(required=reason)(module)
    assert caught.value.__cause__ is reason
    assert module.code == code
    assert str(module.graph) == str(symbolic_trace(Net()).graph)
    with pytest.raises(PostconditionError, match="Demanding did not give.*layer.weight") as late:
        Demanding(ensured=reason)(module)
    assert late.value.__cause__ is reason


def test_every_failure_is_a_pass_error() -> None:
    for kind in (RequirementError, DeclarationError, PostconditionError):
        assert issubclass(kind, PassError)
        assert issubclass(kind, PlanError)


def test_errors_of_the_change_itself_come_through(module: GraphModule) -> None:
    def call(given: GraphModule) -> PassResult:
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        InPlace(call)(module)


def test_the_manager_of_torch_runs_passes_and_sorts_them(module: GraphModule) -> None:
    order: list[str] = []

    def note(name: str) -> Change:
        def call(given: GraphModule) -> PassResult:
            order.append(name)
            return PassResult(given, False)

        return call

    first, second = InPlace(note("first")), InPlace(note("second"))
    result = PassManager([second, first], [this_before_that_pass_constraint(first, second)])(module)
    assert order == ["first", "second"]
    assert not result.modified
    assert PassManager([first, Functional(copied)])(module).modified


def test_the_manager_of_torch_names_the_pass_that_failed(module: GraphModule) -> None:
    with pytest.raises(Exception, match="running the 'InPlace' pass") as caught:
        PassManager([InPlace(edited), InPlace(lambda m: PassResult(copy.deepcopy(m), True))])(
            module
        )
    assert isinstance(caught.value.__cause__, DeclarationError)


def test_facts_of_inference_tensors() -> None:
    with torch.inference_mode():
        module = symbolic_trace(Net())
        assert not InPlace(lambda m: PassResult(m, False))(module).modified
