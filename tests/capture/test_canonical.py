"""The canonical form of a trace: the same function, nothing in place, one name per tensor."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule
from torch.nn.utils.parametrizations import weight_norm

from fxprune.capture.batch import make_batch
from fxprune.capture.export import Captured, capture
from fxprune.capture.functional import make_functional, mutates, plain_inplace
from fxprune.errors import CaptureError
from fxprune.graph.operators import operator_name
from tests.nets import Net

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def captured(net: nn.Module, x: Tensor = X) -> Captured:
    """Capture, and insist that the graph computes what the model does and leaves its input."""
    torch.manual_seed(0)
    net.eval()
    given = x.clone()
    result = capture(net, make_batch((x.clone(),), {}))
    with torch.no_grad():
        assert torch.equal(result.graph(given), copy.deepcopy(net)(x.clone()))
    assert torch.equal(given, x)
    return result


def operators(graph: GraphModule) -> list[str]:
    return [operator_name(n.target) for n in graph.graph.nodes if n.op == "call_function"]


def read(graph: GraphModule) -> list[str]:
    return [str(n.target) for n in graph.graph.nodes if n.op == "get_attr" and n.users]


def add_into(s: Any, x: Tensor) -> Tensor:
    y: Tensor = s.a(x)
    y += 1
    y *= 2
    return y.relu_()


def write_into_a_view(s: Any, x: Tensor) -> Tensor:
    y: Tensor = s.a(x)
    y[:, :2].mul_(3)
    return y + 1


def write_and_read_before(s: Any, x: Tensor) -> Tensor:
    y: Tensor = s.a(x)
    z = y.view(-1)
    y.add_(1)
    return z.sum() + y


def write_into_the_input(s: Any, x: Tensor) -> Tensor:
    y = x.mul_(2)
    return s.a(y)  # type: ignore[no-any-return]


def write_into_an_input_with_a_view(s: Any, x: Tensor) -> Tensor:
    y = x.view(-1, 2)
    x.mul_(2)
    return s.a(x) + y.sum()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "forward", [add_into, write_into_a_view, write_and_read_before, write_into_the_input]
)
def test_in_place_calls_become_functional(forward: Callable[..., Any]) -> None:
    graph = captured(Net(forward, a=nn.Linear(4, 4))).graph
    assert not any(mutates(node) for node in graph.graph.nodes)


def test_only_an_operand_that_nobody_reads_afterwards_is_plain() -> None:
    def inplace(forward: Callable[..., Any]) -> list[bool]:
        program = torch.export.export(Net(forward, a=nn.Linear(4, 4)).eval(), (X.clone(),))
        return [plain_inplace(n) for n in program.module().graph.nodes if mutates(n)]

    with torch.no_grad():
        assert inplace(lambda s, x: s.a(x).relu_()) == [True]
        assert inplace(lambda s, x: s.a(x).view(-1).relu_()) == [True]
        assert inplace(write_into_the_input) == [True]
        # Under another name it is read afterwards.
        assert inplace(write_into_an_input_with_a_view) == [False]
        assert inplace(write_into_a_view) == [False]
        assert inplace(write_and_read_before) == [False]


@pytest.mark.parametrize(
    "forward",
    [lambda s, x: s.a(s.a(x).gt_(0)), lambda s, x: s.a(s.a(x).mul_(torch.ones(4).double()))],
    ids=["compares", "wider"],
)
def test_in_place_calls_keep_the_type_of_their_operand(forward: Callable[..., Any]) -> None:
    net = Net(forward, a=nn.Linear(4, 4)).eval()
    with torch.no_grad():
        assert torch.equal(captured(net).graph(X), net(X))


def test_an_in_place_call_that_cannot_be_rewritten_is_said() -> None:
    net = Net(lambda s, x: s.a(s.a(x).abs().polygamma_(1)), a=nn.Linear(4, 4)).eval()
    with pytest.raises(CaptureError, match="changes a tensor in place"):
        captured(net)


class Scaled(nn.Module):
    """Numbers that are read from buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.size: Tensor
        self.register_buffer("size", torch.tensor(2))
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        size = int(self.size.item()) + 1
        y: Tensor = self.a(x)
        return y * size + 1 / size


def test_numbers_become_numbers() -> None:
    graph = captured(Scaled()).graph
    assert not {"aten.item", "aten._local_scalar_dense"} & set(operators(graph))
    assert "size" not in read(graph)


