"""Recurrent calls in their one form: a call per layer, and zeros that follow the weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import Captured, capture
from fxprune.capture.recurrent_shapes import KEYS
from fxprune.graph.recurrent import recurrent_of
from tests.nets import Net


def captured(forward: Any, layer: nn.Module) -> tuple[Net, Captured]:
    torch.manual_seed(0)
    net = Net(forward, over=layer).eval()
    return net, capture(net, make_batch((torch.randn(2, 7, 4),), {}))


def calls(found: Captured) -> list[Any]:
    return [node for node in found.graph.graph.nodes if recurrent_of(node) is not None]


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "batch_first": True}])
def test_several_layers_become_as_many_calls(kind: Any, options: dict[str, Any]) -> None:
    def both(s: Any, x: Tensor) -> Any:
        outputs, states = s.over(x if options else x.transpose(0, 1))
        return (outputs, *states) if isinstance(states, tuple) else (outputs, states)

    net, found = captured(both, kind(4, 5, 3, **options))
    made = calls(found)
    assert len(made) == 3
    for node in made:
        how = recurrent_of(node)
        assert how is not None
        assert len(how.layers) == 1
        assert [v.shape for v in node.meta["val"]][0][-1] == (10 if options else 5)
    for count in (1, 3):
        x = torch.randn(count, 7, 4)
        for ours, theirs in zip(found.graph(x), net(x), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_given_states_are_cut_by_layers() -> None:
    def started(s: Any, x: Tensor) -> Any:
        state = x[:, :3, :].transpose(0, 1).repeat(2, 1, 1)[:, :, :4].contiguous()
        outputs, last = s.over(x, state)
        return outputs, last

    net, found = captured(started, nn.GRU(4, 4, 3, batch_first=True, bidirectional=True))
    assert len(calls(found)) == 3
    x = torch.randn(5, 7, 4)
    for ours, theirs in zip(found.graph(x), net(x), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "zeros",
    [
        lambda x: None,
        lambda x: torch.zeros(1, x.shape[0], 5),
        lambda x: x.new_zeros(1, x.shape[0], 5),
        lambda x: torch.full((1, x.shape[0], 5), 0.0),
        lambda x: torch.zeros(x.shape[0], 1, 5).transpose(0, 1),
    ],
)
def test_states_of_zeros_follow_the_weights(zeros: Any) -> None:
    net, found = captured(lambda s, x: s.over(x, zeros(x))[0], nn.GRU(4, 5, batch_first=True))
    (call,) = calls(found)
    read = [n for n in call.args[1].args[0] if n.target is torch.ops.aten.new_zeros.default]
    assert [n.args[0].target for n in read] == ["over.weight_hh_l0"]
    x = torch.randn(3, 7, 4)
    torch.testing.assert_close(found.graph(x), net(x))


def test_states_of_other_numbers_are_left_as_they_are() -> None:
    net, found = captured(
        lambda s, x: s.over(x, torch.full((1, x.shape[0], 5), 0.5))[0],
        nn.GRU(4, 5, batch_first=True),
    )
    (call,) = calls(found)
    assert "full" in str(call.args[1])
    x = torch.randn(3, 7, 4)
    torch.testing.assert_close(found.graph(x), net(x))


def test_dropout_stands_between_layers() -> None:
    _, found = captured(lambda s, x: s.over(x)[0], nn.GRU(4, 5, 3, batch_first=True, dropout=0.3))
    drops = [n for n in found.graph.graph.nodes if "dropout" in str(n.target)]
    assert [n.args[1:] for n in drops] == [(0.3, False)] * 2


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("first", [True, False])
def test_steps_are_not_traced(kind: Any, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace of steps takes a tenth of a second for each; they are laid out as torch does it."""

    def stepwise(*_: Any) -> Any:
        raise AssertionError("a step is traced")

    layer = kind(4, 5, 2, batch_first=first, bidirectional=True)
    kernels = {"GRU": "gru", "LSTM": "lstm", "RNN": "rnn_tanh"}
    operator = getattr(torch.ops.aten, kernels[kind.__name__]).input
    for key in KEYS:
        monkeypatch.setitem(operator.py_kernels, key, stepwise)
    operator._dispatch_cache.clear()
    net, found = captured(lambda s, x: s.over(x if first else x.transpose(0, 1))[0], layer)
    assert all(operator.py_kernels[key] is stepwise for key in KEYS)
    operator._dispatch_cache.clear()
    x = torch.randn(3, 7, 4)
    with torch.no_grad():
        torch.testing.assert_close(found.graph(x), net(x))
        seen = net(torch.randn(2, 7, 4))
    last = calls(found)[-1].meta["val"][0]
    assert last.stride() == seen.stride()
