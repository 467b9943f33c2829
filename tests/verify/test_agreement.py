"""Agreement and error, counted over batches."""

import pytest
import torch
from torch import Tensor, nn

from fxprune.calibrate.batching import in_order
from fxprune.calibrate.observe import Observer, arguments
from fxprune.calibrate.recording import VALIDATION, Recording
from fxprune.calibrate.spill import Spill
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.linalg.clopper_pearson import lower_bound
from fxprune.verify.agreement import compare, validation_error
from tests.nets import images, tiny


class Shifted(nn.Module):
    """Class scores of an input that are another class's for its negative part."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, :1] < 0, x.flip(1), x)


def test_counts_equal_decisions_over_batches() -> None:
    x = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [3.0, 1.0], [-2.0, -3.0], [4.0, 4.5]])
    batches = [make_batch((part,), {}) for part in x.split(2)]
    found = compare(nn.Identity(), Shifted(), batches, "argmax")
    assert (found.rate, found.examples) == (3 / 5, 5)
    assert found.bound == lower_bound(3, 5) < 3 / 5
    centered = x - x.mean(1, keepdim=True)
    wanted = float((x - Shifted()(x)).square().sum() / centered.square().sum())
    assert found.error == pytest.approx(wanted)


def test_no_example_certifies_nothing() -> None:
    found = compare(nn.Identity(), nn.Identity(), [])
    assert (found.rate, found.bound, found.examples, found.error) == (0, 0, 0, 0)


def test_the_callers_decision_counts() -> None:
    batches = [make_batch((torch.ones(4, 2),), {})]
    found = compare(nn.Identity(), nn.Identity(), batches, lambda a, b: torch.arange(4) > 0)
    assert found.rate == 3 / 4


def test_validation_error_is_that_of_the_validation_split_alone() -> None:
    batches = [make_batch((images(16, seed),), {}) for seed in range(2)]
    captured = capture(tiny(), batches[0])
    recording = Recording(captured.graph, 32, Spill(1e9))
    observer = Observer(captured.graph, recording.watch)
    for part, batch in zip((VALIDATION, "rest"), batches, strict=True):
        for _, followed in recording.follow(part, in_order([batch])):
            with torch.no_grad():
                observer.run(*arguments(captured.graph, followed), enable_io_processing=False)
    assert validation_error(recording, captured.graph) == 0
    other = capture(tiny(), batches[0]).graph
    other.get_parameter("head.bias").data.add_(torch.tensor([0.3, 0.0, 0.0, 0.0]))
    with torch.no_grad():
        outputs = tiny()(batches[0].args[0])
    norm = (outputs - outputs.mean(1, keepdim=True)).square().sum()
    wanted = 16 * 0.3**2 / float(norm)
    assert validation_error(recording, other) == pytest.approx(wanted, rel=1e-4)
