"""Layers as two: exact at full rank, equal to their merged weight at any, and what that keeps on
trained networks.
"""

import copy
import itertools
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

import fxprune
from benchmarks.nets import trained
from fxprune.allocate.ranks import METHODS, Choices, allocate_choices
from fxprune.calibrate.moments import calibrate
from fxprune.calibrate.recording import Recording
from fxprune.calibrate.spill import Spill
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.demo.data import DemoData, load
from fxprune.errors import BudgetError, PlanError, UnsupportedError
from fxprune.fit.factor import factored, merged
from fxprune.fit.lockstep import Lockstep
from fxprune.graph.nodes import attribute
from fxprune.label.analysis import analyze_graph
from fxprune.label.layers import factorable
from fxprune.linalg import alds, pca, svd
from fxprune.passes import Factorize, LiftModules
from fxprune.plans.factoring import Factoring
from fxprune.plans.plan import Plan
from tests.nets import images, loader, tiny

EXACT = 1e-10


def distance(expected: Tensor, found: Tensor) -> float:
    assert expected.shape == found.shape
    return float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-30))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Numerics


def test_svd_factors_are_the_best_of_their_rank() -> None:
    matrices = normal(2, 3, 7, 5)
    tail = svd.dropped(matrices)
    values = np.array([scipy.linalg.svdvals(m) for m in matrices.reshape(-1, 7, 5).numpy()])
    np.testing.assert_allclose(tail, [(values[:, r:] ** 2).sum() for r in range(6)], atol=1e-12)
    for rank in (1, 3, 5):
        left, right = svd.factor(matrices, rank)
        assert (left.shape, right.shape) == ((2, 3, 7, rank), (2, 3, rank, 5))
        torch.testing.assert_close(
            left.mT @ left, torch.eye(rank, dtype=torch.float64).expand(2, 3, rank, rank)
        )
        assert float((matrices - left @ right).square().sum()) == pytest.approx(
            tail[rank], abs=1e-12
        )


@pytest.mark.parametrize("intercept", [True, False])
def test_pca_is_the_reduced_rank_regression(intercept: bool) -> None:
    x, noise, w = normal(200, 6, seed=1), normal(200, 5, seed=2), normal(5, 6, seed=3)
    x = x * torch.tensor([5.0, 3, 1, 1, 0.3, 0.1]) + 2
    y = x @ w.T + 1.5 + 0.3 * noise
    design = np.hstack([x.numpy(), np.ones((200, 1))]) if intercept else x.numpy()
    solution = np.linalg.lstsq(design, y.numpy(), rcond=None)[0].T
    weight, shift = (
        torch.from_numpy(solution[:, :6]),
        torch.from_numpy(solution[:, 6] if intercept else np.zeros(5)),
    )
    z = x @ weight.T
    mean, centered = z.mean(0), z - z.mean(0)
    for rank in (1, 2, 5):
        found, moved = pca.truncate(
            weight[None],
            shift[None],
            (centered.T @ centered / 200)[None],
            mean[None],
            rank,
            intercept,
        )
        assert np.linalg.matrix_rank(found[0].numpy()) == rank
        # Izenman 1975: project the fitted values (about their mean, where there is an intercept)
        # on their leading singular vectors.
        fitted = (centered if intercept else z).numpy()
        right = scipy.linalg.svd(fitted, full_matrices=False)[2][:rank]
        wanted = fitted @ right.T @ right + (y.mean(0).numpy() if intercept else 0)
        np.testing.assert_allclose((x @ found[0].T + moved[0]).numpy(), wanted, atol=1e-9)
        if intercept:
            error = np.square(z.numpy() + shift.numpy() - wanted).sum() / 200
            assert pca.dropped(centered.T @ centered / 200)[rank] == pytest.approx(error, abs=1e-9)


def test_alds_bounds_the_operator_norm() -> None:
    weight = normal(1, 1, 6, 12)
    whole = scipy.linalg.svdvals(weight[0, 0].numpy())
    np.testing.assert_allclose(alds.bounds(weight), [*(whole / whole[0]), 0])
    for parts in (2, 3, 4):
        cut = torch.stack(weight[0, 0].chunk(parts, 1))[None]
        found = alds.bounds(cut)
        for rank in range(1, min(cut.shape[-2:])):
            left, right = svd.factor(cut, rank)
            rest = torch.cat(list((cut - left @ right)[0]), 1)
            assert np.linalg.norm(rest.numpy(), 2) / whole[0] <= found[rank] + 1e-12


