"""Random networks: a short run, every construct once with channels that go, and the machinery."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import graphs
from benchmarks.random_graphs import ledger
from benchmarks.random_graphs.constructs import CONSTRUCTS
from benchmarks.random_graphs.judge import EQUAL, FAILURES, INVALID, NOTHING, WRONG, Outcome, judge
from benchmarks.random_graphs.page import bound
from benchmarks.random_graphs.recipe import Block, Input, Recipe, draw_recipe, write
from benchmarks.random_graphs.shrink import is_failure, shrink, snippet
from benchmarks.random_graphs.tracing import UntraceableError, trace
from fxprune.label.arguments import CHANGES
from tests.nets import Net

INPUTS = (
    Input("map", (4, 4, 4)),
    Input("tokens", (4, 4)),
    Input("flat", (4,)),
    Input("map", (4, 6)),
    Input("map", (3, 2, 2, 2)),
)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "first", [10, *(pytest.param(first, marks=SLOW) for first in (0, 20, 30, 40, 50))]
)
def test_random_networks_equal_the_masked_original(first: int) -> None:
    for seed in range(first, first + 10):
        outcome = judge(draw_recipe(seed), "traced")
        assert outcome.verdict in (EQUAL, NOTHING), (seed, outcome.text)


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_channels_go_through_every_construct(name: str) -> None:
    verdicts = set()
    for seed in range(40):
        block = Block(name, seed, 6, 0)
        given = INPUTS[seed % len(INPUTS)]
        recipe = Recipe(seed, (given,), (block,), "one", "float64")
        if write(recipe).used != (name,):
            continue
        outcome = judge(recipe, "traced")
        assert not is_failure(outcome), (seed, outcome.text)
        verdicts.add(outcome.verdict if outcome.effect > ledger.VISIBLE else "")
        if EQUAL in verdicts:
            break
    assert EQUAL in verdicts


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=SLOW), 7])
def test_torch_export_gives_the_same_groups(seed: int) -> None:
    assert judge(replace(draw_recipe(seed), dtype="float64"), "exported").verdict == EQUAL


LATER = (
    *("flat_graph", "looped", "placed", "frequencies", "distances", "composite", "assigned"),
    *("shaped_like", "discarded", "frozen_norm", "held_numbers", "relaid", "bucketed_attention"),
    *("disentangled_attention", "convolved_attention", "routed", "response_norm", "cosine"),
)
"""Constructs without which these seeds were drawn."""


@pytest.mark.parametrize(
    ("seed", "why"),
    [
        (202238, "as it was written: view size"),
        pytest.param(101516, "an output is rounding alone", marks=SLOW),
        (415854, "an output is rounding alone"),
    ],
)
def test_what_does_not_run_or_gives_rounding_alone_is_no_network(
    seed: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LATER:
        monkeypatch.delitem(CONSTRUCTS, name)
    outcome = judge(draw_recipe(seed), "traced")
    assert (outcome.verdict, outcome.text[: len(why)]) == (INVALID, why)


def test_sizes_that_follow_the_batch_stay_free() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = net.layer(x.reshape(x.shape[0] * 2, 4)).view(x.size(0), -1)
        return result

    net = Net(forward, layer=torch.nn.Linear(4, 3)).eval()
    graph = trace(net, (torch.randn(2, 8),), (torch.randn(5, 8),))
    x = torch.randn(7, 8)
    torch.testing.assert_close(graph(x)[0], net(x))


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.layer(x) * (1 / x.shape[0]),
        lambda net, x: net.layer(x) if x.shape[0] > 3 else net.layer(x).relu(),
    ],
    ids=["a mean over the batch", "a branch on the batch"],
)
def test_what_depends_on_the_batch_is_not_traced(
    forward: Callable[[Any, torch.Tensor], torch.Tensor],
) -> None:
    net = Net(forward, layer=torch.nn.Linear(4, 3)).eval()
    with pytest.raises(UntraceableError):
        trace(net, (torch.randn(2, 4),), (torch.randn(5, 4),))


@pytest.mark.slow
def test_a_failure_is_made_small_and_runs_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass is made to forget that an attention's scale follows its channels."""
    monkeypatch.delitem(CHANGES, "aten.scaled_dot_product_attention")
    names = ("feed_forward", "attention", "token_mixing")
    failing = []
    for seed in range(60):
        blocks = tuple(Block(name, seed, 6, 0) for name in names)
        recipe = Recipe(seed, INPUTS[1:2], blocks, "one", "float64")
        if "scaled_dot_product_attention" in write(recipe).source:
            outcome = judge(recipe, "traced")
            if outcome.verdict == WRONG:
                failing.append((recipe, outcome))
                break
    small = shrink(*failing[0], tries=60)
    left = [block.construct for block in small.blocks]
    assert "attention" in left
    assert "token_mixing" not in left
    assert judge(small, "traced").verdict == WRONG
    text = snippet(small)
    assert "scaled_dot_product_attention" in text
    exec(compile(text, "snippet", "exec"), {})


def outcome(seed: int, verdict: str, text: str = "") -> Outcome:
    return Outcome(seed, verdict, text, operators=14, effect=1.0, used=("gated",))


def test_shards_add_up(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for first in (0, 1):
        shard = ledger.Shard(first, first, 2, "version")
        shard.add(outcome(first, EQUAL))
        shard.add(outcome(first + 2, FAILURES[0], "differs"))
        ledger.append(path, shard)
    held = ledger.read(path)
    total = ledger.together(held)
    assert (total.count, total.visible, total.constructs["gated."]) == (4, 2, 2)
    assert [failure[0] for failure in total.failures] == [2, 3]
    assert [ledger.following(held, residue, 2) for residue in (0, 1)] == [4, 5]


def test_no_failure_in_many_bounds_the_rate_by_three_in_as_many() -> None:
    assert bound(0, 100_000) == pytest.approx(3 / 100_000, rel=2e-3)
    assert bound(1, 1000) > bound(0, 1000)
    assert bound(0, 0) == 1.0


def test_the_command_writes_ledger_and_page(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(graphs.main)
    held, out = tmp_path / "ledger.jsonl", tmp_path / "page.md"
    arguments = ["--graphs", "4", "--seed", "100", "--ledger", str(held), "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert ledger.read(held)[0].last == 103
    assert "| networks | 4 | 4 |" in out.read_text()
