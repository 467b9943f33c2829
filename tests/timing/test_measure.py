"""Latency that a caller's own function measures."""

import copy

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import UnsupportedError
from fxprune.timing.workload import Workload
from tests.nets import images
from tests.timing.conftest import flops_of
from tests.timing.test_latency_model import wide


def on_the_target(model: nn.Module) -> float:
    """A machine that takes a microsecond for a FLOP, and wears out what it is given."""
    assert not model.training
    seconds = 1e-6 * flops_of(lambda: model(images(1)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return seconds


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("target", [0.5, 0.7])
def test_the_budget_is_met_as_the_caller_measures(target: float) -> None:
    model = wide()
    before = copy.deepcopy(model.state_dict())
    small = fxprune.compress(
        model,
        images(96),
        latency=target,
        workload=Workload(measure=on_the_target),
        method="uniform",
        decision="argmax",
        round_to=1,
        progress=False,
    )
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    counted = [flops_of(lambda net=net: net(images(1))) for net in (small, model)]  # type: ignore[misc]
    assert 0.9 * target < counted[0] / counted[1] <= 1.02 * target
    (note,) = [n for n in fxprune.report(small).notes if n.startswith("measured latency")]
    assert "measured by on_the_target" in note
    assert small(images(2)).abs().sum() > 0


def broken(model: nn.Module) -> float:
    raise OSError("the board does not answer")


class Seen(Exception):
    pass


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (broken, "measure=broken fails on Sequential: OSError: the board does not answer"),
        (lambda model: 0.0, r"measure=<lambda> gave 0.0 for Sequential: give the seconds"),
        (lambda model: float("nan"), "gave nan"),
        (lambda model: "1 ms", "gave '1 ms'"),
        (lambda model: True, "gave True"),
    ],
)
def test_what_cannot_be_measured_is_said_before_the_work(
    measure: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def observe(*_: object) -> None:
        raise Seen

    monkeypatch.setattr("fxprune.pipeline.fit_within", observe)
    with pytest.raises(UnsupportedError, match=message):
        fxprune.compress(
            wide(),
            images(96),
            latency=0.5,
            workload=Workload(measure=measure),  # type: ignore[arg-type]
            decision="argmax",
            progress=False,
        )


def test_a_measure_is_a_function() -> None:
    with pytest.raises(UnsupportedError, match="measure=3: give a callable"):
        Workload(measure=3)  # type: ignore[arg-type]