class Resized(Scaled):
    """Numbers that meet a size of the input, and one that fills a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        size = int(self.size.item())
        y: Tensor = self.a(x)
        return y.reshape(x.shape[0] * size, -1) * torch.full((2,), float(size))


def test_numbers_beside_sizes_and_in_tensors() -> None:
    graph = captured(Resized()).graph
    assert "size" not in read(graph)
    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert graph(rows).shape == (10, 2)


def test_guards_are_dropped_and_other_modules_stay() -> None:
    root, graph = nn.Module(), Graph()
    root.add_module("_guards_fn", nn.Identity())
    root.add_module("layer", nn.Linear(4, 4))
    x = graph.placeholder("x")
    graph.call_module("_guards_fn", (x,))
    graph.output(graph.call_module("layer", (x,)))
    module = GraphModule(root, graph)
    make_functional(module)
    assert [n.target for n in module.graph.nodes if n.op == "call_module"] == ["layer"]


def test_random_numbers_are_no_constants() -> None:
    graph = captured(Net(lambda s, x: s.a(x) + torch.zeros(4), a=nn.Linear(4, 4))).graph
    assert "aten.zeros" in operators(graph)


def test_computed_weights_become_parameters() -> None:
    torch.manual_seed(0)
    normed: Any = weight_norm(nn.Linear(4, 6))
    found = captured(nn.Sequential(normed, nn.ReLU(), nn.Linear(6, 2)))
    assert read(found.graph).count("0.weight") == 1
    assert isinstance(found.graph.get_parameter("0.weight"), nn.Parameter)
    assert torch.equal(found.graph.get_parameter("0.weight"), normed.weight)
    assert found.notes[0] == ("0.weight: its parametrization is folded into the weight")


def test_weights_that_are_only_moved_stay_what_they_were() -> None:
    moved = Net(lambda s, x: torch.nn.functional.linear(x, s.a.weight.t()), a=nn.Linear(4, 4))
    found = captured(moved)
    assert "a.weight" in read(found.graph)
    assert not any("folded" in note for note in found.notes)


def test_a_shared_tensor_is_read_under_one_name() -> None:
    net = Net(lambda s, x: s.b(s.a(x)), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    net.get_submodule("b").register_parameter("weight", net.get_parameter("a.weight"))
    assert read(captured(net).graph).count("b.weight") == 0
    graph = captured(Net(lambda s, x: s.a(s.a(x)), a=nn.Linear(4, 4))).graph
    assert set(read(graph)) == {"a.weight", "a.bias"}


def without_gradients(s: Any, x: Tensor) -> Any:
    with torch.no_grad():
        y = s.a(x)
    return s.b(y)


def without_autocast(s: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", enabled=False):
        y, z = s.a(x), s.b(x)
    return y * z


def with_autocast(s: Any, x: Tensor) -> Any:
    """Operands of other types, lists of them, and a region without autocast within."""
    with torch.autocast("cpu", torch.bfloat16):
        y = s.a(x)
        z = torch.cat([y, y.float()], 1)[:, 2:6] + y.softmax(1)
        with torch.autocast("cpu", enabled=False):
            z = s.b(z.float())
    return z


@pytest.mark.parametrize("forward", [without_gradients, without_autocast, with_autocast])
def test_regions_become_part_of_the_graph(forward: Callable[..., Any]) -> None:
    net = Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    graph = captured(net).graph
    x = torch.randn(3, 4)
    assert torch.equal(graph(x), net(x))
    assert operators(graph).count("aten.linear") == 2
    assert all(name.startswith("aten.") for name in operators(graph))


class Constant(nn.Module):
    """A buffer that no state dict holds, and a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.shift: Tensor
        self.register_buffer("shift", torch.ones(4), persistent=False)
        self.table = torch.full((4,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.a(x)
        return y * self.table + self.shift


def test_every_tensor_is_a_parameter_or_buffer() -> None:
    graph = captured(Constant()).graph
    registered = {name for name, _ in (*graph.named_parameters(), *graph.named_buffers())}
    assert set(read(graph)) <= registered
    assert set(graph.state_dict()) == {"a.weight", "a.bias"}


def test_views_take_any_layout() -> None:
    graph = captured(Net(lambda s, x: s.a(x).view(-1, 2, 2), a=nn.Linear(4, 4))).graph
    assert "aten.reshape" in operators(graph)
    assert not {"aten.view", "aten._unsafe_view"} & set(operators(graph))
    assert "aten.view" not in graph.code


class Policy(nn.Module):
    """Checks its probabilities' values in forward, as `torch.distributions` does by default."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        probabilities: Tensor = torch.distributions.Categorical(logits=self.a(x)).probs
        return probabilities


def test_checks_of_a_distribution_are_no_part_of_the_graph() -> None:
    captured(Policy())
    assert torch.distributions.Distribution._validate_args, "as it was before"


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda s, x: torch.hstack([s.a(x), s.b(x)]), {"aten.cat"}),
        (lambda s, x: torch.fliplr(s.a(x)) - s.b(x), {"aten.flip", "aten.sub"}),
        (
            lambda s, x: nn.functional.pairwise_distance(s.a(x), s.b(x), keepdim=True),
            {"aten.sub", "aten.add", "aten.norm"},
        ),
    ],
)
def test_composites_without_a_rule_are_opened(call: Callable[..., Any], parts: set[str]) -> None:
    graph = captured(Net(call, a=nn.Linear(4, 4), b=nn.Linear(4, 4))).graph
    assert set(operators(graph)) == {"aten.linear", *parts}
