"""Every loader gives the same examples whenever they are asked for; copies stay on one side."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

import fxprune
from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.spill import Spill
from tests.nets import images, session_of, tiny


class Augmented(Dataset[Tensor]):
    """Another noise at every reading."""

    def __len__(self) -> int:
        return 80

    def __getitem__(self, index: int) -> Tensor:
        return images(1, index)[0] + torch.randn(3, 8, 8)


class Endless(IterableDataset[Tensor]):
    """Others at every pass."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.passes += 1
        return iter(images(80, self.passes))


class Buffered:
    """Writes every batch into the same tensor."""

    def __iter__(self) -> Iterator[Tensor]:
        buffer = torch.empty(16, 3, 8, 8)
        for seed in range(5):
            yield buffer.copy_(images(16, seed))


LOADERS: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: DataLoader(list(images(80)), batch_size=16, shuffle=True),  # type: ignore[arg-type]
    "augmented": lambda: DataLoader(Augmented(), batch_size=16),
    "iterable": lambda: DataLoader(Endless(), batch_size=16),
    "generator": lambda: (part for part in images(80).split(16)),
    "iterator": lambda: iter(images(80).split(16)),
    "one buffer": Buffered,
}


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("memory", [1e9, 0.0], ids=["in memory", "on disk"])
def test_an_example_is_the_same_at_every_reading(name: str, memory: float) -> None:
    calibration = Calibration(tiny(), LOADERS[name](), store=Spill(memory))
    first, again = (torch.cat([b.args[0] for b in calibration.batches()]) for _ in range(2))
    assert torch.equal(first, again)
    assert len(first.flatten(1).unique(dim=0)) == 80
    chosen = np.arange(80) % 3 == 0
    part = torch.cat([b.args[0] for b in calibration.batches(chosen)])
    assert torch.equal(part, first[torch.from_numpy(chosen)])


@pytest.mark.parametrize("name", LOADERS)
def test_no_held_out_row_is_fitted_on(name: str) -> None:
    session = session_of(tiny(), LOADERS[name]())
    held = [
        row.numpy().tobytes()
        for batch in session.statistics.batches(session.split.held_out)
        for row in batch.args[0].contiguous()
    ]
    recording = session.statistics.observed.recording
    fitted = [
        row.numpy().tobytes()
        for chunk in recording.chunks
        for row in recording.store.get(chunk.inputs[0]).contiguous()
    ]
    assert len(held) == len(set(held)) == 16
    assert len(fitted) == len(set(fitted)) == 64
    assert not set(held) & set(fitted)


class Counted:
    """Counts how often it is read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.read += 1
        return iter(images(80).split(16))


@pytest.mark.slow
def test_a_loader_is_read_once_and_gives_what_a_list_gives() -> None:
    counted = Counted()
    whole = fxprune.compress(tiny(), list(images(80).split(16)), flops=0.5, progress=False)
    other = fxprune.compress(tiny(), counted, flops=0.5, progress=False)
    assert counted.read == 1
    assert fxprune.plan_of(whole) == fxprune.plan_of(other)
    with torch.no_grad():
        assert torch.equal(whole(images(9, 1)), other(images(9, 1)))
    on_disk = fxprune.compress(tiny(), Counted(), flops=0.5, memory=0, progress=False)
    with torch.no_grad():
        assert torch.equal(whole(images(9, 1)), on_disk(images(9, 1)))


def test_copies_stay_on_one_side_and_count_once() -> None:
    x = images(60).repeat(4, 1, 1, 1)
    small = fxprune.compress(tiny(), list(x.split(30)), flops=0.5, progress=False)
    report = fxprune.report(small)
    assert report.agreement is not None
    assert (report.agreement.examples, report.agreement.rate) == (48, 1)
    assert report.agreement.bound == pytest.approx(0.05 ** (1 / 12))
    assert any("60 groups, 180 of them copies" in note for note in report.notes)
    assert any("count as 12 independent" in note for note in report.notes)
    with pytest.raises(fxprune.BudgetError, match="240|60 calibration groups"):
        fxprune.compress(tiny(), x, agreement=0.99, progress=False)


def test_drawing_with_replacement_leaves_no_row_on_both_sides() -> None:
    data = TensorDataset(images(80))
    sampler = RandomSampler(data, replacement=True, num_samples=240)
    session = session_of(tiny(), DataLoader(data, batch_size=16, sampler=sampler))
    rows = torch.cat([b.args[0] for b in session.statistics.calibration.batches()]).flatten(1)
    held = torch.from_numpy(session.split.held_out)
    assert not {r.numpy().tobytes() for r in rows[held]} & {
        r.numpy().tobytes() for r in rows[~held]
    }
    assert session.split.independent < held.sum()


class Counting(nn.Module):
    """A backbone that counts how often the whole model is run."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.backbone = nn.Conv2d(3, 3, 1), tiny()

    def forward(self, x: Tensor) -> Tensor:
        type(self).examples += len(x)
        found: Tensor = self.backbone(self.stem(x))
        return found

    examples = 0


def test_the_whole_model_runs_once_for_every_target() -> None:
    Counting.examples = 0
    batches = (part for part in images(80).split(16))
    fxprune.compress(Counting(), batches, flops=0.5, targets=["backbone"], progress=False)
    assert Counting.examples == 80


def test_groups_go_with_the_examples_into_a_target() -> None:
    labels = np.arange(80) // 8
    small = fxprune.compress(
        Counting(), images(80), flops=0.5, targets=["backbone"], groups=labels, progress=False
    )
    report = fxprune.report(small.get_submodule("backbone"))
    assert any("80 calibration examples are 10 groups" in note for note in report.notes)
