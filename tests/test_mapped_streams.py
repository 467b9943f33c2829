"""Streams whose norms or edges need layers that the original does not have: a post-norm network, a
head that is the embedding, an activation and an output, through the whole pipeline.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.allocate.allocation import allocate
from fxprune.errors import PlanError, StorageError
from fxprune.fit.build import trial_error
from fxprune.plans.methods import METHODS
from fxprune.plans.plan import Plan
from tests.nets import session_of
from tests.streams import distance, quiet

WIDTH, TOKENS, ROWS = 16, 5, 30


class PostNorm(nn.Module):
    """Norms behind the sums, as BERT has them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(7, WIDTH), nn.LayerNorm(WIDTH)
        self.ups = nn.ModuleList(nn.Linear(WIDTH, 24) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(24, WIDTH) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x))
        for up, down, norm in zip(self.ups, self.downs, self.norms, strict=True):
            x = norm(x + down(torch.relu(up(x))))
        logits: Tensor = self.head(x.mean(1))
        return logits


class Tied(nn.Module):
    """A pre-norm block; the head is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, WIDTH)
        self.norm, self.last = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.table(x)
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return nn.functional.linear(self.last(x).mean(1), self.table.weight)


class Spoken(nn.Module):
    """An activation writes the stream; what a block adds to it is given out beside the logits, and
    so is the stream, with the mean that the norms take away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(7, WIDTH, 3, padding=1)
        self.norm, self.last = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down, self.head = (
            nn.Linear(WIDTH, 24),
            nn.Linear(24, WIDTH),
            nn.Linear(WIDTH, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.gelu(self.stem(x.transpose(1, 2))).transpose(1, 2)
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        logits: Tensor = self.head(self.last(x).mean(1))
        return torch.cat([logits, x.mean(1)], 1)


def drawn(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """With norms of their own weights, and a stream of few directions where the head is tied."""
    torch.manual_seed(seed)
    made: Any = kind().eval()
    with torch.no_grad():
        if kind is Tied:
            basis = torch.linalg.qr(torch.randn(WIDTH, 9))[0]
            turned = basis @ basis.T
            made.table.weight.copy_(made.table.weight @ turned)
            made.down.weight.copy_(turned @ made.down.weight)
            made.down.bias.copy_(turned @ made.down.bias)
        for name, tensor in made.named_parameters():
            if "norm" in name or "last" in name:
                tensor.add_(0.3 * torch.randn_like(tensor))
    return made  # type: ignore[no-any-return]


def inputs(kind: type[nn.Module], count: int = 240, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    if kind is Tied:
        return torch.randint(ROWS, (count, TOKENS), generator=draw)
    return torch.randn(count, TOKENS, 7, generator=draw)


MAPS: dict[type[nn.Module], tuple[str, ...]] = {
    PostNorm: ("norm_map", "norms.0_map"),
    Tied: ("last_map",),
    Spoken: ("stream_map", "stream_map2"),
}


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps are a large part of so small a network."""
    monkeypatch.setattr("fxprune.intake.DEAREST", 1.0)


@pytest.fixture(scope="module", params=MAPS)
def pair(request: pytest.FixtureRequest) -> tuple[type[nn.Module], nn.Module, Any]:
    made = drawn(request.param)
    with pytest.MonkeyPatch.context() as patch:
        # Whether it pays is the search's to say; here it is asked what it gives.
        patch.setattr("fxprune.allocate.allocation.rotated_problem", lambda problem: None)
        patch.setattr("fxprune.allocate.allocation._with_narrower_streams", lambda problem: None)
        patch.setattr("fxprune.allocate.search.trial_error", _favoring_streams())
        patch.setattr("fxprune.intake.DEAREST", 1.0)
        return request.param, made, quiet(fxprune.compress, made, inputs(request.param), flops=0.7)


def _favoring_streams() -> Any:
    def favoring(session: Any, *args: Any) -> float:
        return trial_error(session, *args) * (1e-9 if session.unfolded else 1.0)

    return favoring


def test_what_is_left_equals_zeros_in_the_original(pair: tuple[Any, nn.Module, Any]) -> None:
    kind, made, small = pair
    plan = fxprune.plan_of(small)
    assert plan.maps == MAPS[kind]
    assert any(plan.widths[name] < WIDTH for name in plan.streams)
    x = inputs(kind, 20, 2)
    full = fxprune.masked(made, small)
    with torch.no_grad():
        assert distance(small(x), full(x)) < 1e-5
        assert distance(made(x), small(x)) < 0.5
    assert full.get_parameter(f"{plan.maps[0]}.weight").shape == (WIDTH, WIDTH)


def test_the_masked_original_is_no_part_of_the_caller_s(pair: tuple[Any, nn.Module, Any]) -> None:
    kind, made, small = pair
    x = inputs(kind, 20, 2)
    with torch.no_grad():
        wanted = made(x)
        for tensor in fxprune.masked(made, small).parameters():
            tensor.zero_()
        assert torch.equal(made(x), wanted)


def test_maps_are_paid_for(pair: tuple[Any, nn.Module, Any]) -> None:
    _, _, small = pair
    report = fxprune.report(small)
    assert report.flops[1] <= 0.7 * report.flops[0]
    assert report.params[1] == sum(p.numel() for p in small.parameters())
    assert any("linear layers that the original does not have" in note for note in report.notes)


def test_the_original_s_flops_are_the_original_s(pair: tuple[Any, nn.Module, Any]) -> None:
    kind, made, small = pair
    plain = quiet(fxprune.compress, made, inputs(kind), flops=0.7, effort=1)
    assert fxprune.report(small).flops[0] == fxprune.report(plain).flops[0]


def test_the_same_plan_again_from_json(pair: tuple[Any, nn.Module, Any]) -> None:
    kind, made, small = pair
    plan = fxprune.plan_of(small)
    read = Plan.from_json(plan.to_json())
    assert read == plan
    again = quiet(fxprune.apply, made, read, inputs(kind))
    x = inputs(kind, 20, 2)
    with torch.no_grad():
        torch.testing.assert_close(again(x), small(x), atol=1e-4, rtol=1e-3)
    assert fxprune.plan_of(again) == plan


def test_saved_loaded_and_trained(pair: tuple[Any, nn.Module, Any], tmp_path: Path) -> None:
    kind, made, small = pair
    fxprune.save(small, tmp_path / "small")
    x = inputs(kind, 20, 2)
    loaded = fxprune.load(tmp_path / "small")
    with torch.no_grad():
        assert torch.equal(loaded(x), small(x))
        trained = quiet(fxprune.recover, loaded, made, inputs(kind), epochs=1)
        assert distance(trained(x), fxprune.masked(made, trained)(x)) < 1e-5
    with pytest.raises(StorageError, match="folded into the layers around them"):
        fxprune.load(tmp_path / "small", into=made)


def test_another_network_has_no_place_for_them(pair: tuple[Any, nn.Module, Any]) -> None:
    kind, _, small = pair
    other: Any = drawn(kind)
    name = "norm" if kind is PostNorm else "last"
    setattr(other, name, nn.Sequential(getattr(other, name), nn.GELU()))
    with pytest.raises(PlanError, match="cannot be rotated|plan and the model disagree"):
        quiet(fxprune.apply, other.eval(), fxprune.plan_of(small), inputs(kind))
    with pytest.raises(PlanError, match="cannot be folded as those of the compressed model were"):
        fxprune.masked(other, small)


def test_maps_that_are_dear_are_for_those_who_ask_for_effort() -> None:
    made, x = drawn(PostNorm), inputs(PostNorm, 40)
    session = session_of(made, x)
    assert not session.streams.maps
    assert replace(session, for_maps=1.0).streams.maps == MAPS[PostNorm]
    tried = session_of(made, x, effort=3)
    assert tried.streams.maps == MAPS[PostNorm]


def test_what_is_too_dear_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The price is known before a graph with maps is labeled."""

    def fail(*args: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("fxprune.profile.mapped.Maps.insert", fail)
    assert not session_of(drawn(PostNorm), inputs(PostNorm, 40)).streams.maps


def test_maps_before_outputs_are_paid_for_too() -> None:
    """They stand there where they are cheap."""

    class Given(PostNorm):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.back = nn.Linear(WIDTH, 100), nn.Linear(100, WIDTH)
            self.inner = nn.LayerNorm(WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.embed(x))
            x = self.back(torch.relu(self.wide(x)))
            x = x + self.downs[0](torch.relu(self.ups[0](self.inner(x))))
            return torch.cat([self.head(self.norms[0](x)), x], -1)

    found = session_of(drawn(Given), inputs(Given, 40))
    assert "stream_map" in found.streams.maps
    assert not replace(found, for_maps=0.01).streams.maps


def test_where_maps_cost_more_than_is_left_there_are_none(cheap: None) -> None:
    """Every group keeps so much that the maps alone would be beyond the limit."""
    made = drawn(PostNorm)
    small = quiet(fxprune.compress, made, inputs(PostNorm), flops=0.95, keep={"*": 0.9})
    assert not fxprune.plan_of(small).maps


def test_a_model_that_takes_nests_has_none(cheap: None) -> None:
    """Its shapes could not be told again, to make the masked original."""

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = PostNorm()

        def forward(self, pair: dict[str, Tensor]) -> Tensor:
            found: Tensor = self.inner(pair["first"])
            return found

    x = inputs(PostNorm, 40)
    assert session_of(drawn(PostNorm), x).streams.maps
    assert not session_of(drawn(Nested), [{"pair": {"first": x}}]).streams.maps


def test_the_search_decides(cheap: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What errs more is not taken, though it was tried."""
    made, x = drawn(PostNorm), inputs(PostNorm)
    selected = replace(METHODS["auto"], streams=False)
    wanted = allocate(session_of(made, x).using(method=selected), {"flops": 0.7}).plan
    favoring = _favoring_streams()

    def against(session: Any, *args: Any) -> float:
        error: float = favoring(session, *args)
        return error * (1e18 if session.unfolded else 1.0)

    monkeypatch.setattr("fxprune.allocate.search.trial_error", against)
    assert allocate(session_of(made, x), {"flops": 0.7}).plan == wanted
