"""A graph that checks its constants, called in every way that torch calls graphs."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.errors import ArgumentError
from fxprune.graph.arguments import TENSOR, check_argument, check_rows

X = torch.ones(3, 4)


class Scaled(nn.Module):
    """A number and a text beside a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 2)

    def forward(self, x: Tensor, scale: float = 2.0, mode: str = "a") -> Tensor:
        result: Tensor = self.net(x) * scale
        return -result if mode == "b" else result


@pytest.fixture(scope="module")
def graph() -> GraphModule:
    return capture(Scaled().eval(), make_batch((torch.ones(2, 4), 2.0), {"mode": "b"})).graph


def test_an_interpreter_checks_and_fills_in_defaults(graph: GraphModule) -> None:
    wanted = graph(X, mode="b")
    assert torch.equal(Interpreter(graph).run(X, 2.0, "b"), wanted)
    with pytest.raises(ArgumentError, match=r"^scale=3\.0: this model was compressed for scale=2"):
        Interpreter(graph).run(X, 3.0, "b")
    with pytest.raises(ArgumentError, match=r"^mode='a': this model was compressed for mode='b'"):
        Interpreter(graph).run(X)


def test_an_interpreter_that_is_given_too_little_says_so(graph: GraphModule) -> None:
    with pytest.raises(RuntimeError, match="Expected positional argument"):
        Interpreter(graph).run()


def test_the_code_checks_unless_it_is_for_reading(graph: GraphModule) -> None:
    assert "check_argument('scale', scale, (2.0, ))" in graph.code
    codegen: Any = graph.graph._codegen
    shown = codegen.gen_fn_def(["x_1", "scale_1", "mode_1"], "", expanded_def=True)
    assert "def forward" in shown
    assert "check_argument" not in shown


def test_nan_is_itself() -> None:
    check_argument("x", math.nan, (math.nan,))
    for found, leaf in ((1.0, math.nan), (math.nan, 1.0), (2.0, 1.0), ("a", math.nan)):
        with pytest.raises(ArgumentError, match="^x="):
            check_argument("x", found, (leaf,))


@pytest.mark.parametrize("found", [None, True, 3, 2.5, "text"])
def test_where_a_tensor_was_a_tensor_is_wanted(found: Any) -> None:
    check_argument("x", [X, 1], (TENSOR, 1))
    with pytest.raises(ArgumentError, match="for a tensor there"):
        check_argument("x", [found, 1], (TENSOR, 1))


def test_rows_are_counted_along_the_first_axis() -> None:
    check_rows("x", {"a": torch.ones(5, 9), "b": torch.tensor(7.0), "c": 30}, 5)
    with pytest.raises(ArgumentError, match=r"^x holds 6 examples: .* more than 5 in one call"):
        check_rows("x", (torch.ones(2), torch.ones(6, 2)), 5)
