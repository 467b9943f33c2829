# ruff: noqa: E501  (the golden lines are as long as they are)
"""Channel groups of recurrent layers, and what keeps their units.

`EXPECTTEST_ACCEPT=1 pytest tests/rules` rewrites the texts; read the difference before committing it.
"""

from typing import Any

import pytest
import torch
from expecttest import assert_expected_inline
from torch import Tensor, nn

from tests.nets import Net
from tests.rules.golden import analyzed, reasons


def over_time(forward: Any, **layers: nn.Module) -> Net:
    """A projection `a` of the steps before, and one `b` behind."""
    made = {"a": nn.Linear(4, 6, bias=False), "b": nn.Linear(5, 2, bias=False)}
    return Net(forward, **(made | layers))


def test_the_gates_of_a_unit_go_together_with_its_readers() -> None:
    net = over_time(lambda s, x: s.b(s.rnn(s.a(x))[0]), rnn=nn.GRU(6, 5, batch_first=True))
    assert_expected_inline(
        str(analyzed(net, 7, 4)),
        """\
a: 6 | a.weight[0] -> rnn.weight_ih_l0[1]
rnn: 5 | rnn.weight_ih_l0[0] rnn.weight_hh_l0[0] rnn.bias_ih_l0[0] rnn.bias_hh_l0[0] -> rnn.weight_hh_l0[1] b.weight[1]""",
    )
    net = over_time(lambda s, x: s.b(s.rnn(s.a(x))[0]), rnn=nn.LSTM(6, 5, bias=False))
    assert_expected_inline(
        str(analyzed(net, 7, 4)),
        """\
a: 6 | a.weight[0] -> rnn.weight_ih_l0[1]
rnn: 5 | rnn.weight_ih_l0[0] rnn.weight_hh_l0[0] -> rnn.weight_hh_l0[1] b.weight[1]""",
    )


def test_the_axis_of_a_unit_holds_it_once_a_gate() -> None:
    net = over_time(lambda s, x: s.b(s.rnn(s.a(x))[0]), rnn=nn.GRU(6, 5, batch_first=True))
    axes = analyzed(net, 7, 4).axes
    for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0"):
        assert (axes[name, 0].reshape(3, 5) == axes["b.weight", 1]).all()
    assert (axes["rnn.weight_hh_l0", 1] == axes["b.weight", 1]).all()


def test_layers_are_groups_of_their_own_and_directions_blocks() -> None:
    net = over_time(
        lambda s, x: s.b(s.rnn(s.a(x))[0]),
        rnn=nn.RNN(6, 5, 2, bias=False, batch_first=True, bidirectional=True),
        b=nn.Linear(10, 2, bias=False),
    )
    assert_expected_inline(
        str(analyzed(net, 7, 4)),
        """\
a: 6 | a.weight[0] -> rnn.weight_ih_l0[1] rnn.weight_ih_l0_reverse[1]
rnn: 5 x 2 blocks | rnn.weight_ih_l1[0] rnn.weight_hh_l1[0] rnn.weight_ih_l1_reverse[0] rnn.weight_hh_l1_reverse[0] -> rnn.weight_hh_l1[1] rnn.weight_hh_l1_reverse[1] b.weight[1]
rnn#2: 5 x 2 blocks | rnn.weight_ih_l0[0] rnn.weight_hh_l0[0] rnn.weight_ih_l0_reverse[0] rnn.weight_hh_l0_reverse[0] -> rnn.weight_hh_l0[1] rnn.weight_hh_l0_reverse[1] rnn.weight_ih_l1[1] rnn.weight_ih_l1_reverse[1]""",
    )


def test_directions_that_are_added_lose_the_same_units() -> None:
    def added(s: Any, x: Tensor) -> Any:
        forth, back = s.rnn(s.a(x))[0].chunk(2, -1)
        return s.b(forth + back)

    net = over_time(added, rnn=nn.GRU(6, 5, batch_first=True, bidirectional=True))
    assert_expected_inline(
        str(analyzed(net, 7, 4)),
        """\
a: 6 | a.weight[0] -> rnn.weight_ih_l0[1] rnn.weight_ih_l0_reverse[1]
rnn: 5 | rnn.weight_ih_l0[0] rnn.weight_hh_l0[0] rnn.bias_ih_l0[0] rnn.bias_hh_l0[0] rnn.weight_ih_l0_reverse[0] rnn.weight_hh_l0_reverse[0] rnn.bias_ih_l0_reverse[0] rnn.bias_hh_l0_reverse[0] -> rnn.weight_hh_l0[1] rnn.weight_hh_l0_reverse[1] b.weight[1]""",
    )


