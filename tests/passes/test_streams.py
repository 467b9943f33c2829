"""Channels that are normalized together: what is left of them equals the masked original, whose
statistics count the removed ones as zeros.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from fxprune.label.keep import keep_all
from fxprune.label.kept_statistics import calls_that_keep_statistics
from fxprune.plans.plan import make_plan
from tests.nets import Net
from tests.passes.test_reduce_channels import choose, distance, masked, reduced
from tests.rules.golden import reasons

WIDTH = 12
EXACT = 1e-12


class Rms(nn.Module):
    """As language models write it."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1)
        normed: Tensor = self.weight * (x * scale)
        return normed


class Apart(nn.Module):
    """A norm of the channels on axis 1."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.transpose(1, 2))
        return normed.transpose(1, 2)


class Response(nn.Module):
    """Global response normalization (Woo et al. 2023), along positions and then channels."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        energy = torch.norm(x, p=2, dim=1, keepdim=True)
        normed: Tensor = x + self.scale * (x * (energy / (energy.mean(-1, keepdim=True) + 0.1)))
        return normed


class Unit(nn.Module):
    """L2 normalization."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer norm": partial(nn.LayerNorm, eps=0.1),
    "layer norm without weights": partial(nn.LayerNorm, elementwise_affine=False),
    "layer norm without a bias": partial(nn.LayerNorm, bias=False),
    "rms norm": partial(nn.RMSNorm, eps=0.1),
    "rms norm of default eps": nn.RMSNorm,
    "rms norm without weights": partial(nn.RMSNorm, eps=0.1, elementwise_affine=False),
    "rms norm by hand": Rms,
    "group norm": lambda width: Apart(nn.GroupNorm(3, width, eps=0.1)),
    "group norm of one group": lambda width: Apart(nn.GroupNorm(1, width, eps=0.1)),
    "group norm without weights": lambda width: Apart(nn.GroupNorm(3, width, affine=False)),
    "response norm": Response,
    "unit length": lambda width: Unit(),
}


class Encoder(nn.Module):
    """A pre-norm block on a stream, with positions; or its norms behind the additions."""

    def __init__(self, norm: Callable[[int], nn.Module], behind: bool = False):
        super().__init__()
        self.behind = behind
        self.embed, self.positions = nn.Linear(5, WIDTH), nn.Parameter(torch.randn(7, WIDTH))
        self.first, self.second, self.last = norm(WIDTH), norm(WIDTH), norm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down, self.head = (
            nn.Linear(WIDTH, 9),
            nn.Linear(9, WIDTH),
            nn.Linear(WIDTH, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.positions
        if self.behind:
            x = self.first(x + self.attend(x))
            x = self.second(x + self.down(F.gelu(self.up(x))))
        else:
            x = x + self.attend(self.first(x))
            x = x + self.down(F.gelu(self.up(self.second(x))))
        logits: Tensor = self.head(self.last(x).mean(1))
        return logits

    def attend(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 3
        mixed: Tensor = self.out(torch.softmax(scores, -1) @ self.value(x))
        return mixed


def randomized(net: nn.Module) -> nn.Module:
    """In double precision, with weights that nothing has chosen."""
    torch.manual_seed(1)
    for parameter in net.parameters():
        parameter.data = parameter.data.double() + 0.4 * torch.randn(parameter.shape).double()
    return net.eval()


def prove(net: nn.Module, x: Tensor, stream: str, width: int, batches: bool = True) -> Analysis:
    """Remove channels at random; the named group, of so many channels, among them."""
    captured = capture(net, make_batch((x,), {}))
    analysis = analyze_graph(captured.graph, len(x))
    group = next(group for group in analysis.groups if group.name == stream)
    assert group.channels == width
    assert stream in analysis.normalized
    with torch.no_grad():
        assert torch.equal(reduced(captured, analysis, keep_all(analysis))(x), net(x))
        for seed, kept in ((0, 0), (1, 0), (2, 1), (3, int(0.8 * group.width))):
            keep_mask = choose(analysis, seed, kept)
            small = reduced(captured, analysis, keep_mask)
            plan = make_plan(analysis, keep_mask, net.state_dict(), "random", {})
            big = masked(net, small, plan)
            for size in (1, len(x), 3) if batches else (len(x),):
                sample = torch.cat([x, x.flip(1)])[:size]
                assert distance(big(sample), small(sample)) <= EXACT
    return analysis


@pytest.mark.parametrize("name", NORMS)
def test_a_residual_stream_loses_channels(name: str) -> None:
    torch.manual_seed(0)
    net = randomized(Encoder(NORMS[name]))
    prove(net, torch.randn(2, 7, 5, dtype=torch.float64), "embed", WIDTH)


@pytest.mark.parametrize("name", ["layer norm", "rms norm", "rms norm by hand"])
def test_norms_behind_the_additions_make_channels_that_vanish(name: str) -> None:
    torch.manual_seed(0)
    net = randomized(Encoder(NORMS[name], behind=True))
    prove(net, torch.randn(2, 7, 5, dtype=torch.float64), "embed", WIDTH)


def test_channels_that_do_not_vanish_before_a_norm_stay_and_it_is_said() -> None:
    torch.manual_seed(0)
    # Without a weight a layer norm makes numbers of removed channels: minus their mean.
    net = randomized(Encoder(NORMS["layer norm without weights"], behind=True))
    captured = capture(net, make_batch((torch.randn(2, 7, 5, dtype=torch.float64),), {}))
    analysis = analyze_graph(captured.graph, 2)
    assert "embed" not in {group.name for group in analysis.groups}
    assert "normalized across channels, and does not vanish with its weights" in reasons(analysis)


def test_embeddings_that_the_head_shares_lose_channels_together() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.norm = nn.Embedding(20, 8), nn.LayerNorm(8)
            self.up, self.down = nn.Linear(8, 6), nn.Linear(6, 8)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.table(ids)
            x = x + self.down(torch.relu(self.up(self.norm(x))))
            return F.linear(self.norm(x), self.table.weight)

    prove(randomized(Tied()), torch.randint(0, 20, (2, 5)), "norm", 8)


def test_a_norm_of_four_pixels_channels_at_once_loses_each_channel_four_times() -> None:
    class Merging(nn.Module):
        """Swin's patches, merged by two and two."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 6, 1), nn.LayerNorm(24, eps=0.1)
            self.merge, self.head = nn.Linear(24, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).permute(0, 2, 3, 1)
            parts = [x[:, i::2, j::2] for j in range(2) for i in range(2)]
            merged = self.merge(self.norm(torch.cat(parts, -1)))
            logits: Tensor = self.head(torch.relu(merged))
            return logits

    prove(randomized(Merging()), torch.randn(2, 3, 4, 4).double(), "stem", 6)