# Folding and the pass


@st.composite
def foldings(draw: st.DrawFn) -> tuple[tuple[int, ...], Factoring]:
    groups, encoders = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    shape = (groups * draw(st.integers(1, 4)), encoders * draw(st.integers(1, 4)), *kernel)
    how = Factoring(1, groups, encoders, bool(kernel) and draw(st.booleans()))
    return shape, Factoring(
        draw(st.integers(1, how.largest(shape))), groups, encoders, how.separable
    )


@settings(max_examples=100, deadline=None)
@given(foldings())
def test_factors_merge_back(folding: tuple[tuple[int, ...], Factoring]) -> None:
    shape, how = folding
    first, second = how.weights(*svd.factor(how.fold(normal(*shape)), how.rank), shape)
    assert (first.numel(), second.numel()) == how.sizes(shape)
    merged_back = how.merge(first, second, shape)
    assert int(torch.linalg.matrix_rank(how.fold(merged_back)).max()) <= how.rank
    if how.rank == how.largest(shape):
        assert distance(normal(*shape), merged_back) <= EXACT


class Alone(nn.Module):
    """One layer behind another, so that it has a name of its own."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.tanh(self.layer(x))
        return out


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 8), (6,)),
    "linear on tokens": (nn.Linear(6, 8, bias=False), (5, 6)),
    "1-D": (nn.Conv1d(6, 8, 3, stride=2, padding=1), (6, 9)),
    "1 x 1": (nn.Conv2d(6, 8, 1, stride=2), (6, 7, 7)),
    "2-D": (nn.Conv2d(6, 8, (3, 5), stride=(2, 1), padding=(1, 2), bias=False), (6, 9, 8)),
    "dilated": (nn.Conv2d(6, 8, 3, padding="same", dilation=2), (6, 9, 8)),
    "valid": (nn.Conv2d(6, 8, (1, 3), padding="valid"), (6, 9, 8)),
    "grouped": (nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2), (8, 9, 8)),
    "3-D": (
        nn.Conv3d(6, 8, 3, stride=(2, 1, 2), padding=(0, 1, 2), dilation=(1, 2, 1)),
        (6, 7, 8, 6),
    ),
}


def captured(kind: str) -> tuple[nn.Module, GraphModule, Tensor]:
    torch.manual_seed(0)
    layer, shape = LAYERS[kind]
    model = Alone(copy.deepcopy(layer)).double().eval()
    x = normal(2, *shape)
    return model, capture(model, make_batch((x,), {})).graph, x


FORMS = {"kernel first": (1, False), "separable": (1, True), "encoders": (2, False)}
KINDS = [
    (kind, form)
    for kind in LAYERS
    for form in FORMS
    if "linear" not in kind or form == "kernel first"
]
"""A linear layer has no kernel to separate and no grouped form."""


@pytest.mark.parametrize(("kind", "form"), KINDS, ids=lambda v: v)
def test_two_layers_equal_their_merged_weight(kind: str, form: str) -> None:
    """At full rank the original's outputs; below, those of the original with the factors
    multiplied back.
    """
    model, graph, x = captured(kind)
    weight, (encoders, separable) = attribute(model, "layer.weight"), FORMS[form]
    groups = getattr(model.layer, "groups", 1)
    largest = Factoring(1, groups, encoders, separable).largest(tuple(weight.shape))
    for rank in (largest, 2):
        how = Factoring(rank, groups, encoders, separable)
        small = LiftModules()(factored(copy.deepcopy(graph), {"layer.weight": how})).graph_module
        assert {n for n, _ in small.named_parameters()} == {"layer.0.weight", "layer.1.weight"} | (
            {"layer.1.bias"} if model.layer.bias is not None else set()
        )
        assert type(small.get_submodule("layer.1")) is type(model.layer)
        full = copy.deepcopy(model)
        plan = Plan({}, {"layer.weight": tuple(weight.shape)}, {}, factorings={"layer.weight": how})
        full.load_state_dict(merged(small.state_dict(), plan))
        with torch.no_grad():
            assert distance(full(x), small(x)) <= EXACT
            if rank == largest:
                assert distance(model(x), small(x)) <= EXACT


def test_the_pass_refuses_what_is_not_one_layers_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(torch.relu(self.layer(x)))
            return out

    graph = capture(Twice(), make_batch((torch.randn(2, 4),), {})).graph
    found, others = factorable(graph, lambda name: False)
    assert not found
    assert others == {"layer.weight": "several calls share it"}
    with pytest.raises(PlanError, match="layer.weight is not the weight of one layer"):
        Factorize({"layer.weight": (torch.ones(2, 4), torch.ones(4, 2))})(graph)


def test_factors_of_another_shape_are_an_error() -> None:
    with pytest.raises(PlanError, match="are not the factors of"):
        Factoring(2).merge(torch.ones(3, 4), torch.ones(5, 3), (5, 4))
    with pytest.raises(PlanError, match="rank is a whole number"):
        Factoring(0)


# Ranks


def offered(seed: int) -> list[Choices]:
    generator = np.random.default_rng(seed)
    result = []
    for layer in range(4):
        costs = np.append(0.25, np.linspace(0.03, 0.21, 6) * generator.uniform(0.8, 1.1))[:, None]
        errors = np.append(0.0, np.sort(generator.exponential(size=6))[::-1])
        result.append(Choices(f"{layer}", tuple(Factoring(r) for r in range(1, 7)), costs, errors))
    return result


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [0.3, 0.5, 0.8])
def test_ranks_are_the_best_under_the_limit(seed: int, limit: float) -> None:
    """Against all combinations: the smallest maximum exactly, the smallest sum up to one step of
    the most uneven layer.
    """
    layers = offered(seed)
    every = [
        c
        for c in itertools.product(range(7), repeat=4)
        if sum(x.costs[i, 0] for x, i in zip(layers, c, strict=True)) <= limit
    ]
    for minimax in (True, False):
        how = allocate_choices(layers, np.zeros(1), {"params": limit}, minimax)
        picks = [1 + x.factorings.index(how[x.weight]) if x.weight in how else 0 for x in layers]
        assert tuple(picks) in every
        found = [x.errors[i] for x, i in zip(layers, picks, strict=True)]
        merit = max if minimax else sum
        best = min(merit([x.errors[i] for x, i in zip(layers, c, strict=True)]) for c in every)
        steps = max(float(-np.diff(x.errors[1:]).min()) for x in layers)
        assert best - 1e-12 <= merit(found) <= best + (1e-12 if minimax else steps)


def test_a_limit_with_room_costs_nothing() -> None:
    """Two limits are not worse than the binding one alone."""
    layers = offered(0)
    both = [
        Choices(c.weight, c.factorings, np.hstack([c.costs, c.costs[::-1] / 50]), c.errors)
        for c in layers
    ]
    alone = allocate_choices(layers, np.zeros(1), {"params": 0.5}, minimax=False)
    together = allocate_choices(both, np.zeros(2), {"params": 0.5, "flops": 1.0}, minimax=False)
    errors = [
        sum(
            float(c.errors[1 + c.factorings.index(how[c.weight])])
            for c in layers
            if c.weight in how
        )
        for how in (together, alone)
    ]
    assert errors[0] <= errors[1]


def test_a_budget_out_of_reach_names_the_closest() -> None:
    with pytest.raises(
        BudgetError, match=r"params=0.01 cannot be reached by factoring: .* keeps params=0\.\d+"
    ):
        fxprune.factorize(tiny(), loader(), params=0.01, progress=False)


# The public call


class Mixed(nn.Module):
    """Strided, grouped and depthwise convolutions with and without BatchNorm, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = (
            nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
        )
        self.grouped, self.depthwise = (
            nn.Conv2d(16, 24, 3, stride=2, groups=2),
            nn.Conv2d(24, 24, 3, groups=24),
        )
        self.last, self.head = nn.Conv2d(24, 24, 3), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.norm(self.stem(x)))))
        logits: Tensor = self.head(torch.relu(self.last(self.depthwise(x))).mean((2, 3)))
        return logits


