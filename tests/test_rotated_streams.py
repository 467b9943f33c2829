"""Rotated residual streams: what `auto` does with them, and what carries them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.allocate import expected_cost
from fxprune.allocate.allocation import allocate
from fxprune.errors import PlanError, StorageError
from fxprune.fit.build import trial_error
from fxprune.plans.methods import METHODS
from fxprune.plans.plan import Plan
from fxprune.timing.speeds import Speeds
from tests.nets import session_of
from tests.streams import KINDS, RANK, WIDTH, distance, inputs, net, quiet


@pytest.fixture(
    scope="module",
    params=["layer, readers without biases", "rms without weights", "rms written out"],
)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Any]:
    made = net(request.param)
    return made, quiet(fxprune.compress, made, inputs(), flops=0.6)


def test_a_stream_of_few_directions_costs_nothing(pair: tuple[nn.Module, Any]) -> None:
    """No selection of channels could keep it: all are read, and none repeats."""
    made, small = pair
    plan = fxprune.plan_of(small)
    assert plan.streams == ("embed",)
    assert plan.widths["embed"] <= RANK + 2
    x = inputs(seed=2)
    with torch.no_grad():
        assert distance(made(x), small(x)) < 1e-4
        assert distance(small(x), fxprune.masked(made, small)(x)) < 1e-5


def test_the_same_plan_again_from_json(pair: tuple[nn.Module, Any]) -> None:
    made, small = pair
    plan = fxprune.plan_of(small)
    read = Plan.from_json(plan.to_json())
    assert read == plan
    again = quiet(fxprune.apply, made, read, inputs())
    x = inputs(seed=2)
    with torch.no_grad():
        torch.testing.assert_close(again(x), small(x), atol=1e-4, rtol=1e-3)
    assert fxprune.plan_of(again) == plan


def test_what_comes_back_is_saved_and_loaded(pair: tuple[nn.Module, Any], tmp_path: Path) -> None:
    made, small = pair
    fxprune.save(small, tmp_path / "small")
    x = inputs(seed=2)
    loaded = fxprune.load(tmp_path / "small")
    with torch.no_grad():
        assert torch.equal(loaded(x), small(x))
    with pytest.raises(StorageError, match="folded into the layers around them"):
        fxprune.load(tmp_path / "small", into=made)


def test_another_checkpoint_takes_the_plan_and_another_network_does_not(
    pair: tuple[nn.Module, Any],
) -> None:
    made, small = pair
    plan = fxprune.plan_of(small)
    kind = next(k for k, (norm, bias) in KINDS.items() if _alike(made, norm, bias))
    other = net(kind, seed=3)
    again = quiet(fxprune.apply, other, plan, inputs())
    x = inputs(seed=2)
    with torch.no_grad():
        assert distance(again(x), fxprune.masked(other, again)(x)) < 1e-5
    other.head = nn.Sequential(nn.GELU(), nn.Linear(WIDTH, 4))
    with pytest.raises(PlanError, match="cannot be rotated"):
        quiet(fxprune.apply, other.eval(), plan, inputs())


def _alike(made: nn.Module, norm: Any, bias: bool) -> bool:
    own: Any = made
    return str(norm(WIDTH)) == str(own.norm) and bias == (own.blocks[0].up.bias is not None)


def test_analyze_says_which_streams_may_be_rotated() -> None:
    found = fxprune.analyze(net(), inputs(2))
    assert "embed" in found.rotatable
    bent: Any = net()
    bent.head = nn.Sequential(nn.GELU(), nn.Linear(WIDTH, 4))
    assert "embed" in fxprune.analyze(bent, inputs(2)).rotatable  # with a map behind the last norm
    found = fxprune.analyze(bent, inputs(2), ignore="*norm*")
    assert "embed" not in found.rotatable


def test_analyze_names_a_stream_that_the_model_gives_out() -> None:
    """Which is no channel group as it stands, and is rotated with a map before the output."""
    bare: Any = net()
    bare.head = nn.Identity()
    found = fxprune.analyze(bare, inputs(2))
    assert "embed" not in {group.name for group in found.groups}
    assert found.rotatable == found.with_maps == ("embed",)
    assert str(found).endswith("\nembed: rotatable with maps")
    assert not fxprune.analyze(bare, inputs(2), ignore="embed*").rotatable
    small = quiet(fxprune.compress, bare, inputs(), flops=0.7, effort=3)
    assert fxprune.plan_of(small).streams == found.with_maps


def test_a_head_may_read_the_stream_itself() -> None:
    """With the mean that the norms of the blocks take away: a coordinate of its own."""
    made: Any = net()
    made.norm = nn.Identity()
    small = quiet(fxprune.compress, made, inputs(), flops=0.6)
    plan = fxprune.plan_of(small)
    assert plan.streams == ("embed",)
    assert not plan.maps
    assert plan.widths["embed"] < WIDTH - 1
    x = inputs(seed=2)
    with torch.no_grad():
        assert distance(made(x), small(x)) < 1e-4
        assert distance(small(x), fxprune.masked(made, small)(x)) < 1e-5
    read = Plan.from_json(plan.to_json())
    again = quiet(fxprune.apply, made, read, inputs())
    assert fxprune.plan_of(again) == plan


def test_a_stream_may_be_named_by_its_norm() -> None:
    """Which is gone once it is folded."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.embed = nn.LayerNorm(8), nn.Linear(7, 8)
            self.up, self.down, self.head = nn.Linear(8, 9), nn.Linear(9, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            x = x + self.down(torch.relu(self.up(self.norm(x))))
            logits: Tensor = self.head(self.norm(x))
            return logits

    found = fxprune.analyze(Block().eval(), inputs(2))
    assert [group.name for group in found.groups] == ["norm", "up"]
    assert found.rotatable == ("norm",)


def test_what_is_ignored_stays() -> None:
    small = quiet(fxprune.compress, net(), inputs(), flops=0.7, ignore="*norm*")
    assert not fxprune.plan_of(small).streams
    assert small.get_parameter("place").shape[-1] == WIDTH


def test_a_stream_that_errs_more_rotated_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made = net()
    session = session_of(made, inputs())
    monkeypatch.setattr("fxprune.allocate.allocation._with_rotated_streams", lambda problem: None)
    wanted = allocate(session, {"flops": 0.6}).plan
    monkeypatch.undo()

    def worse(session: Any, *args: Any) -> float:
        return trial_error(session, *args) * (1e9 if session.unfolded else 1.0)

    monkeypatch.setattr("fxprune.allocate.search.trial_error", worse)
    assert allocate(session_of(made, inputs()), {"flops": 0.6}).plan == wanted


@pytest.mark.parametrize(
    "options", [{"method": "paper"}, {"effort": 1}, {"uniform_across": "blocks.*"}]
)
def test_where_nothing_is_tried_no_norm_is_looked_at(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("fxprune.session.prepare_streams", fail)
    small = quiet(fxprune.compress, net(), inputs(), flops=0.7, **options)
    assert not fxprune.plan_of(small).streams


def test_the_forecast_knows_of_the_other_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected_cost, "measure_speeds", lambda *_: Speeds(1.0, 0, 0, 0, 0))
    session = session_of(net(), inputs())
    rotated, selected = (
        expected_cost.expect_cost(session.using(method=method), {"flops": 0.6}).seconds
        for method in (METHODS["auto"], replace(METHODS["auto"], streams=False))
    )
    assert rotated["calibrate"] == 2 * selected["calibrate"]
    # One search for the stream as it is, one for its channels selected, one for it rotated.
    assert rotated["allocate"] == pytest.approx(1.5 * selected["allocate"])


def test_a_plan_without_streams_reads_as_before() -> None:
    small = quiet(fxprune.compress, net(), inputs(), flops=0.7, effort=1)
    document = json.loads(fxprune.plan_of(small).to_json())
    assert document["version"] == 2
    assert "folded" not in document


def test_a_checkpointed_run_gives_the_same(tmp_path: Path) -> None:
    made, x = net(), inputs(seed=2)
    small = quiet(fxprune.compress, made, inputs(), flops=0.6, checkpoint=tmp_path)
    wanted = quiet(fxprune.compress, made, inputs(), flops=0.6)
    with torch.no_grad():
        assert torch.equal(small(x), wanted(x))
