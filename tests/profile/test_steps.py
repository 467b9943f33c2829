"""Recurrent layers step by step: what torch's operators give, and whose errors matter how much."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxprune.calibrate.batching import in_order
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.graph.recurrent import Recurrent, read_recurrent
from fxprune.label.analysis import analyze_graph
from fxprune.profile.sensitivity import sensitivities
from fxprune.profile.steps import run_steps
from tests.nets import Net

LAYERS: list[tuple[str, Any, dict[str, Any]]] = [
    ("gru", nn.GRU, {}),
    ("gru", nn.GRU, {"bidirectional": True, "batch_first": True}),
    ("lstm", nn.LSTM, {"batch_first": True, "bias": False}),
    ("lstm", nn.LSTM, {"bidirectional": True, "proj_size": 3}),
    ("rnn_tanh", nn.RNN, {"bidirectional": True}),
    ("rnn_relu", nn.RNN, {"nonlinearity": "relu", "batch_first": True}),
]


def called(name: str, kind: Any, options: dict[str, Any]) -> tuple[Any, Recurrent, list[Tensor]]:
    """What torch gives, the call's arguments, and the layer's weights."""
    torch.manual_seed(0)
    layer = kind(4, 5, **options).double()
    ways = 2 if layer.bidirectional else 1
    source = torch.randn(6, 3, 4).double()
    batch = 6 if layer.batch_first else 3
    widths = [layer.proj_size or 5, 5] if name == "lstm" else [5]
    states = [torch.randn(ways, batch, width).double() for width in widths]
    state = states if name == "lstm" else states[0]
    weights = list(layer._flat_weights)
    flags = (layer.bias, 1, 0.0, False, layer.bidirectional, layer.batch_first)
    args = (source, state, weights, *flags)
    how = read_recurrent(f"aten.{name}", args)
    assert how is not None
    return getattr(torch.ops.aten, name).input(*args), how, weights


@pytest.mark.parametrize(("name", "kind", "options"), LAYERS)
def test_steps_give_what_the_operator_gives(name: str, kind: Any, options: dict[str, Any]) -> None:
    expected, how, _ = called(name, kind, options)
    torch.testing.assert_close(run_steps(how)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "kind", "options"), LAYERS)
def test_gradients_of_what_weights_give_are_those_of_the_weights(
    name: str, kind: Any, options: dict[str, Any]
) -> None:
    """Of y = W x the gradient by W is the sum of g x^T; of a bias b in y = W x + b it is the sum of
    g, whatever was read.
    """
    expected, how, weights = called(name, kind, options)
    probe = torch.randn(expected[0].shape, dtype=torch.float64)
    results, given = run_steps(how)
    gradients = torch.autograd.grad((results[0] * probe).sum(), [value for _, value in given])
    direction = how.layers[0][0]
    (read,) = (g for (w, _), g in zip(given, gradients, strict=True) if w is direction.read)
    source = how.source.transpose(0, 1) if how.batch_first else how.source
    (whole,) = torch.autograd.grad((expected[0] * probe).sum(), [weights[0]], retain_graph=True)
    torch.testing.assert_close(torch.einsum("tbo,tbi->oi", read, source), whole)
    if direction.biases:
        own = torch.cat([g for (w, _), g in zip(given, gradients, strict=True) if w is weights[1]])
        (bias,) = torch.autograd.grad((expected[0] * probe).sum(), [weights[3]])
        torch.testing.assert_close(own.sum(0), bias)


def test_what_a_layer_ignores_costs_nothing_inside_it() -> None:
    """The head reads the first unit alone, and the layer's state goes nowhere else: of four units
    the others' gates do not matter.
    """
    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.head(s.over(s.before(x))[0]),
        before=nn.Linear(3, 6),
        over=nn.GRU(6, 4, batch_first=True),
        head=nn.Linear(4, 2),
    ).double()
    over: Any = net.over
    with torch.no_grad():
        net.get_parameter("head.weight")[:, 1:] = 0
        over.weight_hh_l0.zero_()
    captured = capture(net.eval(), make_batch((torch.randn(2, 5, 3).double(),), {}))
    batch = make_batch((torch.randn(512, 5, 3).double(),), {})
    found = sensitivities(
        captured.graph, analyze_graph(captured.graph, 2), in_order([batch]), seed=0
    )
    assert {("over.weight_ih_l0", 1), ("over.weight_hh_l0", 1), ("head.weight", 1)} <= set(found)
    for site in (("over.weight_ih_l0", 1), ("over.weight_hh_l0", 1)):
        energies = found[site].diagonal().view(3, 4).sum(0)
        # Few gradients leave a share for all of them alike.
        assert float(energies[0]) > 20 * float(energies[1:].max())
