"""Certifications of a model whose true agreement is known, by every rule and from every kind of
loader.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from benchmarks.examination.cluster_bounds import Found, rates
from benchmarks.examination.deciders import DECIDERS, Decider
from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.split import draw_split
from fxprune.plans.budget import Budget
from fxprune.session import JUDGED_ON
from fxprune.verify.agreement import compare
from fxprune.verify.judge import settle

BATCH = 80
SHUFFLED = "DataLoader, shuffle=True"
WHOLE = ("argmax", "joint")
"""Rules that every loader, number of examples and kind of scene is tried with."""

Draw = Callable[[Tensor, torch.Generator], Any]
"""Makes a loader of examples."""


class Original(nn.Module):
    """Gives a decider's output."""

    def __init__(self, decider: Decider):
        super().__init__()
        self._decider = decider

    def forward(self, x: Tensor) -> Any:
        return self._decider.original(x)


class Fitted(nn.Module):
    """Decides like the original on scenes that it was fitted on, and else wrongly at the rate that
    stands in the example, by its other numbers.

    Args:
        decider: gives the outputs.
        known: scenes, or single examples, that were fitted on.
    """

    def __init__(self, decider: Decider, known: set[float]):
        super().__init__()
        self._decider, self._known = decider, known

    def forward(self, x: Tensor) -> Any:
        wrong = (x[:, 2].double() * 9973).frac().abs() < x[:, 1].double()
        fitted = torch.tensor([float(scene) in self._known for scene in x[:, 0]])
        return self._decider.fitted(self._decider.original(x), wrong & ~fitted, x)


class Augmented(Dataset[Tensor]):
    """Other numbers at every reading."""

    def __init__(self, x: Tensor):
        self._x = x

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> Tensor:
        row = self._x[index].clone()
        row[[0, 2]] = torch.rand(2)
        return row


def shuffled(x: Tensor, generator: torch.Generator) -> Any:
    """In another order at every reading."""
    return DataLoader(TensorDataset(x), BATCH, shuffle=True, generator=generator)


def replaced(x: Tensor, generator: torch.Generator) -> Any:
    """As many examples as there are, drawn with replacement at every reading."""
    data = TensorDataset(x)
    sampler = RandomSampler(data, True, len(x), generator=generator)
    return DataLoader(data, BATCH, sampler=sampler)


LOADERS: dict[str, Draw] = {
    "list": lambda x, generator: list(x.split(BATCH)),
    SHUFFLED: shuffled,
    "augmenting data set": lambda x, generator: DataLoader(Augmented(x), BATCH, shuffle=True),
    "drawn with replacement": replaced,
    "every example 5 times": lambda x, generator: list(x[: len(x) // 5].repeat(5, 1).split(BATCH)),
    "generator": lambda x, generator: (part for part in x.split(BATCH)),
}
KEYED = "dict batches"
"""Loader whose batches hold the scene of every example under a key."""


@dataclass(frozen=True)
class Row:
    """What was certified how often.

    Attributes:
        rule: a key of `DECIDERS`.
        loader: a key of `LOADERS`, or `KEYED`.
        examples: that it gives.
        agreement: the true one.
        each: examples of a scene.
        correlation: of the decisions within a scene.
        grouped: `groups=` names the scenes.
    """

    rule: str
    loader: str
    examples: int
    agreement: float
    each: int = 1
    correlation: float = 0.0
    grouped: bool = False

    @property
    def must_hold(self) -> bool:
        """Whether the bound is promised: not where scenes are kept from it."""
        return self.each == 1 or self.grouped


def certified(row: Row, seed: int) -> float:
    """The bound of one certification."""
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    groups = row.examples // row.each
    scenes = np.repeat(random.random(groups), row.each)
    wrong = np.repeat(rates(row.agreement, row.correlation, groups, random), row.each)
    columns = np.stack([scenes, wrong, random.random(len(scenes))], 1)
    x = torch.from_numpy(columns).float()
    decider = DECIDERS[row.rule]
    original = Original(decider)
    if row.loader == KEYED:
        loader, labels = [{"x": part, "scene": part[:, 0]} for part in x.split(BATCH)], "scene"
        calibration = Calibration(original, loader, groups=labels)
    else:
        scene = (lambda batch: batch[0][:, 0]) if row.grouped else None
        calibration = Calibration(original, LOADERS[row.loader](x, generator), groups=scene)
    split = draw_split(calibration.groups, Budget(flops=0.5), seed)
    first = calibration.batches(split.first(JUDGED_ON))
    judge = settle(decider.decision, [(original(*b.args, **b.kwargs), b.size) for b in first])
    known = {
        float(scene)
        for batch in calibration.batches(~split.held_out)
        for scene in batch.tensors()[0][:, 0]
    }
    batches = calibration.batches(split.held_out)
    return compare(original, Fitted(decider, known), batches, judge, split.independent).bound


def run(row: Row, runs: int) -> Found:
    """Certify again and again, on other draws than any other row."""
    first = zlib.crc32(repr(row).encode())
    with torch.random.fork_rng():
        torch.manual_seed(first)
        bounds = np.array([certified(row, first + at) for at in range(runs)])
    return Found(int((bounds <= row.agreement).sum()), runs, float(bounds.mean()))


def rows() -> Iterator[Row]:
    """Every rule with loaders that keep and change the order, few and many examples and scenes;
    rules for one output and for several with all that can come.
    """
    for rule in DECIDERS:
        whole = rule in WHOLE
        for name in LOADERS if whole else ("list", SHUFFLED):
            yield Row(rule, name, 400, 0.97)
        for examples, agreement in ((100, 0.9), (400, 0.9), (1600, 0.97)):
            if whole or examples != 400:
                yield Row(rule, SHUFFLED, examples, agreement)
        for each in (10, 20, 50):
            for correlation in (0.0, 0.1, 0.5, 1.0):
                if (each == 10 and correlation == 0.5) or (whole and correlation in (0.1, 1.0)):
                    yield Row(rule, SHUFFLED, 1000, 0.97, each, correlation, True)
        if whole:
            yield Row(rule, KEYED, 1000, 0.97, 10, 0.5, True)
            yield Row(rule, SHUFFLED, 1000, 0.97, 10, 0.1)
