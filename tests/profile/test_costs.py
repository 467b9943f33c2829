"""The cost model against torch's own counter: exact at full width and at any reduced one."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.flops import count_flops
from fxprune.label.keep import keep_first
from fxprune.passes import ReduceChannels
from fxprune.profile.costs import CostModel
from tests.passes.test_reduce_channels import example, relaxed
from tests.strategies import networks


def agree(model: nn.Module, inputs: Tensor, seed: int) -> None:
    """FLOPs and parameters of the rewritten graph are what the cost model foretold."""
    batch = make_batch((inputs,), {})
    captured = capture(model, batch)
    analysis = analyze_graph(captured.graph, batch.size)
    costs = CostModel(captured.graph, analysis)
    assert costs.flops(costs.full) == pytest.approx(count_flops(captured.graph, batch))
    generator = np.random.default_rng(seed)
    widths = np.array([generator.integers(1, g.width + 1) for g in analysis.groups])
    reduce = ReduceChannels(analysis, keep_first(analysis, widths))
    small = reduce(captured.graph).graph_module
    assert costs.flops(widths) == pytest.approx(count_flops(small, batch))
    assert costs.params(widths) == pytest.approx(sum(p.numel() for p in small.parameters()))


@pytest.mark.slow
@settings(relaxed, max_examples=20)
@given(networks(), st.integers(0, 1000))
def test_any_network(model: nn.Module, seed: int) -> None:
    agree(model, example(2), seed)


class Recurrent(nn.Module):
    """Convolutions before a recurrent layer."""

    def __init__(self, kind: Any, outputs: int, **options: Any):
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 16, 3, padding=1), nn.Conv1d(16, 8, 3, padding=1)
        self.recurrent = kind(8, 12, batch_first=True, **options)
        self.head = nn.Linear(outputs, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.relu(self.first(x)))
        out: Tensor = self.head(self.recurrent(x.transpose(1, 2))[0][:, -1])
        return out


@pytest.mark.parametrize(
    ("kind", "outputs", "options"),
    [
        (nn.GRU, 12, {}),
        (nn.LSTM, 24, {"bidirectional": True, "num_layers": 2}),
        (nn.LSTM, 5, {"proj_size": 5}),
        (nn.RNN, 12, {"bias": False}),
    ],
)
def test_recurrent_layers_are_counted(kind: Any, outputs: int, options: dict[str, Any]) -> None:
    agree(Recurrent(kind, outputs, **options).eval(), torch.randn(2, 3, 20), seed=1)


def test_attention_is_counted_on_every_device() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
    agree(nn.Sequential(layer, nn.Linear(16, 4)).eval(), torch.randn(2, 6, 16), seed=2)
