"""Edges of streams at which no weight and no norm stands: with maps there, streams are rotated, all
outputs stay, and what is left of a stream equals zeros in the rest.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.profile.folding import Streams
from fxprune.profile.streams import prepare_streams
from tests.passes.test_streams import randomized
from tests.streams import turned

WIDTH, TOKENS = 12, 4
EXACT = 1e-12


class Edge(nn.Module):
    """Two pre-norm blocks on a stream, with a beginning and an end of its own.

    Args:
        norm: of the blocks.
    """

    def __init__(self, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.embed, self.place = nn.Linear(7, WIDTH), nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.norms = nn.ModuleList(norm(WIDTH) for _ in range(3))
        self.ups = nn.ModuleList(nn.Linear(WIDTH, 20) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(20, WIDTH) for _ in range(2))
        self.head, self.stem = nn.Linear(WIDTH, 3), nn.Conv1d(7, WIDTH, 3, padding=1)
        self.mixer = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.wide, self.merged = norm(2 * WIDTH), nn.Linear(2 * WIDTH, 5)
        self.raw = nn.Linear(WIDTH, 3)
        self.register_buffer("waves", torch.randn(TOKENS, WIDTH))

    def start(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.embed(x) + self.place
        return embedded

    def end(self, x: Tensor) -> Any:
        return self.head(self.norms[2](x).mean(1))

    def forward(self, x: Tensor) -> Any:
        x = self.start(x)
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=False):
            x = x + down(F.gelu(up(norm(x))))
        return self.end(x)


class Activated(Edge):
    """An activation writes the stream."""

    def start(self, x: Tensor) -> Tensor:
        return F.gelu(self.embed(x)) + self.place


class Stem(Edge):
    """As in speech models: of a convolution, the channels of which lie before the positions."""

    def start(self, x: Tensor) -> Tensor:
        return F.gelu(self.stem(x.transpose(1, 2))).transpose(1, 2) + self.place


class Waves(Edge):
    """Positions that the forward computes."""

    def start(self, x: Tensor) -> Tensor:
        return super().start(x) + torch.linspace(0, 1, WIDTH, dtype=x.dtype).sin()


class Given(Edge):
    """The model gives out its last norm."""

    def end(self, x: Tensor) -> Any:
        return self.norms[2](x)


class Both(Edge):
    """And the stream itself."""

    def end(self, x: Tensor) -> Any:
        return self.head(self.norms[2](x)), x


class Bent(Edge):
    """An activation reads the last norm."""

    def end(self, x: Tensor) -> Any:
        return self.head(F.gelu(self.norms[2](x).mean(1)))


class Shared(Edge):
    """A head reads the last norm and the stream as it is."""

    def end(self, x: Tensor) -> Any:
        return self.head(self.norms[2](x).mean(1)) + self.head(x[:, 0])


class Raw(Edge):
    """A layer reads the stream as it is."""

    def end(self, x: Tensor) -> Any:
        return self.head(self.norms[2](x).mean(1)), self.raw(x)


class Patches(Edge):
    """A layer reads two tokens at once."""

    def end(self, x: Tensor) -> Any:
        return self.head(self.norms[2](x).mean(1)), self.merged(x.reshape(len(x), -1, 2 * WIDTH))


class Merged(Edge):
    """A norm reads the channels of two tokens."""

    def end(self, x: Tensor) -> Any:
        return self.merged(self.wide(torch.cat([x[:, 0::2], x[:, 1::2]], -1)))


class Filtered(Edge):
    """A filter per channel reads and writes the stream."""

    def end(self, x: Tensor) -> Any:
        x = x + self.mixer(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.norms[2](x).mean(1))


LAYER, RMS = nn.LayerNorm, nn.RMSNorm
MAPS = {
    Activated: (1, 1),
    Stem: (1, 1),
    Waves: (1, 1),
    Given: (1, 1),
    Both: (1, 1),
    Bent: (1, 1),
    Shared: (1, 1),
    Merged: (1, 1),
    Patches: (1, 1),
    Filtered: (2, 2),
}
EDGES = {
    f"{kind.__name__}, {norm.__name__}": (kind, norm, maps)
    for kind, both in MAPS.items()
    for norm, maps in zip((LAYER, RMS), both, strict=True)
}


def prepared(kind: type[Edge], norm: Any) -> tuple[Any, Streams, Tensor]:
    torch.manual_seed(0)
    net = randomized(kind(lambda width: norm(width, eps=0.1)))
    x = torch.randn(3, TOKENS, 7).double()
    graph = capture(net, make_batch((x,), {})).graph
    analysis = analyze_graph(graph, len(x))
    return graph, prepare_streams(graph, analysis, lambda name: False), x


@pytest.mark.parametrize("name", EDGES)
def test_a_map_takes_what_stands_at_an_edge(name: str) -> None:
    kind, norm, maps = EDGES[name]
    graph, streams, x = prepared(kind, norm)
    assert len(streams.maps) == maps
    assert len(streams.centered) == 1
    *errors, effect = turned(graph, streams, x, 0.8)
    assert max(errors) <= EXACT
    assert effect > 1e-3


@pytest.mark.parametrize("norm", [LAYER, RMS])
def test_a_layer_that_reads_the_stream_needs_none(norm: Any) -> None:
    """Of a layer norm's stream the mean is a coordinate of its own then, the last one."""
    graph, streams, x = prepared(Raw, norm)
    assert not streams.maps
    (name,) = streams.centered
    assert not streams.centered[name]
    assert streams.analysis is not None
    (group,) = (group for group in streams.analysis.groups if group.name == name)
    assert group.width == WIDTH - (norm is LAYER)
    *errors, effect = turned(graph, streams, x, 0.8)
    assert max(errors) <= EXACT
    assert effect > 1e-3


@pytest.mark.parametrize(("kind", "labels"), [(Raw, 1), (Merged, 2), (Bent, 2)])
def test_a_graph_is_labeled_once_a_change(
    kind: type[Edge], labels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its maps, where there are any, and once its norms are folded; and its weights stay."""
    count = []

    def counting(*args: Any) -> Any:
        count.append(args)
        return analyze_graph(*args)

    for module in ("folding", "mapped"):
        monkeypatch.setattr(f"fxprune.profile.{module}.analyze_graph", counting)
    torch.manual_seed(0)
    net = randomized(kind(nn.LayerNorm))
    graph = capture(net, make_batch((torch.randn(3, TOKENS, 7).double(),), {})).graph
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    found = prepare_streams(graph, analyze_graph(graph, 3), lambda name: False)
    assert found.centered
    assert len(count) == labels
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())