@cache
def data() -> DemoData:
    return load()


@cache
def original(name: str) -> nn.Module:
    if name == "mlp":
        return trained(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Mixed().eval()


@cache
def small_of(name: str, method: str) -> GraphModule:
    return fxprune.factorize(
        original(name), data().calibration[:200], params=0.6, method=method, progress=False
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp", "mixed"])
def test_masked_equivalence_and_budget(name: str, method: str) -> None:
    small, x = small_of(name, method), data().images[:200]
    found = fxprune.report(small)
    assert (
        0.5 * found.params[0]
        < found.params[1]
        == sum(p.numel() for p in small.parameters())
        <= 0.6 * found.params[0]
    )
    double, twin = copy.deepcopy(small).double(), copy.deepcopy(original(name)).double()
    with torch.no_grad():
        assert distance(fxprune.masked(original(name), small)(x), small(x)) <= 1e-4
        assert distance(fxprune.masked(twin, double)(x.double()), double(x.double())) <= EXACT
        same = (original(name)(x).argmax(1) == small(x).argmax(1)).double().mean()
    assert same >= (0.95 if name == "mlp" else 0)
    assert any(
        row.name.endswith("as two layers") and row.after < row.before for row in found.groups
    )


@pytest.mark.parametrize("name", ["mlp", "mixed"])
def test_with_the_data_the_outputs_keep_closer(name: str) -> None:
    x = data().images[:500]
    with torch.no_grad():
        reference = original(name)(x)
        errors = {m: float((small_of(name, m)(x) - reference).square().mean()) for m in METHODS}
    assert errors["pca"] < min(errors[m] for m in METHODS if m != "pca")


def test_one_layer_becomes_the_pca_of_its_outputs() -> None:
    torch.manual_seed(0)
    net, x = (
        nn.Sequential(nn.Linear(12, 10), nn.Identity()).double(),
        normal(400, 12) @ normal(12, 12, seed=1) + 1,
    )
    small = fxprune.factorize(net, x, params=0.7, progress=False)
    rank = fxprune.plan_of(small).factorings["0.weight"].rank
    with torch.no_grad():
        y, found = net(x), small(x)
    basis = scipy.linalg.svd((y - y.mean(0)).numpy(), full_matrices=False)[2][:rank]
    best = float(np.square((y - y.mean(0)).numpy() @ (np.eye(10) - basis.T @ basis)).sum())
    # The fit leaves a fifth of the examples out.
    assert best <= float((y - found).square().sum()) <= 1.05 * best


def test_layers_too_wide_for_a_refit_are_truncated_by_their_outputs() -> None:
    net, x = original("mlp"), data().calibration[:200]
    graph = capture(net, make_batch((x[:2],), {})).graph
    analysis, name = analyze_graph(graph, 2), "layers.1.weight"
    small, plain = copy.deepcopy(graph), copy.deepcopy(graph)
    recording = Recording(graph, len(x), Spill(1e9))
    calibrate(
        graph, analysis, recording.follow("", [make_batch((x,), {})]), len(x), recording.watch
    )
    keep_mask = np.ones(len(analysis.group_of()), dtype=bool)
    fits = Lockstep(graph, small, analysis, keep_mask, recording, {name: 60}, max_features=0).run(
        recording.chunks
    )
    assert fits.kept[name] == "784 unknowns per output"
    assert torch.linalg.matrix_rank(small.get_parameter(name), rtol=1e-5) == 60
    factored(plain, {name: Factoring(60)})
    with torch.no_grad():
        wanted = net(data().images[:200])
        ours, theirs = (
            float((g(data().images[:200]) - wanted).square().mean()) for g in (small, plain)
        )
    assert ours < theirs


def test_a_model_that_is_one_layer() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(12, 10).double(), normal(300, 12)
    small = fxprune.factorize(net, x, params=0.8, progress=False)
    assert set(small.state_dict()) == {"0.weight", "1.weight", "1.bias"}
    with torch.no_grad():
        assert distance(fxprune.masked(net, small)(x), small(x)) <= EXACT


def test_names_plans_and_another_checkpoint() -> None:
    small = fxprune.factorize(tiny(), loader(), params=0.7, progress=False)
    plan = fxprune.plan_of(small)
    assert plan.factorings
    name = next(iter(plan.factorings)).removesuffix(".weight")
    assert {f"{name}.0.weight", f"{name}.1.weight", f"{name}.1.bias"} <= set(small.state_dict())
    assert not {f"{name}.weight", f"{name}.bias"} & set(small.state_dict())
    again = fxprune.Plan.from_json(json.dumps(json.loads(plan.to_json())))
    assert again == plan
    other = fxprune.apply(tiny(), again, loader(), progress=False)
    assert {n: t.shape for n, t in other.state_dict().items()} == {
        n: t.shape for n, t in small.state_dict().items()
    }
    with torch.no_grad():
        torch.testing.assert_close(other(images(4)), small(images(4)))
    with pytest.raises(PlanError):
        fxprune.apply(
            nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),
            again,
            torch.randn(64, 3),
            progress=False,
        )


def test_what_stays_one_layer_is_named_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxprune.label.layers.MOST_OUTPUTS", 15)
    small = fxprune.factorize(tiny(), loader(), params=0.9, ignore="second", progress=False)
    reasons = {row.name: row.reason for row in fxprune.report(small).alone}
    assert reasons["second.weight"] == "ignored on request"
    assert reasons["hidden.weight"] == "it has more than 15 outputs"
    assert "second.weight" in small.state_dict()
    assert set(reasons) | set(fxprune.plan_of(small).factorings) == {
        f"{n}.weight" for n in ("first", "second", "hidden", "head")
    }
    assert "as two layers" in str(fxprune.report(small))


def test_either_order_composes() -> None:
    reduced = fxprune.compress(tiny(), loader(), flops=0.7, method="uniform", progress=False)
    after = fxprune.factorize(reduced, loader(), params=0.8, progress=False)
    before = fxprune.compress(
        fxprune.factorize(tiny(), loader(), params=0.8, progress=False),
        loader(),
        flops=0.7,
        progress=False,
    )
    x = images(16, seed=3)
    with torch.no_grad():
        # One check after the other: the factors multiplied back, then the channels scattered back.
        assert distance(fxprune.masked(tiny(), fxprune.masked(reduced, after))(x), after(x)) <= 1e-4
        for small in (after, before):
            assert distance(tiny()(x), small(x)) < 1
    assert any(".0.weight" in name for name in fxprune.plan_of(before).kept), (
        "ranks are channels like any other"
    )


def test_saved_loaded_compiled_and_trained(tmp_path: Path) -> None:
    small, x = small_of("mixed", "learned-rank"), data().images[:8]
    fxprune.save(small, tmp_path / "small.safetensors")
    again = fxprune.load(tmp_path / "small.safetensors")
    mine = fxprune.load(tmp_path / "small.safetensors", into=original("mixed"))
    with torch.no_grad():
        wanted = small(x)
        assert torch.equal(again(x), wanted)
        assert torch.equal(mine(x), wanted)
        torch.testing.assert_close(torch.compile(small, fullgraph=True, backend="eager")(x), wanted)
    assert fxprune.plan_of(again) == fxprune.plan_of(small)
    assert (
        type(
            mine.get_submodule(
                next(iter(fxprune.plan_of(small).factorings)).removesuffix(".weight")
            )
        )
        is nn.Sequential
    )
    again.train()(x).sum().backward()
    assert all(p.grad is not None for p in again.parameters())


def test_joint_factors_where_that_pays_and_only_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    x = data().images[:500]
    joint, alone = (
        fxprune.compress(
            original("mlp"), data().calibration[:240], flops=0.4, method=m, progress=False
        )
        for m in ("auto", "channels")
    )
    assert fxprune.report(joint).flops[1] <= 0.4 * fxprune.report(joint).flops[0]
    assert fxprune.plan_of(joint).factorings
    assert not fxprune.plan_of(alone).factorings
    with torch.no_grad():
        wanted = original("mlp")(x)
        errors = [float((small(x) - wanted).square().mean()) for small in (joint, alone)]
        assert distance(fxprune.masked(original("mlp"), joint)(x), joint(x)) <= 1e-4
        fxprune.save(joint, tmp_path / "joint.safetensors")
        assert torch.equal(
            fxprune.load(tmp_path / "joint.safetensors", into=trained("mlp"))(x), joint(x)
        )
    assert errors[0] < 0.5 * errors[1]
    monkeypatch.setattr("fxprune.allocate.search.GAIN", 0.0)
    careful = fxprune.plan(
        original("mlp"), data().calibration[:240], flops=0.4, method="auto", progress=False
    )
    assert (careful.kept, careful.factorings) == (fxprune.plan_of(alone).kept, {})


def test_unknown_method() -> None:
    with pytest.raises(UnsupportedError, match="not one of pca, svd, learned-rank, alds"):
        fxprune.factorize(tiny(), loader(), method="tucker", progress=False)
