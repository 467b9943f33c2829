"""Norms without coordinates: the outputs stay, and what cannot be folded is kept and named."""

import pytest
import torch
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.errors import FxpruneError
from fxprune.graph.operators import operator_name
from fxprune.label.analysis import analyze_graph
from fxprune.passes import FoldNorms
from tests.passes.test_reduce_channels import distance
from tests.passes.test_streams import NORMS, Encoder, randomized


class Image(nn.Module):
    """Patches by a convolution, a class token, dropout on the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 8, 2, 2), nn.Parameter(torch.randn(1, 1, 8))
        self.positions, self.drop = nn.Parameter(torch.randn(1, 5, 8)), nn.Dropout(0.1)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 6), nn.Linear(6, 8)
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.drop(torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions)
        x = x + self.drop(self.down(torch.relu(self.up(self.norm(x)))))
        logits: Tensor = self.head(self.last(x[:, 0]))
        return logits


class Raw(Image):
    """The head reads the stream itself too."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        logits: Tensor = self.head(x.mean(1))
        return logits


class Tied(nn.Module):
    """The head's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(20, 8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.table(x)
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return torch.nn.functional.linear(self.norm(x), self.table.weight)


def folded(net: nn.Module, x: Tensor) -> tuple[list[str], dict[str, str]]:
    """Norms that are left, with how many more arguments than a shape; the outputs are the same."""
    captured = capture(net, make_batch((x,), {}))
    wanted = net(x)
    rewrite = FoldNorms(analyze_graph(captured.graph, len(x)))
    module = rewrite(captured.graph).graph_module
    with torch.no_grad():
        assert distance(wanted, module(x)) <= 1e-12
    left = [
        f"{operator_name(n.target)} {sum(a is not None for a in n.args[2:4])}"
        for n in module.graph.nodes
        if n.op == "call_function" and "norm" in operator_name(n.target)
    ]
    return left, rewrite.reasons


def tokens() -> Tensor:
    return torch.randn(2, 7, 5, dtype=torch.float64)


@pytest.mark.parametrize("name", ["layer norm", "layer norm without a bias", "rms norm"])
def test_norms_of_an_encoder_lose_their_weights(name: str) -> None:
    left, reasons = folded(randomized(Encoder(NORMS[name])), tokens())
    # The mean of the last norm over tokens is no linear layer.
    assert left[:2] == ["aten.rms_norm 1", "aten.rms_norm 1"]
    assert left[2] == "aten.rms_norm 2"
    assert [r.partition(" (")[0] for r in reasons.values()] == [
        "it is read by something else than linear layers"
    ]


def test_a_vision_transformers_norms_are_folded() -> None:
    left, reasons = folded(randomized(Image()), torch.randn(2, 3, 4, 4).double())
    assert left == ["aten.rms_norm 1"] * 2
    assert not reasons


def test_a_stream_that_more_than_norms_read_keeps_its_mean() -> None:
    left, reasons = folded(randomized(Raw()), torch.randn(2, 3, 4, 4).double())
    assert left == ["aten.layer_norm 2"]
    assert "its stream is read by more than norms" in "".join(reasons.values())


def test_an_embedding_that_the_head_shares_keeps_the_means() -> None:
    left, reasons = folded(randomized(Tied()), torch.randint(0, 20, (2, 5)))
    assert left == ["aten.layer_norm 2"] * 2
    assert set(reasons) == {"layer_norm", "layer_norm_1"}


def test_norms_behind_the_additions_keep_the_means() -> None:
    left, reasons = folded(randomized(Encoder(NORMS["layer norm"], behind=True)), tokens())
    assert left == ["aten.layer_norm 2"] * 3
    assert len(reasons) == 3


def test_an_analysis_of_another_graph_is_refused() -> None:
    captured = capture(randomized(Image()), make_batch((torch.randn(2, 3, 4, 4).double(),), {}))
    other = capture(randomized(Encoder(NORMS["rms norm"])), make_batch((tokens(),), {}))
    with pytest.raises(FxpruneError, match="is not in the analysis"):
        FoldNorms(analyze_graph(other.graph, 2))(captured.graph)
