"""Features, losses and examples, each by itself."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune.calibrate.fingerprint import fingerprints, pack, unpack
from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.observe import arguments
from fxprune.capture.batch import Batch, make_batch
from fxprune.capture.export import capture
from fxprune.recovery.examples import Stream, divide
from fxprune.recovery.features import Feature, match_features, tap
from fxprune.recovery.losses import Divergence, divergences, feature_error, feature_variances
from fxprune.verify.decisions import argmax, close
from fxprune.verify.judge import Judge, Judged
from tests.nets import images, loader, tiny
from tests.recovery.subjects import compressed, examples, inputs

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(64, 6), (64, 3, 5, 5)])
def test_features_are_the_channels_that_both_models_have(shape: tuple[int, ...]) -> None:
    """By magnitude nothing is corrected, so that the first layer's channels are the original's."""
    torch.manual_seed(0)
    if len(shape) == 2:
        net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    else:
        net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 1)).eval()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    small = fxprune.compress(net, x, flops=0.5, method="magnitude", progress=False)
    plan, original = fxprune.plan_of(small), capture(net, make_batch((x[:2],), {})).graph
    (feature,) = features = match_features(original, small, plan)
    assert feature.weight == "0.weight"
    assert feature.kept is not None
    assert 0 < len(feature.kept) < 16
    batch = make_batch((x[:5],), {})
    ours, theirs = (
        tap(module, names, CPU)
        for module, names in (
            (original, [f.original for f in features]),
            (small, [f.small for f in features]),
        )
    )
    with torch.no_grad():
        (value,), flat = ours(*arguments(original, batch))
        (other,), small_flat = theirs(*arguments(small, batch))
        torch.testing.assert_close(feature.pick(value), other)
        assert torch.equal(original.graph.process_outputs(flat), original(*batch.args))
        assert torch.equal(small.graph.process_outputs(small_flat), small(*batch.args))


def test_features_are_of_the_last_layers_before_those_that_make_the_outputs() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
            self.deep, self.head, self.other = nn.Linear(8, 8), nn.Linear(12, 3), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.stem(x).relu()
            left, right = self.deep(self.left(x).relu()).relu(), self.right(x).relu()
            return self.head(torch.cat([left, right], 1)), self.other(left)

    net, x = Branches().eval(), torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    small = fxprune.compress(net, x, flops=0.9, progress=False)
    original = capture(net, make_batch((x[:2],), {})).graph
    found = match_features(original, small, fxprune.plan_of(small))
    assert {f.weight for f in found} == {"deep.weight", "right.weight"}


def test_the_last_layer_of_a_chain_is_compared() -> None:
    net = tiny()
    small = fxprune.compress(
        net, loader(), flops=0.5, method="magnitude", decision="argmax", progress=False
    )
    original = capture(net, make_batch((images(2),), {})).graph
    (last,) = match_features(original, small, fxprune.plan_of(small))
    assert last.weight == "hidden.weight"
    assert last.kept is not None


def test_large_maps_are_compared_at_some_of_their_positions() -> None:
    image, token = (Feature("w", "a", "b", dim, None) for dim in (-3, -1))
    assert image.thin(torch.zeros(2, 3, 32, 32)).shape == (2, 3, 32, 32)
    assert image.thin(torch.zeros(2, 3, 112, 112)).shape == (2, 3, 28, 28)
    assert token.thin(torch.zeros(2, 4096, 5)).shape == (2, 1024, 5)
    assert token.thin(torch.zeros(2, 5)).shape == (2, 5)
    x = torch.randn(2, 3, 40, 64)
    assert torch.equal(image.thin(x), x[..., ::2, ::2])
    spread = feature_variances([image], [x])
    assert float(feature_error([image], spread, [x], [x])) == 0
    nothing = feature_error([image], spread, [x], [torch.zeros_like(x)])
    assert float(nothing) == pytest.approx(1, rel=0.1)


def test_what_runs_elsewhere_leaves_the_model_where_it_is() -> None:
    net = capture(tiny(), make_batch((images(2),), {})).graph
    moved = tap(net, [], torch.device("meta"))
    assert all(p.is_meta for p in moved.parameters())
    assert not any(p.is_meta for p in net.parameters())
    kept = tap(net, [], CPU)
    assert all(a is b for a, b in zip(kept.parameters(), net.parameters(), strict=True))


def test_layers_that_became_two_are_compared_behind_the_second() -> None:
    net = tiny()
    small = fxprune.factorize(net, loader(), params=0.6, decision="argmax", progress=False)
    plan, original = fxprune.plan_of(small), capture(net, make_batch((images(2),), {})).graph
    found = {f.weight: f for f in match_features(original, small, plan)}
    (name,) = [n for n in plan.factorings if n in found][:1]
    (node,) = [n for n in small.graph.nodes if n.name == found[name].small]
    assert str(node.target) == name.removesuffix("weight") + "1"


@pytest.mark.parametrize("made", ["logits", "probabilities"])
def test_divergence_of_classes_is_kullback_leibler(made: str) -> None:
    a, b = torch.randn(2, 6, 4, 3, generator=torch.Generator().manual_seed(0))
    if made == "probabilities":
        a, b = a.softmax(1), b.softmax(1)
    (d,) = divergences(Judge((Judged("output", argmax(1).settle(a)),)), a)
    assert d.probabilities == (made == "probabilities")
    logs = [v.log() if d.probabilities else v.log_softmax(1) for v in (a, b)]
    wanted = F.kl_div(logs[1], logs[0], log_target=True, reduction="none").sum(1).mean(1)
    torch.testing.assert_close(d(a, b), wanted)
    assert float(d(a, a).sum()) == 0


def test_divergence_of_quantities_is_relative_and_leaves_masks_out() -> None:
    a = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    a[3, 1] = -torch.inf
    (d,) = divergences(Judge((Judged("output", close()),)), a)
    (scaled,) = divergences(Judge((Judged("output", close()),)), 10 * a)
    assert float(d(a, a).sum()) == 0
    b = torch.where(a.isfinite(), a + 0.1, a).requires_grad_()
    torch.testing.assert_close(scaled(10 * a, 10 * b), d(a, b))
    d(a, b).mean().backward()
    assert b.grad is not None
    assert b.grad.isfinite().all()


def test_labels_of_mixed_examples_count_by_their_shares() -> None:
    from fxprune.recovery.losses import label_loss

    d = Divergence("output", 1, False, 1.0)
    output, labels = torch.randn(3, 5), torch.tensor([0, 4, 2])
    index, share = torch.tensor([1, 0, 2]), torch.tensor([0.25, 0.0, 0.5])
    own = F.cross_entropy(output, labels, reduction="none")
    other = F.cross_entropy(output, labels[index], reduction="none")
    wanted = ((1 - share) * own + share * other).mean()
    torch.testing.assert_close(label_loss(d, output, labels, (index, share), 0.0), wanted)


def test_no_group_is_in_two_parts_and_the_stream_draws_training_examples_only() -> None:
    small = compressed()
    calibration = Calibration(nn.Linear(12, 5), examples())
    parts = divide(calibration, fxprune.report(small), seed=3)
    sums = parts.training.astype(int) + parts.acceptance + parts.certificate
    assert (sums == 1).all()
    assert parts.acceptance.sum() == parts.certificate.sum() == 60
    assert parts.independent == 60
    streams = [Stream(calibration, parts.training, 50, 0, p, 2) for p in (0, 1)]
    drawn = [s.numbers(n) for n in range(5) for s in streams]
    assert all(parts.training[numbers].all() for numbers in drawn)
    # Nine batches of 50 are one pass over 480 examples.
    first = np.concatenate(drawn[:9])
    assert len(set(first.tolist())) == 450
    ((numbers, batch),) = streams[0].batch(0)
    assert sorted(numbers) == sorted(drawn[0])
    assert torch.equal(batch.args[0], inputs()[torch.from_numpy(numbers)])


def test_held_out_examples_are_known_in_any_order_and_with_their_groups() -> None:
    small = compressed()
    turned = inputs().flip(0)
    plain = divide(Calibration(nn.Linear(12, 5), examples()), fxprune.report(small), 0)
    other = divide(Calibration(nn.Linear(12, 5), [turned]), fxprune.report(small), 0)
    held, known = (p.acceptance | p.certificate for p in (plain, other))
    assert (held[::-1] == known).all()
    pairs = np.arange(600) // 2
    grouped = Calibration(nn.Linear(12, 5), [inputs()], groups=pairs)
    parts = divide(grouped, fxprune.report(small), 0)
    for a, b in ((parts.acceptance, parts.certificate), (parts.training, held)):
        assert not set(pairs[a]) & set(pairs[b])
    assert ((parts.acceptance | parts.certificate) == held).all()


def test_fingerprints_as_text() -> None:
    marks = fingerprints(Batch((inputs(20),), {}, 20))
    assert unpack(pack(marks)) == {mark[:8] for mark in marks}
    assert pack([]) == ""
    assert unpack("") == frozenset()
    with pytest.raises(ValueError, match="bytes"):
        unpack("AAAA")