def test_of_a_projected_layer_the_outputs_go_and_the_units_stay() -> None:
    net = over_time(
        lambda s, x: s.b(s.rnn(s.a(x))[0]),
        rnn=nn.LSTM(6, 8, batch_first=True, proj_size=5, bias=False),
    )
    found = analyzed(net, 7, 4)
    assert_expected_inline(
        str(found),
        """\
a: 6 | a.weight[0] -> rnn.weight_ih_l0[1]
rnn: 5 | rnn.weight_hr_l0[0] -> rnn.weight_hh_l0[1] b.weight[1]""",
    )
    assert_expected_inline(
        reasons(found),
        """\
a.weight[1]: reads channels that stay (a: linear)
b.weight[0]: is the model's output (output)
rnn.weight_ih_l0[0]: is projected: there must be more units than outputs (rnn: lstm_input)
rnn.weight_hh_l0[0]: is projected: there must be more units than outputs (rnn: lstm_input)
rnn.weight_hr_l0[1]: reads channels that stay (rnn: lstm_input)""",
    )


def test_last_states_have_the_channels_of_the_units() -> None:
    net = over_time(
        lambda s, x: s.b(torch.cat(s.rnn(s.a(x))[1], -1).squeeze(0)),
        rnn=nn.LSTM(6, 5, batch_first=True),
        b=nn.Linear(10, 2, bias=False),
    )
    assert_expected_inline(
        str(analyzed(net, 7, 4)),
        """\
a: 6 | a.weight[0] -> rnn.weight_ih_l0[1]
rnn: 5 | rnn.weight_ih_l0[0] rnn.weight_hh_l0[0] rnn.bias_ih_l0[0] rnn.bias_hh_l0[0] -> rnn.weight_hh_l0[1] b.weight[1]""",
    )


def test_a_state_goes_on_in_the_next_layer() -> None:
    net = over_time(
        lambda s, x: s.b(s.second(s.a(x), s.rnn(s.a(x))[1])[0]),
        rnn=nn.GRU(6, 5, batch_first=True),
        second=nn.GRU(6, 5, batch_first=True),
    )
    assert_expected_inline(
        str(analyzed(net, 7, 4)),
        """\
a: 6 | a.weight[0] -> rnn.weight_ih_l0[1] second.weight_ih_l0[1]
rnn: 5 | rnn.weight_ih_l0[0] rnn.weight_hh_l0[0] rnn.bias_ih_l0[0] rnn.bias_hh_l0[0] second.weight_ih_l0[0] second.weight_hh_l0[0] second.bias_ih_l0[0] second.bias_hh_l0[0] -> rnn.weight_hh_l0[1] second.weight_hh_l0[1] b.weight[1]""",
    )


def test_a_state_of_a_layer_has_its_channels() -> None:
    net = over_time(
        lambda s, x: s.b(s.rnn(s.a(x), torch.tanh(s.start(x[:, 0])).unsqueeze(0))[0]),
        rnn=nn.GRU(6, 5, batch_first=True),
        start=nn.Linear(4, 5, bias=False),
    )
    assert_expected_inline(
        str(analyzed(net, 7, 4)),
        """\
a: 6 | a.weight[0] -> rnn.weight_ih_l0[1]
start: 5 | rnn.weight_ih_l0[0] rnn.weight_hh_l0[0] rnn.bias_ih_l0[0] rnn.bias_hh_l0[0] start.weight[0] -> rnn.weight_hh_l0[1] b.weight[1]""",
    )


@pytest.mark.parametrize("zeros", [lambda x: torch.zeros(1, x.shape[0], 5), lambda x: x.new_zeros(1, x.shape[0], 5)])  # fmt: skip
def test_a_state_of_zeros_of_the_forwards_own_is_no_obstacle(zeros: Any) -> None:
    net = over_time(
        lambda s, x: s.b(s.rnn(s.a(x), zeros(x))[0]), rnn=nn.GRU(6, 5, batch_first=True)
    )
    assert "rnn: 5" in str(analyzed(net, 7, 4))


