"""Recurrent layers through the whole pipeline: reduced, they equal the masked original."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import fxprune
from fxprune.errors import StorageError

STEPS, INPUTS = 9, 3


class OverTime(nn.Module):
    """A convolution along the steps, a recurrent layer, and a linear one on every step or on the
    last states.
    """

    def __init__(self, kind: Any, last: bool = False, **options: Any):
        super().__init__()
        self.before = nn.Conv1d(INPUTS, 8, 3, padding=1)
        self.over = kind(8, 10, **options)
        self._first, self._last = bool(options.get("batch_first")), last
        width = options.get("proj_size") or 10
        both = 2 if options.get("bidirectional") else 1
        self.head = nn.Linear(width if last else width * both, 4)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.relu(self.before(x)).permute(*((0, 2, 1) if self._first else (2, 0, 1)))
        outputs, states = self.over(steps)
        state = states[0] if isinstance(states, tuple) else states
        result: Tensor = self.head(state[-1] if self._last else outputs)
        return result if self._first or self._last else result.transpose(0, 1)


def made(kind: Any, **options: Any) -> OverTime:
    torch.manual_seed(0)
    return OverTime(kind, **options).eval().double()


def sequences(count: int, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, INPUTS, STEPS, generator=draw, dtype=torch.float64)


def halved(net: nn.Module, **options: Any) -> GraphModule:
    settings = {"flops": 0.5, "round_to": 1, "progress": False, "decision": "close"} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few examples
        small: GraphModule = fxprune.compress(net, sequences(48), **settings)  # type: ignore[arg-type]
    return small


def equal(small: Any, other: Any) -> None:
    """At batches that were not traced."""
    for count in (1, 2, 5):
        with torch.no_grad():
            x = sequences(count, seed=count)
            torch.testing.assert_close(small(x), other(x), rtol=1e-9, atol=1e-10)


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gru": (nn.GRU, {"batch_first": True}),
    "gru both ways": (nn.GRU, {"bidirectional": True}),
    "gru, last state": (nn.GRU, {"batch_first": True, "last": True}),
    "two grus both ways": (
        nn.GRU, {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.2}
    ),
    "lstm": (nn.LSTM, {"bias": False}),
    "lstm both ways, last state": (
        nn.LSTM, {"batch_first": True, "bidirectional": True, "last": True}
    ),
    "two projected lstms": (nn.LSTM, {"num_layers": 2, "proj_size": 6, "batch_first": True}),
    "rnn": (nn.RNN, {"batch_first": True}),
    "rnn with relu": (nn.RNN, {"nonlinearity": "relu", "num_layers": 2}),
}  # fmt: skip


QUICK = ("gru", "rnn with relu")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in KINDS]
)
def test_reduced_equals_the_masked_original_and_its_file(name: str, tmp_path: Path) -> None:
    kind, options = KINDS[name]
    net = made(kind, **options)
    small = halved(net)
    before, after = fxprune.report(small).flops
    assert 0.3 * before < after <= 0.5 * before
    weights = {n: p.shape for n, p in net.named_parameters()}
    smaller = {n for n, p in small.named_parameters() if p.shape != weights[n]}
    assert {"over.weight_hh_l0", "over.weight_ih_l0", "head.weight"} & smaller
    equal(small, fxprune.masked(net, small))
    fxprune.save(small, tmp_path / "small.safetensors")
    loaded = fxprune.load(tmp_path / "small.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(sequences(3)), small(sequences(3)))


@pytest.mark.parametrize("name", ["gru", "lstm both ways, last state", "rnn"])
def test_one_layer_comes_back_as_a_layer_and_into_the_class(name: str, tmp_path: Path) -> None:
    kind, options = KINDS[name]
    net = made(kind, **options)
    small = halved(net)
    layer: Any = small.get_submodule("over")
    assert type(layer) is kind
    assert layer.hidden_size < 10
    assert not any("zeros" in str(node.target) for node in small.graph.nodes)
    fxprune.save(small, tmp_path / "small.safetensors")
    held = {k: v.clone() for k, v in net.state_dict().items()}
    mine = fxprune.load(tmp_path / "small.safetensors", into=net)
    assert type(mine) is OverTime
    equal(mine, small)
    own: Any = mine.over
    assert (own.hidden_size, own.input_size) == (layer.hidden_size, layer.input_size)
    assert all(torch.equal(v, held[k]) for k, v in net.state_dict().items())


def test_layers_of_other_widths_do_not_go_into_one(tmp_path: Path) -> None:
    net = made(nn.GRU, batch_first=True, num_layers=2)
    fxprune.save(halved(net), tmp_path / "small.safetensors")
    with pytest.raises(StorageError, match="belongs to a GRU, whose forward knows its sizes"):
        fxprune.load(tmp_path / "small.safetensors", into=net)


def test_dropout_between_layers_is_dropout_again() -> None:
    small = halved(made(nn.GRU, batch_first=True, num_layers=2, dropout=0.3))
    (found,) = (m for m in small.modules() if isinstance(m, nn.Dropout))
    assert found.p == 0.3


def test_interpolation_goes_into_the_state_and_its_readers() -> None:
    """Units that others give exactly go at no cost, which slicing alone would not give."""
    net = made(nn.RNN, batch_first=True, bias=False)
    over: Any = net.over
    with torch.no_grad():
        for weight in (over.weight_ih_l0, over.weight_hh_l0):
            weight[6:] = weight[:4]
    small = halved(net, flops=0.8, method="channels")
    assert fxprune.report(small).agreement.error < 1e-12  # type: ignore[union-attr]
    layer: Any = small.get_submodule("over")
    assert layer.hidden_size <= 7
    equal(small, net)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_states_given_by_the_caller_keep_the_width(kind: Any) -> None:
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.over = nn.Linear(5, 8), kind(8, 6, batch_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
            state = start.unsqueeze(0)
            given = (state, torch.zeros_like(state)) if kind is nn.LSTM else state
            outputs, states = self.over(torch.relu(self.before(x)), given)
            last = states[0] if kind is nn.LSTM else states
            return self.head(outputs), last

    torch.manual_seed(0)
    net = Given().eval().double()
    examples = [{"x": torch.randn(8, 7, 5).double(), "start": torch.randn(8, 6).double()}] * 6
    small = fxprune.compress(net, examples, flops=0.9, progress=False, decision="close")
    layer: Any = small.get_submodule("over")
    assert (layer.hidden_size, layer.input_size) == (6, layer.weight_ih_l0.shape[1])
    assert layer.input_size < 8
    alone = {row.name: row.reason for row in fxprune.report(small).alone}
    assert "keeps its width" in alone["over.weight_hh_l0[1]"]
    masked = fxprune.masked(net, small)
    with torch.no_grad():
        for found, expected in zip(small(**examples[0]), masked(**examples[0]), strict=True):
            torch.testing.assert_close(found, expected)


class InALoop(nn.Module):
    """A cell that the model itself runs step by step, from a state of zeros."""

    def __init__(self, kind: Any, own_state: bool, **options: Any):
        super().__init__()
        self.before = nn.Linear(INPUTS, 8)
        self.cell = kind(8, 10, **options)
        self.head = nn.Linear(10, 4)
        self._own_state = own_state

    def forward(self, x: Tensor) -> Tensor:
        states: Any = None
        if self._own_state:
            states = x.new_zeros(x.shape[0], 10)
        total = 0
        for step in torch.relu(self.before(x.transpose(1, 2))).unbind(1):
            states = self.cell(step, states)
            total = total + self.head(states[0] if isinstance(states, tuple) else states)
        return total  # type: ignore[return-value]


CELLS: dict[str, tuple[Any, bool, dict[str, Any]]] = {
    "gru": (nn.GRUCell, True, {}),
    "gru without state": (nn.GRUCell, False, {"bias": False}),
    "lstm": (nn.LSTMCell, False, {}),
    "rnn with relu": (nn.RNNCell, True, {"nonlinearity": "relu"}),
}


@pytest.mark.parametrize("case", list(CELLS))
def test_units_of_a_cell_go_with_its_gates(case: str) -> None:
    kind, own_state, options = CELLS[case]
    torch.manual_seed(0)
    net = InALoop(kind, own_state, **options).eval().double()
    small = halved(net)
    units = small.get_parameter("cell.weight_hh").shape
    assert units[1] < 10
    assert units[0] % units[1] == 0
    equal(small, fxprune.masked(net, small))
