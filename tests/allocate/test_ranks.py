"""Which layers become two, and where that pays beside removing channels."""

from pathlib import Path

import pytest
import torch

import fxprune
from benchmarks.models.nets import trained
from fxprune.demo.data import load
from fxprune.errors import BudgetError
from tests.nets import loader, tiny
from tests.tensors import distance


def test_a_budget_out_of_reach_names_the_closest() -> None:
    with pytest.raises(
        BudgetError, match=r"params=0.01 cannot be reached by factoring: .* keeps params=0\.\d+"
    ):
        fxprune.factorize(tiny(), loader(), params=0.01, progress=False)


@pytest.mark.slow
def test_joint_factors_where_that_pays_and_only_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    x = load().images[:500]
    joint, alone = (
        fxprune.compress(
            trained("mlp"), load().calibration[:240], flops=0.4, method=m, progress=False
        )
        for m in ("auto", "channels")
    )
    assert fxprune.report(joint).flops[1] <= 0.4 * fxprune.report(joint).flops[0]
    assert fxprune.plan_of(joint).factorings
    assert not fxprune.plan_of(alone).factorings
    with torch.no_grad():
        wanted = trained("mlp")(x)
        errors = [float((small(x) - wanted).square().mean()) for small in (joint, alone)]
        assert distance(fxprune.masked(trained("mlp"), joint)(x), joint(x)) <= 1e-4
        fxprune.save(joint, tmp_path / "joint.safetensors")
        assert torch.equal(
            fxprune.load(tmp_path / "joint.safetensors", into=trained("mlp"))(x), joint(x)
        )
    assert errors[0] < 0.5 * errors[1]
    monkeypatch.setattr("fxprune.allocate.search.GAIN", 0.0)
    careful = fxprune.plan(
        trained("mlp"), load().calibration[:240], flops=0.4, method="auto", progress=False
    )
    assert (careful.kept, careful.factorings) == (fxprune.plan_of(alone).kept, {})
