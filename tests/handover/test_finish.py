"""Every example of docs/hand-over.md runs as it stands there, after the page's opening lines; the
trained networks trace and train.
"""

import warnings
from pathlib import Path

import pytest
import torch

import fxprune
from benchmarks.models import nets
from fxprune.demo import data
from tests.pages import run_section, sections

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hand-over.md"


@pytest.mark.slow
@pytest.mark.parametrize("heading", [h for h in sections(PAGE) if h])
def test_example(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_section(PAGE, heading)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "mobilenet"])
def test_the_trained_networks_trace_whole_and_train(name: str) -> None:
    images = data.load().calibration[:64]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = fxprune.compress(
            nets.trained(name), images, flops=0.5, method="magnitude", progress=False
        )
        whole = torch.compile(small, fullgraph=True, dynamic=True, backend="eager")
        program = torch.export.export(
            small, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},)
        ).module()
    with torch.no_grad():
        for n in (2, 5):
            torch.testing.assert_close(whole(images[:n]), small(images[:n]))
            torch.testing.assert_close(program(images[:n]), small(images[:n]))
    small.train()
    torch.nn.functional.cross_entropy(small(images), torch.arange(64) % 10).backward()
    # A parameter without a gradient would stop DistributedDataParallel.
    assert [n for n, p in small.named_parameters() if p.grad is None or not p.grad.any()] == []
