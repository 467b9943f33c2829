"""Contractions written as einsum are analyzed whatever they name."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.blocks import conv
from tests.nets import Net
from tests.rules.golden import analyzed


def _operands(equation: str, net: Any, x: Tensor) -> list[Tensor]:
    x, weight = net.a(x), net.m.weight
    if "..." in equation:
        return [F.pad(x, (2, 2)), weight]
    return [x, *[weight] * (equation.count(","))]


@pytest.mark.parametrize("equation", ["...c,dc->...d", "bchw,dc->bdhw", "bchw,dc,de->behw"])
def test_no_einsum_crashes(equation: str) -> None:
    net = Net(
        lambda s, x: s.b(torch.einsum(equation, *_operands(equation, s, x))),
        a=conv(3, 8),
        m=nn.Linear(8, 8),
        b=conv(8, 2),
    )
    analyzed(net)
