"""Whole calls of `compress` on tiny networks: what their reports promise, and what is true."""

import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxprune
from benchmarks.examination.cluster_bounds import Found
from fxprune.capture.batch import make_batch
from fxprune.errors import BudgetError, CalibrationWarning
from fxprune.verify.agreement import compare
from fxprune.verify.judge import Decision

INPUTS, WIDTH = 8, 24
TRUTH = 10_000
"""Fresh examples that say what is true."""
BATCH = 80


class Net(nn.Module):
    """Three linear layers with random weights, and the outputs that a rule is for."""

    def __init__(self, heads: Mapping[str, int], softmax: bool):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
        )
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, n) for name, n in heads.items()})
        self._softmax = softmax

    def forward(self, x: Tensor) -> Any:
        inner = self.body(x)
        found = {name: head(inner) for name, head in self.heads.items()}
        if len(found) > 1:
            return found
        only = next(iter(found.values()))
        return only.softmax(1) if self._softmax else only


def _leading(reference: Tensor, output: Tensor) -> Tensor:
    """The caller's own rule: the same two largest, in any order."""
    two = [scores.topk(2, 1).indices.sort(1).values for scores in (reference, output)]
    return (two[0] == two[1]).all(1)


@dataclass(frozen=True)
class Rule:
    """What is decided by which outputs.

    Attributes:
        heads: outputs and how many numbers each gives.
        decision: what `decision=` is given.
        softmax: the only output is probabilities.
    """

    heads: Mapping[str, int]
    decision: Decision
    softmax: bool = False


RULES: dict[str, Rule] = {
    "argmax": Rule({"scores": 4}, "argmax"),
    "argmax, inferred": Rule({"scores": 4}, None, softmax=True),
    "sign": Rule({"score": 1}, "sign"),
    "multilabel": Rule({"scores": 3}, "multilabel"),
    "close": Rule({"numbers": 4}, "close(tolerance=0.3)"),
    "joint": Rule(
        {"logits": 4, "boxes": 4, "mask": 1},
        {"logits": "argmax", "boxes": "close(tolerance=0.4)", "mask": "sign"},
    ),
    "callable": Rule({"scores": 4}, _leading),
}


@dataclass(frozen=True)
class Call:
    """What was asked of `compress`.

    Attributes:
        rule: a key of `RULES`.
        asked: the budget.
        goal: the agreement asked for; what is to hold is then that, and the bound otherwise.
        examples: for calibration, in a `DataLoader` that shuffles.
        each: examples of a scene, which `groups=` names.
    """

    rule: str
    asked: str
    goal: float | None = None
    examples: int = 200
    each: int = 1


def examples(count: int, each: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(count, INPUTS) in scenes of so many, and (count,) the scenes' numbers."""
    scenes = torch.randn(count // each, INPUTS, generator=generator)
    own = torch.randn(len(scenes) * each, INPUTS, generator=generator)
    number = torch.arange(len(scenes)).repeat_interleave(each)
    return (own if each == 1 else 0.98 * scenes[number] + 0.2 * own), number


def called(call: Call, seed: int) -> tuple[float, float]:
    """What one call promises, and what is true of what it gave."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    rule = RULES[call.rule]
    net = Net(rule.heads, rule.softmax).eval()
    x, scene = examples(call.examples, call.each, generator)
    loader = DataLoader(TensorDataset(x, scene), BATCH, shuffle=True, generator=generator)
    name, _, value = call.asked.partition("=")
    budget: dict[str, Any] = {name: float(value)}
    try:
        small = fxprune.compress(
            net,
            loader,
            decision=rule.decision,
            method="uniform",
            groups=None if call.each == 1 else lambda batch: batch[1],
            seed=seed,
            progress=False,
            **budget,
        )
    except BudgetError:
        return 0.0, 1.0  # Nothing is promised.
    found = fxprune.report(small).agreement
    assert found is not None
    fresh = (make_batch((part,), {}) for part in examples(TRUTH, 1, generator)[0].split(2000))
    with torch.no_grad():
        true = compare(net, small, fresh, rule.decision).rate
    return found.bound if call.goal is None else call.goal, true


def run(call: Call, runs: int) -> tuple[Found, float]:
    """Call again and again, with another network and other examples each time.

    Returns:
        how often the promise held, and the mean of the true agreements.
    """
    first = zlib.crc32(repr(call).encode())
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        pairs = np.array([called(call, first + at) for at in range(runs)])
    held = int((pairs[:, 0] <= pairs[:, 1]).sum())
    return Found(held, runs, float(pairs[:, 0].mean())), float(pairs[:, 1].mean())


def calls() -> Iterator[Call]:
    """A budget and an agreement for every rule, and scenes."""
    for rule in RULES:
        yield Call(rule, "flops=0.6")
    yield Call("joint", "flops=0.6", examples=1000, each=10)
    yield Call("joint", "agreement=0.9", 0.9)
