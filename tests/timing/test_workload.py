"""Workloads: what they say, where they place models and inputs."""

import contextlib

import pytest
import torch

import fxprune
from fxprune.capture.batch import make_batch
from fxprune.errors import UnsupportedError
from fxprune.timing.workload import place_batch, use_settings


def test_a_workload_places_the_inputs() -> None:
    batch = make_batch((torch.arange(3.0).unsqueeze(1),), {"index": torch.arange(3)})
    found = place_batch(batch, fxprune.Workload(batch=5, dtype=torch.bfloat16), torch.device("cpu"))
    assert found.args[0].flatten().tolist() == [0, 1, 2, 0, 1]
    assert found.args[0].dtype is torch.bfloat16
    assert found.kwargs["index"].tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("workload", "text"),
    [
        (fxprune.Workload(), "eager, batch 1"),
        (
            fxprune.Workload(8, True, "cuda", torch.bfloat16, 4),
            "compiled, batch 8, cuda, bfloat16, 4 threads",
        ),
    ],
)
def test_reports_leave_defaults_out(workload: fxprune.Workload, text: str) -> None:
    assert str(workload) == text


def test_settings_end_with_the_block() -> None:
    threads = torch.get_num_threads()
    with contextlib.suppress(KeyError), use_settings(fxprune.Workload(threads=threads + 1)):
        assert torch.get_num_threads() == threads + 1
        assert not torch.is_grad_enabled()
        raise KeyError
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_errors_name_the_setting() -> None:
    with pytest.raises(UnsupportedError, match="batch=0: a workload has a whole number"):
        fxprune.Workload(batch=0)
    with pytest.raises(UnsupportedError, match="threads=True"):
        fxprune.Workload(threads=True)
