"""The reduced graph's values between two fits: there while somebody reads them, then gone."""

from typing import Any

import torch
from torch import Tensor, nn

from fxprune.fit.execution import Execution
from tests.fit.reductions import Recorded, record
from tests.tensors import normal


class Fork(nn.Module):
    """What the first layer gives is read by the second and by a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        y: Tensor = self.third(x + torch.relu(self.second(x)))
        return y


def execution() -> tuple[Recorded, Execution]:
    torch.manual_seed(0)
    case = record(Fork().double(), normal(120, 6), share=0.5)
    order = list(case.reduction.original.graph.nodes)
    return case, Execution(case.reduction, order, case.recording, case.recording.chunks)


def calls(case: Recorded) -> list[Any]:
    return [n for n in case.reduction.original.graph.nodes if n.op == "call_function"]


def test_calls_give_what_the_reduced_graph_gives() -> None:
    case, steps = execution()
    *before, last = calls(case)
    with torch.no_grad():
        steps.run(before)
        found = [value for _, value in steps.results(last.name)]
        expected = case.reduction.reduced(normal(120, 6))
    assert [len(part) for part in found] == [50, 50, 20]
    torch.testing.assert_close(torch.cat(found), expected)


def test_values_go_after_their_last_reader() -> None:
    case, steps = execution()
    recorded = case.store._held
    sizes = []
    with torch.no_grad():
        for call in calls(case):
            steps.run([call])
            sizes.append((case.store._held - recorded) // (120 * 8))
    # Numbers per example; what the first layer gives waits for the sum.
    names = [str(call.target).split(".")[1] for call in calls(case)]
    assert names == ["linear", "relu", "linear", "relu", "add", "linear"]
    assert sizes == [4, 4, 8, 8, 4, 0]


def test_several_calls_at_once_leave_the_same() -> None:
    case, steps = execution()
    recorded = case.store._held
    with torch.no_grad():
        steps.run(calls(case)[:4])
    assert (case.store._held - recorded) // (120 * 8) == 8
    steps.clear()
    assert case.store._held == recorded
