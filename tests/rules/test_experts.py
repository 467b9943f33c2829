# ruff: noqa: E501  (the golden lines are as long as they are)
"""Mixtures of experts: widths inside experts go; whole experts stay, each with the reason.

`EXPECTTEST_ACCEPT=1 pytest tests/rules` rewrites the texts; read the difference before committing it.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

import fxprune
from tests.rules.golden import analyzed, reasons

EXPERTS, WIDTH = 4, 6


def chosen(scores: Tensor) -> Tensor:
    """Weights of the two experts with the largest probabilities, zero for the others."""
    most, index = scores.softmax(-1).topk(2, -1)
    return torch.zeros_like(scores).scatter(-1, index, most / most.sum(-1, keepdim=True))


class Listed(nn.Module):
    """Every expert is a module, and takes part with its weight."""

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate = gate
        self.before, self.router = nn.Linear(5, WIDTH), nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), nn.Linear(8, WIDTH)) for _ in range(EXPERTS)
        )  # fmt: skip
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        weights = self.gate(self.router(x))
        mixed = [weights[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts)]
        result: Tensor = self.head(x + torch.stack(mixed).sum(0))
        return result


class Stacked(nn.Module):
    """All experts' weights in one tensor each."""

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate = gate
        self.before, self.router = nn.Linear(5, WIDTH), nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, 8) / 3)
        self.down = nn.Parameter(torch.randn(EXPERTS, 8, WIDTH) / 3)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        hidden = F.relu(torch.einsum("nd,edh->neh", x, self.up))
        each = torch.einsum("neh,ehd->ned", hidden, self.down)
        result: Tensor = self.head(x + (self.gate(self.router(x)).unsqueeze(-1) * each).sum(1))
        return result


def test_widths_inside_experts_are_their_own() -> None:
    found = analyzed(Listed(chosen), 5)
    text = "\n".join(line for line in str(found).splitlines() if line.startswith("experts"))
    assert_expected_inline(
        text,
        """\
experts.0.0: 8 | experts.0.0.weight[0] experts.0.0.bias[0] -> experts.0.2.weight[1]
experts.1.0: 8 | experts.1.0.weight[0] experts.1.0.bias[0] -> experts.1.2.weight[1]
experts.2.0: 8 | experts.2.0.weight[0] experts.2.0.bias[0] -> experts.2.2.weight[1]
experts.3.0: 8 | experts.3.0.weight[0] experts.3.0.bias[0] -> experts.3.2.weight[1]""",
    )
    assert (
        "router.weight[0]: every channel takes part in a softmax, sum or ordering (model: softmax)"
        in reasons(found)
    )


def test_stacked_experts_share_their_width() -> None:
    assert_expected_inline(
        str(analyzed(Stacked(chosen), 5)),
        """\
before: 6 | up[1] down[2] before.weight[0] before.bias[0] -> router.weight[1] head.weight[1]
up: 8 | up[2] down[1] -> nothing""",
    )


def test_whole_experts_stay_where_they_are_normalized_or_modules() -> None:
    assert_expected_inline(
        reasons(analyzed(Stacked(chosen), 5)),
        """\
up[0]: meets a tensor that is not produced by a weight (model: mul)
down[0]: meets a tensor that is not produced by a weight (model: mul)
before.weight[1]: reads channels that stay (before: linear)
router.weight[0]: every channel takes part in a softmax, sum or ordering (model: softmax)
head.weight[0]: is the model's output (output)
head.bias[0]: is the model's output (output)""",
    )
    assert "router.weight[0]: is the only channel of a tensor (model: slice_2)" in reasons(
        analyzed(Listed(torch.sigmoid), 5)
    )


def test_whole_stacked_experts_go_where_each_has_a_weight_of_its_own() -> None:
    assert_expected_inline(
        str(analyzed(Stacked(torch.sigmoid), 5)),
        """\
router: 4 | up[0] down[0] router.weight[0] -> nothing
before: 6 | up[1] down[2] before.weight[0] before.bias[0] -> router.weight[1] head.weight[1]
up: 8 | up[2] down[1] -> nothing""",
    )


@pytest.mark.parametrize("kind", [Listed, Stacked])
@pytest.mark.parametrize("gate", [chosen, torch.sigmoid], ids=["two of four", "each"])
def test_reduced_experts_equal_the_masked_original(
    kind: Callable[[Callable[[Tensor], Tensor]], nn.Module], gate: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    net, x = kind(gate).eval().double(), torch.randn(64, 5).double()
    small = fxprune.compress(net, x, flops=0.6, round_to=1, decision="close", progress=False)
    masked = fxprune.masked(net, small)
    with torch.no_grad():
        for batch in (x[:1], x[:5]):
            torch.testing.assert_close(small(batch), masked(batch), rtol=1e-9, atol=1e-10)
