"""Which calibration examples belong together, and for how many independent ones they count."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from fxprune.errors import CalibrationError

Groups = Callable[[Any], Any] | Sequence[Any] | np.ndarray | Tensor | str
"""One label per example: a callable that takes what the loader yields, an array in the order of
the loader, or the key of dict batches that holds them.
"""


def check_groups(groups: Any) -> None:
    """Check that `groups=` is of a kind that can give labels.

    Raises:
        CalibrationError: it is not.
    """
    if groups is None or isinstance(groups, str) or callable(groups):
        return
    if isinstance(groups, (Sequence, np.ndarray, Tensor)) and np.ndim(groups) == 1:
        return
    raise CalibrationError(
        f"groups is a {type(groups).__name__}: pass one label per example, as a flat array, a "
        "callable that takes what the loader yields, or the key of dict batches."
    )


class Labels:
    """Reads the label of every example beside the examples.

    Args:
        groups: what the caller passed.
        loader: what the examples come from.

    Raises:
        CalibrationError: an array is to go by the order of a loader that has none, or labels are
            missing, too many or not labels.
    """

    def __init__(self, groups: Groups | None, loader: Any):
        check_groups(groups)
        self._groups, self._found = groups, list[Any]()
        self._array = None if isinstance(groups, str) or callable(groups) else groups
        if self._array is not None and _draws(loader):
            raise CalibrationError(
                "groups= is an array, which goes by the order of the examples, and this DataLoader "
                "draws them in another order every time. Pass a callable that takes a batch, or "
                "the key of dict batches."
            )

    def without(self, item: Any) -> Any:
        """What the loader yields, without the labels in it."""
        key = self._groups
        if not isinstance(key, str) or not hasattr(item, "keys"):
            return item
        return {k: item[k] for k in item.keys() if k != key}

    def read(self, item: Any, size: int) -> None:
        """Take the labels of what the loader yielded.

        Args:
            item: as it came.
            size: examples in it.
        """
        if self._groups is None:
            return
        at = len(self._found)
        if self._array is not None:
            labels = _listed(self._array[at : at + size])
            if len(labels) < size:
                raise CalibrationError(
                    f"groups= has {len(self._array)} labels; the calibration loader gives more "
                    "examples. Pass one label per example."
                )
        else:
            labels = _listed(self._labels_in(item))
        if len(labels) != size:
            raise CalibrationError(
                f"groups= gives {len(labels)} labels for the calibration batch from example {at}, "
                f"which holds {size}. Give one label per example."
            )
        for label in labels:
            _check_label(label, at)
        self._found += labels

    def all(self) -> list[Any] | None:
        """The labels of all examples; None where none were asked for."""
        if self._groups is None:
            return None
        if self._array is not None and len(self._array) != len(self._found):
            raise CalibrationError(
                f"groups= has {len(self._array)} labels; the calibration loader gives "
                f"{len(self._found)} examples. Pass one label per example, in the same order."
            )
        return self._found

    def _labels_in(self, item: Any) -> Any:
        if not isinstance(self._groups, str):
            assert callable(self._groups)
            try:
                return self._groups(item)
            except Exception as error:  # whatever a caller's function raises
                raise CalibrationError(
                    f"groups= fails on the calibration batch from example {len(self._found)}, a "
                    f"{type(item).__name__}: {type(error).__name__}: {error}. It is called with "
                    "what the loader yields."
                ) from error
        if not hasattr(item, "keys") or self._groups not in item.keys():
            held = sorted(map(str, item.keys())) if hasattr(item, "keys") else type(item).__name__
            raise CalibrationError(
                f"groups={self._groups!r} is no key of the calibration batches ({held}). Pass a "
                "key of dict batches, a callable or an array."
            )
        return item[self._groups]


def _listed(labels: Any) -> list[Any]:
    if isinstance(labels, (Tensor, np.ndarray)):
        found = labels.tolist()
        return found if isinstance(found, list) else [found]
    if isinstance(labels, str) or not hasattr(labels, "__iter__"):
        return [labels]
    return [x.item() if isinstance(x, Tensor) and x.numel() == 1 else x for x in labels]


def _check_label(label: Any, at: int) -> None:
    try:
        hash(label)
        known = label is not None and not isinstance(label, Tensor) and label == label
    except TypeError:
        known = False
    if not known:
        raise CalibrationError(
            f"groups= gives {label!r} in the calibration batch from example {at}. A label is a "
            "number, a text or a tuple of them, the same for all examples of a group."
        )


def _draws(loader: Any) -> bool:
    """Whether a loader's order is not that of its data set."""
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return False
    plain = type(loader.batch_sampler) is BatchSampler
    return not plain or not isinstance(loader.sampler, SequentialSampler)


def number_groups(marks: Sequence[bytes], labels: Sequence[Any] | None = None) -> np.ndarray:
    """Number what belongs together: examples with the same fingerprint or the same label, and all
    that are linked through others.

    Args:
        marks: fingerprint of every example.
        labels: of every example; none by default.

    Returns:
        (examples,) int64, from 0 in order of first appearance.
    """
    parent: list[int] = []

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    nodes: dict[tuple[bool, Any], int] = {}
    own = []
    for at, mark in enumerate(marks):
        keys = [(False, mark)] + ([] if labels is None else [(True, labels[at])])
        numbers = []
        for key in keys:
            number = nodes.setdefault(key, len(parent))
            if number == len(parent):
                parent.append(number)
            numbers.append(root(number))
        parent[max(numbers)] = min(numbers)
        own.append(min(numbers))
    order: dict[int, int] = {}
    return np.array([order.setdefault(root(n), len(order)) for n in own], dtype=np.int64)


def independent(groups: np.ndarray) -> float:
    """For how many independent examples these count, whatever lies within a group.

    Kish's effective number (Kish 1965) of groups, (sum m)^2 / sum m^2 for groups of m examples: the
    number of groups where they are equally large, the number of examples where each is its own.

    Args:
        groups: (examples,) number of every example's group.
    """
    sizes = np.unique(groups, return_counts=True)[1].astype(float)
    return float(sizes.sum() ** 2 / np.square(sizes).sum()) if len(sizes) else 0.0
