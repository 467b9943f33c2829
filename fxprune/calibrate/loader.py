"""The calibration examples: read once, kept, and handed out as often as the method needs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.calibrate.batching import Planned, plan_batches
from fxprune.calibrate.fingerprint import Kind, fingerprints, kind_of
from fxprune.calibrate.groups import Groups, Labels, independent, number_groups
from fxprune.calibrate.joined import Joined, Sizes, sizes_of
from fxprune.calibrate.padding import Mask, read_mask
from fxprune.calibrate.reading import check_like, ignore_item, read_items
from fxprune.calibrate.running import bring
from fxprune.calibrate.shards import Gathering, Share, Where, how_dealt, order_all, put_in_order
from fxprune.calibrate.spill import Spill
from fxprune.capture.batch import Batch, device_of, make_batch, to_batch
from fxprune.distributed.group import ALONE, Group
from fxprune.errors import CalibrationError

MEMORY = 2e9
"""Bytes held in memory where the caller brings no store."""
HELD = frozenset({list, tuple, dict, Tensor})
"""Loaders that hold their batches themselves."""


@dataclass(frozen=True)
class _Kept:
    """A batch in the store.

    Attributes:
        form: the tree of its arguments.
        leaves: their handles.
        size: examples in it.
        sizes: of its tensors.
        kind: what others have in common with it that it can be put together with.
    """

    form: pytree.TreeSpec
    leaves: tuple[Any, ...]
    size: int
    sizes: Sizes
    kind: Kind


class Calibration:
    """The calibration examples: read once, kept, and handed out as often as the method needs.

    A loader that shuffles, augments at random or can be read only once gives the same examples
    under the same numbers every time (docs/decisions/0015).

    Args:
        model: whose forward the batches are for.
        loader: any iterable of batches, or one tensor. What is in memory already, a list, tuple,
            tensor or dict, is not copied; everything else is, as it comes.
        chunk: most examples per batch handed out; longer ones are cut. May be changed between two
            readings.
        store: where the examples are kept; one of its own by default.
        groups: one label per example; see `Labels`.
        mask: which tokens of a batch are padding; see `Mask`.
        group: who works on the examples together.
        watch: called with everything that the loader yields and the number of examples in it.

    Attributes:
        size: examples in all.
        largest, example: size of the largest batch; two examples, to capture the model with.
        fingerprints, store: of every example, the same of identical ones; where they are.
        exact: examples in every batch handed out, where the model takes no other number; the last
            ones are copies where too few are left. May be set between two readings.
        device: to which batches are brought; None for where the examples are kept. Likewise.
        groups: (size,) number of every example's group; identical examples share one.
        copies: how many examples are identical with an earlier one.

    Raises:
        CalibrationError: the loader cannot be read, its batches are empty, of different kinds or
            not finite, or `groups` does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Any,
        chunk: int = 128,
        store: Spill | None = None,
        groups: Groups | None = None,
        watch: Callable[[Any, int], None] = ignore_item,
        mask: Mask = None,
        group: Group = ALONE,
    ):
        self.chunk, self.store = chunk, Spill(MEMORY) if store is None else store
        self.group = group
        self._kept: list[_Kept] = []
        self.mask = mask
        self._last: tuple[int, Batch] | None = None
        self.exact: int | None = None
        self.device: torch.device | None = None
        self.size = self.largest = 0
        own, labels, marks = type(loader) not in HELD, Labels(groups, loader), list[bytes]()
        self.fingerprints = marks
        first: Batch | None = None
        for item in read_items(loader):
            batch = to_batch(model, labels.without(item))
            labels.read(item, batch.size)
            if not batch.size:
                continue
            first = first or batch
            if first.kwargs.keys() == batch.kwargs.keys():
                batch = make_batch(batch.args, {name: batch.kwargs[name] for name in first.kwargs})
            check_like(first, batch, self.size)
            read_mask(batch, mask)
            marks += fingerprints(batch)
            watch(item, batch.size)
            self._keep(batch, own)
        found = labels.all()
        if group.size > 1:
            found = self._share(how_dealt(loader), found, device_of(model))
        if not self._kept:
            raise CalibrationError(
                "The calibration loader yields no example. A few hundred unlabeled inputs are "
                "needed."
            )
        self.example = self._example()
        self.groups = number_groups(self.fingerprints, found)
        self.copies = self.size - len(set(self.fingerprints))

    def _share(
        self,
        dealt: tuple[int, int, int] | None,
        labels: list[Any] | None,
        device: torch.device | None,
    ) -> list[Any] | None:
        """Put what all ranks read into one order, on all of them.

        Args:
            dealt: as `how_dealt` says.
            labels: of the examples of this rank.
            device: of the examples; None for the CPU.

        Returns:
            the labels in that order.
        """
        own = Share(tuple(self.fingerprints), self._kept[0].size if self._kept else 0, dealt)
        shares, rank = self.group.gather(own, "examples"), self.group.rank
        if all(share.marks == own.marks for share in shares):
            return labels
        order, alike = order_all(shares, rank)
        own_labels = labels or []
        told = [own_labels] if alike else self.group.gather(own_labels, "labels")
        step = next((share.batch for share in shares if share.batch), 1)
        kept, self._kept, self.size, self.largest = self._kept, [], 0, 0
        gathered = Gathering([(k.size, partial(self._get, k)) for k in kept], order, rank)
        places = list[Where]()
        for start in range(0, len(order), step):
            pieces = gathered.own(start, start + step)
            every = [pieces] if alike else self.group.gather(pieces, "examples")
            for numbers, batch in put_in_order([p for ranks in every for p in ranks]):
                self._keep(batch.map(lambda t: t.to(device or "cpu")), copied=False)
                places += [order[number] for number in numbers]
        for leaf in (leaf for k in kept for leaf in k.leaves):
            self.store.release(leaf)
        self.fingerprints = [shares[who].marks[place] for who, place in places]
        return (
            None if labels is None else [told[0 if alike else who][place] for who, place in places]
        )

    def _keep(self, batch: Batch, copied: bool) -> None:
        leaves, form = pytree.tree_flatten((batch.args, batch.kwargs))
        handles = tuple(self.store.keep(leaf, copied) for leaf in leaves)
        self._kept.append(_Kept(form, handles, batch.size, sizes_of(batch), kind_of(batch)))
        self.size += batch.size
        self.largest = max(self.largest, batch.size)

    def _get(self, kept: _Kept) -> Batch:
        leaves = [self.store.get(leaf) for leaf in kept.leaves]
        return make_batch(*pytree.tree_unflatten(leaves, kept.form))

    def _example(self) -> Batch:
        """The first two examples; of batches of one, two alike put together, or one twice.

        A trace of one example would take its size for a constant.
        """
        first = self._get(self._kept[0])
        if first.size > 1:
            return first.part(0, 2)
        both = Joined(first, 2)
        both.add(first)
        others = (self._get(k).part(0, 1) for k in self._kept[1:] if k.sizes == self._kept[0].sizes)
        if not any(both.add(other) for other in others):
            both.add(first)
        return both.batch()

    def first(self) -> tuple[Batch, bool]:
        """The first batch as the loader gave it, and whether it is one of several: all examples in
        one say nothing of how many the model takes in a call.
        """
        return self._get(self._kept[0]), len(self._kept) > 1

    def notes(self, held_out: np.ndarray) -> tuple[str, ...]:
        """What a report should say of examples that belong together.

        Args:
            held_out: (size,) bool, which examples certify the result.
        """
        groups = len(np.unique(self.groups))
        if groups == self.size:
            return ()
        copies = f", {self.copies} of them copies of others" if self.copies else ""
        return (
            f"the {self.size} calibration examples are {groups} groups{copies}; no group is both "
            f"fitted and held out, and the {int(held_out.sum())} held-out examples count as "
            f"{independent(self.groups[held_out]):.0f} independent ones in the bound",
        )

    def shapes(self) -> Iterator[tuple[Sizes, Batch]]:
        """Every combination of sizes that comes, and at most two examples of it."""
        first = dict[Sizes, _Kept]()
        for kept in self._kept:
            first.setdefault(kept.sizes, kept)
        for sizes, kept in first.items():
            yield sizes, self._get(kept).part(0, self.exact or 2).filled(self.exact or 0)

    def varied(self) -> frozenset[tuple[int, int]]:
        """The axes whose sizes differ between batches: (number of the tensor, axis)."""
        first, found = self._kept[0].sizes, set[tuple[int, int]]()
        dims = [tensor.dim() for tensor in self.example.tensors()]
        for kept in self._kept:
            for i, (a, b) in enumerate(zip(first, kept.sizes, strict=True)):
                found |= {
                    (i, axis + dims[i] - len(a))
                    for axis in range(min(len(a), len(b)))
                    if a[axis] != b[axis]
                }
        return frozenset(found)

    def batches(self, chosen: np.ndarray | None = None) -> Iterator[Batch]:
        """Stream the examples in batches of at most `chunk` and no larger than the loader's: in
        order where all have the same sizes, and never two sizes in one batch.

        Args:
            chosen: (size,) bool, which examples; all by default. What is left of neighboring
                batches is put together.
        """
        for _, batch in self.numbered(chosen):
            yield batch

    def numbered(self, chosen: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, Batch]]:
        """Stream the examples as `batches` does, with their numbers; copies have none."""
        for planned in self.plan(chosen):
            yield planned.numbers, self.make(planned)

    def plan(
        self,
        chosen: np.ndarray | None = None,
        fewest: int = 1,
        first: int = 0,
        stream: int = 0,
    ) -> list[Planned]:
        """What the batches of a stream will be.

        Args:
            chosen: (size,) bool, which examples; all by default.
            fewest: batches there are to be, where there are as many examples.
            first: examples that come before.
            stream: which of those that are added up together.
        """
        examples = self.size if chosen is None else int(chosen.sum())
        chunk = self.exact or min(self.chunk, max(-(-examples // fewest), 1))
        most = self.exact or min(chunk, self.largest)
        kinds = [(kept.kind, kept.size) for kept in self._kept]
        return plan_batches(kinds, chosen, most, chunk, self.exact or 0, first, stream)

    def make(self, planned: Planned) -> Batch:
        """A batch as planned."""
        parts = [self._piece(*piece) for piece in planned.pieces]
        batch = parts[0]
        if len(parts) > 1:
            joined = Joined(batch, len(planned.numbers))
            for part in parts:
                joined.add(part)
            batch = joined.batch()
        if self.device is not None:
            batch = batch.map(partial(bring, device=self.device))
        batch = replace(batch, real=read_mask(batch, self.mask))
        return batch.filled(self.exact or 0)

    def _piece(self, number: int, index: np.ndarray) -> Batch:
        """Some examples of a kept batch."""
        if self._last is None or self._last[0] != number:  # it may come from disk
            self._last = number, self._get(self._kept[number])
        batch = self._last[1]
        if len(index) == batch.size:
            return batch
        if index[-1] - index[0] + 1 == len(index):
            return batch.part(int(index[0]), int(index[-1]) + 1)
        return batch.take(torch.from_numpy(index))
