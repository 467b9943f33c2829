"""Which examples are trained on, which choose the result, and which certify it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.calibrate.fingerprint import PACKED, unpack
from fxprune.calibrate.groups import independent
from fxprune.calibrate.loader import Calibration
from fxprune.capture.batch import Batch, labels_in
from fxprune.errors import CalibrationError
from fxprune.handover.report import Report


@dataclass(frozen=True)
class Parts:
    """Calibration examples by what they are for; no group stands in two parts.

    Attributes:
        training: (examples,) bool; those that `compress` did not hold out.
        acceptance: (examples,) bool; half of the held-out groups: they stop training and choose.
        certificate: (examples,) bool; the other half: nothing reads them until the end.
        independent: for how many independent examples the certificate's count.
    """

    training: np.ndarray
    acceptance: np.ndarray
    certificate: np.ndarray
    independent: float


def divide(calibration: Calibration, report: Report, seed: int) -> Parts:
    """Know the examples again that `compress` held out, and halve them.

    An example that belongs to a held-out one's group and was not held out itself is in no part.

    Args:
        calibration: the examples.
        report: of the compressed model.
        seed: of the draw.

    Raises:
        CalibrationError: too few of them are there to choose and to certify, or no other ones.
    """
    held = _held_out(calibration, report)
    groups = calibration.groups
    linked = np.isin(groups, np.unique(groups[held]))
    training, names = ~linked, np.unique(groups[held])
    if len(names) < 2:
        raise CalibrationError(
            f"compress held out {len(names)} independent examples of these, and two or more are "
            "needed: one part chooses the weights that are handed back, the other certifies them. "
            "Give compress, and then recover, more calibration examples."
        )
    if not training.any():
        raise CalibrationError(
            f"Nothing is left to train on: compress held out all {len(groups)} examples of this "
            "loader. Give the loader that compress was given."
        )
    chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    acceptance = held & np.isin(groups, chosen)
    certificate = held & ~acceptance
    return Parts(training, acceptance, certificate, independent(groups[certificate]))


def drawn(part: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Some examples of a part, all where these are few enough: (examples,) bool.

    Args:
        part: (examples,) bool.
        most: examples to draw.
        seed: of the draw.
    """
    some = np.zeros_like(part)
    some[np.random.default_rng(seed).permutation(np.flatnonzero(part))[:most]] = True
    return some


def _held_out(calibration: Calibration, report: Report) -> np.ndarray:
    """(examples,) bool.

    Raises:
        CalibrationError: the report names none, or none of those is there.
    """
    try:
        known = unpack(report.held_out)
    except ValueError as error:
        raise CalibrationError(
            f"The report's held-out examples are damaged: {error}. Compress again."
        ) from error
    if not known:
        raise CalibrationError(
            "The report names no example that compress held out, and what the fit has seen can "
            "neither choose nor certify. Compress again with a few dozen examples or more."
        )
    held = np.array([mark[:PACKED] in known for mark in calibration.fingerprints])
    if not held.any():
        raise CalibrationError(
            f"None of the {len(known)} examples that compress held out comes from this loader. "
            "Give the loader that compress was given; where it augments at random, take that out "
            "and name it in augment=."
        )
    return held


class Labels:
    """Reads the labels beside the examples.

    Args:
        model: whose forward the batches are for.

    Raises:
        CalibrationError: a batch has no labels, or not one for each example.
    """

    def __init__(self, model: nn.Module):
        self._model, self._found = model, list[Tensor]()

    def read(self, item: Any, size: int) -> None:
        """Take the labels of what the loader yielded."""
        found = labels_in(self._model, item)
        if found is None:
            raise CalibrationError(
                f"labels=True, and the loader yields a {type(item).__name__} without labels. Yield "
                "tuples (x, y), or dicts with a key such as labels; or leave labels= out."
            )
        labels = found if isinstance(found, Tensor) else torch.as_tensor(np.asarray(found))
        if not labels.dim() or len(labels) != size:
            raise CalibrationError(
                f"labels=True: a batch of {size} examples has labels of shape "
                f"{tuple(labels.shape)}. Give one for each example."
            )
        self._found.append(labels.detach().cpu())

    def all(self) -> Tensor:
        """(examples, ...) of every example."""
        return torch.cat(self._found)


@dataclass(frozen=True)
class Stream:
    """Batches of training examples without an end, each pass in a new random order.

    Attributes:
        calibration: the examples.
        training: (examples,) bool, which ones.
        size: examples per batch and process.
        seed: of the orders.
        process, processes: which of how many this is; they draw different examples.
    """

    calibration: Calibration
    training: np.ndarray
    size: int
    seed: int
    process: int = 0
    processes: int = 1

    def batch(self, number: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """The examples of a batch, with their numbers: one call, or several where they have
        several sizes.
        """
        chosen = np.zeros(len(self.training), dtype=bool)
        chosen[self.numbers(number)] = True
        for numbers, batch in self.calibration.numbered(chosen):
            yield numbers, batch.channels_last()

    def numbers(self, number: int) -> np.ndarray:
        """Which examples a batch holds: (size,), or all where there are fewer."""
        examples = np.flatnonzero(self.training)
        size = min(self.size, len(examples))
        per_pass = max(1, len(examples) // size)
        turn = number * self.processes + self.process
        order = np.random.default_rng((self.seed, turn // per_pass)).permutation(examples)
        start = turn % per_pass * size
        return order[start : start + size]
