"""A trained transformer encoder, and the table of what mixing its channels gains."""

import warnings

import pytest
import torch

import fxprune
from benchmarks import rotation
from benchmarks.examination.opened import opened
from benchmarks.models.encoder import trained_encoder
from fxprune.capture.undisturbed import undisturbed
from fxprune.demo.data import load
from fxprune.pipeline import compress_session


def test_one_layer_for_queries_keys_and_values_is_the_same_function() -> None:
    images = load().images[:20]
    with torch.no_grad():
        torch.testing.assert_close(
            trained_encoder(fused=True)(images), trained_encoder()(images), atol=1e-5, rtol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_mixed_channels_err_less_than_selected_ones(fused: bool) -> None:
    net, images = trained_encoder(fused), load().calibration[:240]
    errors = {}
    for title in ("auto", rotation.SELECTED):
        session = opened(net, images, 0).using(method=rotation.COMPARED[title])
        with warnings.catch_warnings(), undisturbed(net, 0):
            warnings.simplefilter("ignore")
            small = compress_session(session, {"flops": 0.8})
        found = fxprune.report(small).agreement
        assert found is not None
        errors[title] = found.error
        assert bool(fxprune.plan_of(small).rotations) == (title == "auto")
        with torch.no_grad():
            torch.testing.assert_close(
                fxprune.masked(net, small)(images), small(images), atol=1e-4, rtol=1e-4
            )
    assert errors["auto"] < 0.5 * errors[rotation.SELECTED]


def test_the_table_holds_means_over_seeds() -> None:
    rows: list[dict[str, object]] = [
        {"form": "qkv", "flops": 0.5, "what": what, "seed": seed, "agreement": agreement}
        for what, pair in (("auto", (0.98, 0.96)), ("paper", (0.9, 0.8)))
        for seed, agreement in enumerate(pair)
    ]
    assert rotation.table(rows).splitlines() == [
        "| | qkv at 0.5 |",
        "|---|---|",
        "| auto | 97.00 |",
        "| paper | 85.00 |",
    ]
