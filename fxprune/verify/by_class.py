"""Agreement class by class, and the examples on which decisions changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from fxprune.capture.batch import Batch
from fxprune.distributed.group import Group
from fxprune.linalg.clopper_pearson import interval
from fxprune.resume.typed import UNKEPT
from fxprune.verify.judge import Cut, Judge, Judged
from fxprune.verify.outputs import floating
from fxprune.verify.pictures import Picture, picture_of
from fxprune.verify.telling import classes_of, name_class, tell

MOST_CHANGED = 24
"""Examples that a report tells of."""


@dataclass(frozen=True)
class ClassAgreement:
    """How often examples of one class, by the original's decision, are decided alike.

    Attributes:
        name: of the class.
        examples: held-out ones that the original puts into it.
        rate: share of them with the same decision.
        low, high: two-sided 95 % Clopper-Pearson interval of the rate, of this class alone.
    """

    name: str
    examples: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Changed:
    """An example on which the two models decide differently.

    Attributes:
        number: of the calibration example, in the loader's order, from 0.
        before, after: what the original and the compressed model decide; empty where the rule does
            not name it.
        picture: where the input is an image. It is calibration data: it stays in this process, and
            out of JSON, pickles, saved models and checkpoints.
    """

    number: int
    before: str
    after: str
    picture: Picture | None = field(default=None, compare=False, repr=False, metadata=UNKEPT)

    def __reduce__(self) -> tuple[Any, ...]:
        return Changed, (self.number, self.before, self.after)

    def __copy__(self) -> "Changed":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Changed":
        return self


class ByClass:
    """Sorts examples by the original's class, batch after batch, and keeps what changed.

    Args:
        judge: of the outputs. The classes are those of the first that has any and counts.
    """

    def __init__(self, judge: Judge):
        self._judged = [judged for judged in judge.outputs if judged.counts]
        self._classes: list[Tensor] = []
        self._names: int | None = None
        self.changed: list[Changed] = []
        self._seen = 0

    def add(
        self,
        batch: Batch,
        reference: Any,
        output: Any,
        same: Sequence[Tensor],
        cut: Cut = lambda name, value: None,
    ) -> None:
        """Take a batch.

        Args:
            batch, reference, output: inputs, and what both models gave.
            same: (N,) bool for each output that counts.
            cut: takes the padding off an output.
        """
        named = floating(reference), floating(output)
        for at, judged in enumerate(self._judged):
            if judged.name:
                classes = classes_of(judged.rule, named[0][judged.name])
                if classes is not None:
                    self._classes.append(classes.cpu())
                    self._names = at
                    break
        for row in range(batch.own):
            if len(self.changed) == MOST_CHANGED:
                break
            differing = [
                judged for judged, equal in zip(self._judged, same, strict=True) if not equal[row]
            ]
            if differing:
                pair = [_row(found, differing[0].name, row, cut) for found in named]
                before, after = _tell(differing[0], pair, several=len(self._judged) > 1)
                picture = picture_of(batch, row)
                self.changed.append(Changed(self._seen + row, before, after, picture))
        self._seen += batch.own

    def gather(self, group: Group) -> None:
        """Take what all ranks have seen, each of a run of batches."""
        # Pictures go only where they are taken along by hand.
        changed = [(c, c.picture) for c in self.changed]
        told = group.gather((self._classes, self._names, changed, self._seen), "classes")
        self._classes, self.changed, self._seen = [], [], 0
        for classes, names, own, seen in told:
            self._classes += classes
            self._names = names if self._names is None else self._names
            self.changed += [
                replace(c, number=self._seen + c.number, picture=picture) for c, picture in own
            ]
            self._seen += seen
        del self.changed[MOST_CHANGED:]

    def classes(self, equal: np.ndarray, independent: float | None) -> tuple[ClassAgreement, ...]:
        """Every class that the original chose.

        Args:
            equal: (examples,) bool, whether each example's decision is the same.
            independent: for how many independent examples all of them count; each class for its
                share of these.
        """
        if sum(map(len, self._classes)) != len(equal) or not len(equal):
            return ()
        classes = np.concatenate([part.numpy() for part in self._classes])
        weight = 1.0 if independent is None else independent / len(equal)
        name_of: Callable[[int], str] = str
        if self._names is not None:
            name_of = partial(name_class, self._judged[self._names].rule)
        found = []
        for number in np.unique(classes).tolist():
            own = equal[classes == number]
            low, high = interval(int(own.sum()), len(own), independent=weight * len(own))
            name = name_of(number)
            found.append(ClassAgreement(name, len(own), float(own.mean()), low, high))
        return tuple(found)


def _row(found: dict[str, Tensor], name: str, row: int, cut: Cut) -> Tensor | None:
    """One example of an output, without padding; None of what is no output."""
    if not name:
        return None
    pieces = cut(name, found[name])
    return found[name][row : row + 1] if pieces is None else pieces[row]


def _tell(judged: Judged, pair: Sequence[Tensor | None], several: bool) -> tuple[str, str]:
    """Both decisions of one output on one example, in words."""
    reference, output = pair
    if reference is None or output is None:
        return "", ""
    name = judged.name
    before, after = tell(judged.rule, reference, output)
    return (f"{name}: {before}" if several and before else before), after
