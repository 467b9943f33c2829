"""Causal language models: caches, next tokens, texts of several lengths, padding."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.calibrate.batching import in_order
from fxprune.calibrate.fingerprint import PACKED, fingerprints, unpack
from fxprune.calibrate.moments import collect_moments
from fxprune.calibrate.padding import find_padding, read_mask
from fxprune.capture.batch import to_batch
from fxprune.capture.export import capture
from fxprune.errors import CalibrationError, UnsupportedError
from fxprune.label.analysis import analyze_graph
from fxprune.linalg.clopper_pearson import lower_bound
from fxprune.verify.outputs import squared_error
from fxprune.verify.tokens import find_next_tokens
from tests.language import VOCABULARY, CausalLM, texts

pytestmark = pytest.mark.filterwarnings("ignore::fxprune.errors.CalibrationWarning")

FAST: dict[str, Any] = {"progress": False, "effort": 1}
LENGTHS = [7, 5, 9, 4, 8, 6]


def padded(fill: int = 0, batches: int = 6) -> list[dict[str, Tensor]]:
    return [texts(LENGTHS, 9, fill, seed) for seed in range(batches)]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return CausalLM().eval()


@pytest.fixture(scope="module")
def small(net: nn.Module) -> Any:
    return fxprune.compress(net, padded(), flops=0.7, **FAST)


@pytest.mark.slow
def test_the_cache_does_not_hold_heads_back(net: nn.Module, small: Any) -> None:
    found = fxprune.analyze(net, padded()[0])
    assert {"blocks.0.q", "blocks.0.v"} < {group.name for group in found.groups}
    with torch.no_grad():
        cache = small(**padded()[0])["cache"]
    width = small.get_submodule("blocks.0.v").out_features // 2
    assert cache.values[0].shape[-1] == width < 8


def test_any_length_and_any_batch(net: nn.Module, small: Any) -> None:
    masked = fxprune.masked(net, small)
    for lengths in ([1], [17, 3, 11], [40, 40]):
        batch = texts(lengths)
        with torch.no_grad():
            own, wanted = small(**batch)["logits"], masked(**batch)["logits"]
        assert own.shape == (len(lengths), max(lengths), VOCABULARY)
        torch.testing.assert_close(own, wanted, atol=1e-4, rtol=1e-4)


def test_decisions_are_next_tokens(net: nn.Module, small: Any) -> None:
    report = fxprune.report(small)
    found = report.agreement
    assert found is not None
    assert found.unit == "next token"
    assert found.decision == "logits: most likely next token at each position (next_token)"
    # An independent count over the held-out examples, of which the report keeps fingerprints only.
    held = _held_out(small)
    assert found.examples == sum(int(row["attention_mask"].sum()) for row in held)
    same, surprise, scored = 0, np.zeros(2), 0
    for row in held:
        length = int(row["attention_mask"].sum())
        with torch.no_grad():
            both = [model(**row)["logits"][0, :length].double() for model in (net, small)]
        same += int((both[0].argmax(1) == both[1].argmax(1)).sum())
        came = row["input_ids"][0, 1:length]
        surprise += [-float(b[:-1].log_softmax(1)[range(length - 1), came].sum()) for b in both]
        scored += length - 1
    assert found.rate == pytest.approx(same / found.examples)
    assert found.perplexity == pytest.approx(tuple(np.exp(surprise / scored)), rel=1e-4)
    assert f"{found.rate:.2%} of {found.examples} held-out next tokens" in report.summary()
    assert "Perplexity on the held-out text" in str(report).replace("\n", " ")
    assert fxprune.Report.from_json(report.to_json()).agreement == found


def _held_out(small: Any) -> list[dict[str, Tensor]]:
    marks = set(unpack(fxprune.report(small).held_out))
    rows = [
        {name: value[i : i + 1] for name, value in batch.items()}
        for batch in padded()
        for i in range(len(LENGTHS))
    ]
    return [row for row in rows if fingerprints(to_batch(CausalLM(), row))[0][:PACKED] in marks]


def test_tokens_of_one_text_count_as_one_in_the_bound(small: Any) -> None:
    found = fxprune.report(small).agreement
    assert found is not None
    counts = np.array([int(row["attention_mask"].sum()) for row in _held_out(small)])
    wanted = lower_bound(
        round(found.rate * found.examples),
        found.examples,
        independent=counts.sum() ** 2 / (counts**2).sum(),
    )
    assert found.bound == pytest.approx(wanted)
    assert found.bound < lower_bound(round(found.rate * found.examples), found.examples) - 0.1


@pytest.mark.slow
def test_what_lies_under_the_padding_changes_nothing(net: nn.Module, small: Any) -> None:
    other = fxprune.compress(net, padded(fill=23), flops=0.7, **FAST)
    assert fxprune.plan_of(small) == fxprune.plan_of(other)
    assert fxprune.report(small).agreement == fxprune.report(other).agreement
    for name, value in small.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], atol=1e-5, rtol=1e-4)
    counted = fxprune.compress(net, padded(), flops=0.7, mask=False, **FAST)
    assert fxprune.report(counted).agreement.examples > fxprune.report(small).agreement.examples  # type: ignore[union-attr]


def _only(ids: Tensor, mask: Tensor) -> Iterator[dict[str, Tensor]]:
    for row, seen in zip(ids, mask, strict=True):
        own = row[seen.bool()][None]
        yield {"input_ids": own, "attention_mask": torch.ones_like(own)}


def test_second_moments_are_those_of_the_texts_alone(net: nn.Module) -> None:
    batch = to_batch(net, padded()[0])
    captured = capture(net, batch.part(0, 2))
    analysis = analyze_graph(captured.graph, 2)
    padding = find_padding(captured.graph, 9, {"logits": 0})
    real = read_mask(batch, None)
    assert real is not None
    found = collect_moments(
        captured.graph, analysis, in_order([replace(batch, real=real)]), 6, padding=padding
    )
    alone = [to_batch(net, row) for row in _only(**{"ids": padded()[0]["input_ids"], "mask": real})]
    wanted = collect_moments(captured.graph, analysis, in_order(alone), 6)
    assert found.keys() == wanted.keys()
    for site, own in found.items():
        assert own.rows == wanted[site].rows
        for a, b in zip(own.grams, wanted[site].grams, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("lengths", [(6, 9)])
def test_batches_of_several_lengths(net: nn.Module, lengths: tuple[int, ...]) -> None:
    loader = [texts([length] * 6, seed=seed) for seed in range(3) for length in lengths]
    own = fxprune.compress(net, loader, flops=0.8, **FAST)
    batch = texts([21, 14])
    torch.testing.assert_close(
        own(**batch)["logits"], fxprune.masked(net, own)(**batch)["logits"], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (3, "^mask=3: give the name of the input"),
        ("seen", r"^mask='seen' is no keyword of the calibration batches \(input_ids"),
        (lambda input_ids, attention_mask: input_ids[0], r"^mask= gives \(9,\) for 6 examples"),
        (lambda input_ids: input_ids > 0, "fails: TypeError: .*It is called with the model's"),
        (
            lambda input_ids, attention_mask: attention_mask * 0,
            "^The mask of a calibration batch has an example without a token",
        ),
    ],
)
def test_masks_that_cannot_be(net: nn.Module, mask: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        fxprune.compress(net, padded(), flops=0.7, mask=mask, **FAST)


def test_a_mask_by_any_name(net: nn.Module, small: Any) -> None:
    def of_tokens(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return input_ids > 0

    other = fxprune.plan(net, padded(), flops=0.7, mask=of_tokens, **FAST)
    assert other.kept == fxprune.plan_of(small).kept


def test_a_model_that_looks_ahead_decides_no_next_token() -> None:
    class Ahead(CausalLM):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
            x = self.words(input_ids)
            return {"logits": self.head(self.norm(x + x.mean(1, keepdim=True)))}

    batch = to_batch(Ahead(), texts([6, 6]))
    for made, expected in ((Ahead(), False), (CausalLM(), True)):
        graph = capture(made.eval(), batch).graph
        output = graph.forward(*batch.args, **batch.kwargs)
        found = find_next_tokens(graph, batch, output)
        assert ("logits" in found) == expected
        assert all(rule.ids == "input_ids" for rule in found.values())


def test_next_token_needs_a_vocabulary() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(UnsupportedError, match=r"^next_token of an output \(N, 3\)"):
        fxprune.compress(model, torch.randn(40, 4), flops=0.8, decision="next_token", **FAST)


def test_errors_of_padded_outputs_are_those_of_the_rest() -> None:
    a, b = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    real = (torch.arange(4) < torch.tensor([[2], [4], [1]]))[..., None]
    found = squared_error(a, torch.where(real, b, 1e6), real)
    parts = [squared_error(a[i : i + 1, :n], b[i : i + 1, :n]) for i, n in enumerate((2, 4, 1))]
    assert found == pytest.approx(tuple(np.sum(parts, axis=0)))


@pytest.mark.slow
def test_padding_decides_nothing(net: nn.Module) -> None:
    found = [
        fxprune.report(
            fxprune.compress(net, padded(fill), flops=0.6, decision={"logits": "close"}, **FAST)
        ).agreement
        for fill in (0, 31)
    ]
    assert found[0] == found[1]
    assert found[0] is not None
    assert found[0].unit == "example"
    assert not math.isnan(found[0].error)
