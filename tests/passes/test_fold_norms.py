"""Norms without coordinates: the outputs stay, and what cannot be folded is kept and named."""

import pytest
import torch
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.errors import FxpruneError
from fxprune.graph.operators import operator_name
from fxprune.label.analysis import analyze_graph
from fxprune.passes import FoldNorms, FuseNorms
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


class Summed(Image):
    """The head reads a sum over tokens, by which the last norm's shift is another one."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.drop(self.down(torch.relu(self.up(self.norm(x)))))
        logits: Tensor = self.head(self.last(x).sum(1))
        return logits


class Centered(nn.Module):
    """Divides by the standard deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 6), nn.Linear(6, 3)

    def normed(self, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(centered.pow(2).mean(-1, keepdim=True) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.normed(self.up(x)))
        return y


class Halved(Centered):
    """Divides by another power."""

    def normed(self, x: Tensor) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + 0.1).pow(-0.25)


class Kept(Centered):
    """Reads the mean of squares again."""

    def normed(self, x: Tensor) -> Tensor:
        energy = x.pow(2).mean(-1, keepdim=True)
        return x * torch.rsqrt(energy + 0.1) + energy


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
    # The last one's too: between it and the head stands a mean over tokens, which are alike.
    assert left == ["aten.rms_norm 1"] * 3
    assert not reasons


def test_what_a_norm_shifts_by_passes_no_sum_over_tokens() -> None:
    left, reasons = folded(randomized(Summed()), torch.randn(2, 3, 4, 4).double())
    assert left == ["aten.rms_norm 1", "aten.rms_norm 2"]
    assert "it is read by something else than linear layers" in "".join(reasons.values())


def test_a_norm_that_is_written_out_becomes_a_call() -> None:
    captured = capture(randomized(Encoder(NORMS["rms norm by hand"])), make_batch((tokens(),), {}))
    x = tokens()
    wanted = captured.graph(x)
    module = FuseNorms(analyze_graph(captured.graph, 2))(captured.graph).graph_module
    names = [operator_name(n.target) for n in module.graph.nodes if n.op == "call_function"]
    assert names.count("aten.rms_norm") == 3
    assert "aten.pow" not in names
    assert "aten.mul" not in names
    with torch.no_grad():
        assert distance(wanted, module(x)) <= 1e-12


@pytest.mark.parametrize("kind", [Centered, Halved, Kept], ids=lambda kind: kind.__name__)
def test_what_is_no_rms_norm_stays_written_out(kind: type[nn.Module]) -> None:
    captured = capture(kind().double().eval(), make_batch((tokens(),), {}))
    assert not FuseNorms(analyze_graph(captured.graph, 2))(captured.graph).modified


def test_a_streams_norms_are_folded_whole_or_not_at_all() -> None:
    """The head reads a sum over tokens: the first norm alone could lose its weights."""
    captured = capture(randomized(Summed()), make_batch((torch.randn(2, 3, 4, 4).double(),), {}))
    analysis = analyze_graph(captured.graph, 2)
    rewrite = FoldNorms(analysis, sorted(analysis.normalized))
    assert not rewrite(captured.graph).modified
    assert not rewrite.whole
    (reason,) = rewrite.reasons.values()
    assert "it is read by something else than linear layers" in reason


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
