"""The public figures: what is measured; never how long it took."""

import copy
import json

import pytest
import torch

import fxprune
from fxprune.errors import UnsupportedError
from tests.nets import images, tiny


@pytest.mark.slow
def test_rows_and_figures() -> None:
    model = tiny().train()
    small = fxprune.compress(model, images(64), flops=0.5, method="magnitude", progress=False)
    before, threads = copy.deepcopy(model.state_dict()), torch.get_num_threads()
    found = fxprune.benchmark(
        small,
        model,
        images(3),
        batches=(1, 5),
        modes=("eager",),
        rounds=3,
        seconds=0.001,
        threads=threads + 1,
    )
    assert [(r.mode, r.batch) for r in found.rows] == [("eager", 1), ("eager", 5)]
    for row in found.rows:
        assert row.original > 0
        assert row.small > 0
        assert row.low <= row.speedup <= row.high
        assert row.memory[1] < row.memory[0]
    assert (found.threads, torch.get_num_threads()) == (threads + 1, threads)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert found.row("eager", 5) is found.rows[1]
    with pytest.raises(KeyError):
        found.row("compiled", 5)
    assert json.loads(found.to_json())["rows"][1]["batch"] == 5
    assert "speedup" in str(found)
    assert "interleaved rounds" in str(found)


def test_figures_name_the_dtype() -> None:
    assert (
        fxprune.benchmark(
            tiny(),
            tiny(),
            images(2),
            modes=("eager",),
            batches=(2,),
            rounds=1,
            dtype=torch.bfloat16,
        ).dtype
        == "bfloat16"
    )


def test_errors_name_the_workload() -> None:
    with pytest.raises(UnsupportedError, match="'quick' is not one of eager, compiled"):
        fxprune.benchmark(tiny(), tiny(), images(2), modes=("quick",))
    with pytest.raises(UnsupportedError, match="rounds=0"):
        fxprune.benchmark(tiny(), tiny(), images(2), rounds=0)
    with pytest.raises(
        UnsupportedError, match="Tiny does not run eager at batch 1 on its device: RuntimeError"
    ):
        fxprune.benchmark(tiny(), tiny(), torch.zeros(2, 5, 8, 8), modes=("eager",), batches=(1,))