def test_maps_are_normalized_over_channels_and_pixels() -> None:
    layers = {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1)}
    norms = {
        "maps": nn.LayerNorm((6, 4, 4), eps=0.1),
        "channels": nn.LayerNorm(6, eps=0.1),
    }
    net = Net(
        lambda s, x: s.b(s.channels(s.maps(s.a(x)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        **layers,
        **norms,
    )
    prove(randomized(net), torch.randn(2, 3, 4, 4).double(), "a", 6)


SUMS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(1, keepdim=True),
    "mean of all": lambda x: x + 0 * x.mean() + x.mean(),
    "sum": lambda x: x.sum(1, keepdim=True),
    "largest": lambda x: torch.linalg.vector_norm(x, float("inf"), 1, keepdim=True),
}


@pytest.mark.parametrize("name", SUMS)
def test_channels_that_are_summed_go_where_they_vanish(name: str) -> None:
    layers = {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(6, 2, 1)}
    net = Net(lambda s, x: s.b(s.a(x).relu() * torch.sigmoid(SUMS[name](s.a(x).relu()))), **layers)
    x = torch.randn(2, 3, 4, 4).double()
    prove(randomized(net), x, "a", 6, batches=name != "mean of all")
    stays = Net(lambda s, x: s.b(s.a(x) * SUMS[name](s.a(x).exp())), **layers)
    captured = capture(randomized(stays), make_batch((x,), {}))
    analysis = analyze_graph(captured.graph, 2)
    assert not analysis.groups
    assert "does not vanish with its weights, and is summed over" in reasons(analysis)


def test_calls_whose_statistics_count_what_is_gone_are_named() -> None:
    torch.manual_seed(0)
    net = randomized(Encoder(NORMS["layer norm"]))
    captured = capture(net, make_batch((torch.randn(2, 7, 5, dtype=torch.float64),), {}))
    analysis = analyze_graph(captured.graph, 2)
    everything = keep_all(analysis)
    assert calls_that_keep_statistics(captured.graph, analysis, everything) == []
    assert calls_that_keep_statistics(captured.graph, analysis, choose(analysis, 0, 3)) == [
        "first: layer_norm",
        "second: layer_norm_1",
        "last: layer_norm_2",
    ]


def test_the_eps_that_a_norm_does_not_name_is_that_of_the_type_it_is_moved_to() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.RMSNorm(8), nn.Linear(8, 8))
    captured = capture(net, make_batch((torch.randn(2, 3),), {}))
    analysis = analyze_graph(captured.graph, 2)
    keep_mask = choose(analysis, 0, 4)
    small = reduced(captured, analysis, keep_mask)
    big = masked(net, small, make_plan(analysis, keep_mask, net.state_dict(), "random", {}))
    for dtype in (torch.bfloat16, torch.float64):
        x = (torch.randn(2, 3) * 1e-3).to(dtype)
        big, small = big.to(dtype), small.to(dtype)
        with torch.no_grad():
            assert distance(big(x).float(), small(x).float()) <= 4 * torch.finfo(dtype).eps