def test_states_that_come_and_go_keep_their_width() -> None:
    given = over_time(
        lambda s, x: s.b(s.rnn(s.a(x), x[:, 0].repeat(1, 2)[None, :, :5])[0]),
        rnn=nn.GRU(6, 5, batch_first=True),
    )
    found = analyzed(given, 7, 4)
    assert str(found) == "a: 6 | a.weight[0] -> rnn.weight_ih_l0[1]"
    assert "rnn.weight_hh_l0[0]: meets an initial state that keeps its width (rnn: gru)" in reasons(
        found
    )
    returned = over_time(
        lambda s, x: (lambda y: (s.b(y[0]), y[1]))(s.rnn(s.a(x))),
        rnn=nn.GRU(6, 5, batch_first=True),
    )
    found = analyzed(returned, 7, 4)
    assert str(found) == "a: 6 | a.weight[0] -> rnn.weight_ih_l0[1]"
    assert "rnn.weight_hh_l0[1]: is the model's output (output)" in reasons(found)


def test_channels_that_are_steps_stay() -> None:
    net = Net(
        lambda s, x: s.b(s.rnn(s.a(x))[0]),
        a=nn.Conv1d(3, 6, 1),
        rnn=nn.GRU(4, 5, batch_first=True),
        b=nn.Linear(5, 2),
    )
    found = analyzed(net, 3, 4)
    assert "a.weight[0]: a recurrent layer takes its channels for steps or examples" in reasons(
        found
    )
    assert "rnn: 5" in str(found)


def test_a_layer_of_one_unit_keeps_it() -> None:
    net = over_time(
        lambda s, x: s.b(s.rnn(s.a(x))[0]),
        rnn=nn.GRU(6, 1, batch_first=True),
        b=nn.Linear(1, 2, bias=False),
    )
    assert str(analyzed(net, 7, 4)) == "a: 6 | a.weight[0] -> rnn.weight_ih_l0[1]"


def test_weights_that_are_computed_are_no_layer() -> None:
    """The operator as such, on a weight that depends on the input."""

    def computed(s: Any, x: Tensor) -> Any:
        own = s.rnn
        weights = [own.weight_ih_l0 * x.mean(), own.weight_hh_l0]
        state = x.new_zeros(1, x.shape[0], 5)
        return s.b(torch.rnn_tanh(s.a(x), state, weights, False, 1, 0.0, False, False, True)[0])

    net = over_time(computed, rnn=nn.RNN(6, 5, bias=False, batch_first=True))
    found = analyzed(net, 7, 4)
    assert not found.groups
    assert "enters aten.rnn_tanh.input, for which there is no rule" in reasons(found)


def test_a_layer_in_training_is_left_alone() -> None:
    """Dropout in an operator that was asked for it by number is no layer of an eval mode."""

    def trained(s: Any, x: Tensor) -> Any:
        weights = [s.rnn.weight_ih_l0, s.rnn.weight_hh_l0]
        state = x.new_zeros(1, x.shape[0], 5)
        return s.b(torch.rnn_tanh(s.a(x), state, weights, False, 1, 0.0, True, False, True)[0])

    net = over_time(trained, rnn=nn.RNN(6, 5, bias=False, batch_first=True))
    assert not analyzed(net, 7, 4).groups


def test_a_tensor_of_one_number_is_as_wide_as_what_it_meets() -> None:
    def shifted(s: Any, x: Tensor) -> Any:
        return s.b(s.a(x) + s.other.weight.new_ones(x.shape[0], 1, 5)) + s.other(x @ s.c.weight)

    layers = {"a": nn.Linear(4, 5, bias=False), "c": nn.Linear(5, 4, bias=False)}
    net = Net(shifted, other=nn.Linear(5, 2, bias=False), b=nn.Linear(5, 2, bias=False), **layers)
    assert_expected_inline(
        str(analyzed(net, 7, 4)),
        """\
c: 5 | c.weight[1] -> other.weight[1]
a: 5 | a.weight[0] -> b.weight[1]""",
    )
    net = Net(
        lambda s, x: s.b(s.a(x) + s.a.weight.new_ones(6)), a=nn.Linear(4, 6), b=nn.Linear(6, 2)
    )
    assert_expected_inline(
        str(analyzed(net, 7, 4)), """a: 6 | a.weight[0] a.bias[0] -> b.weight[1]"""
    )
