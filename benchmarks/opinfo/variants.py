"""Ways to put an operator between layers: which of a sample's tensors come out of a layer, along
which axis its channels lie, and which axis of the result carries them.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from benchmarks.opinfo.measuring import measured
from benchmarks.opinfo.variant import Variant

SAMPLES = 64
"""Samples of an entry that are looked at."""
CANDIDATES = 64
"""Variants that are chosen from."""
LARGEST = 1 << 12
"""Elements of the largest tensor that is tried."""


class NotApplicable(Exception):
    """Why channels cannot be led through an operator."""


class Entry(Protocol):
    """What is read of an entry of torch's database, an `OpInfo`."""

    @property
    def full_name(self) -> str:
        """With the variant's name behind a point."""

    @property
    def inplace_variant(self) -> Any:
        """The operator in place, or None."""

    @property
    def aliases(self) -> Iterable[Any]:
        """Its other names, with `name` and `op`."""

    def get_op(self) -> Callable[..., Any]:
        """The operator as a function."""

    def supports_dtype(self, dtype: torch.dtype, device_type: str) -> bool:
        """Whether it takes tensors of a dtype."""

    def sample_inputs(self, device: str, dtype: torch.dtype, requires_grad: bool) -> Iterator[Any]:
        """Samples with `input`, `args` and `kwargs`."""


def entries() -> dict[str, Entry]:
    """Every entry of torch's database by its full name."""
    # It takes seconds to import, and tests that only look at this file need not wait.
    from torch.testing._internal.common_methods_invocations import op_db

    return {op.full_name: op for op in op_db}


def variants(op: Entry, most: int, seed: int) -> list[Variant]:
    """Up to `most` ways to put an operator between layers, as unlike each other as they come.

    Raises:
        NotApplicable: there is none.
    """
    found = list(itertools.islice(_candidates(op, seed), CANDIDATES))
    if not found:
        raise NotApplicable("no sample has an axis for channels")
    steady = [variant for variant in found if not variant.random]
    chosen = _unlike(steady or found, most, random.Random(seed))
    base = next((v for v in chosen if v.passes), chosen[0])
    return [*chosen, *_other_forms(op, base)]


def _dtype(op: Entry) -> torch.dtype:
    for dtype in (torch.float64, torch.float32):
        if op.supports_dtype(dtype, "cpu"):
            return dtype
    raise NotApplicable("takes no float64 or float32 tensor")


def _candidates(op: Entry, seed: int) -> Iterator[Variant]:
    """Every sample with every choice of tensors and axes."""
    torch.manual_seed(seed)
    samples = op.sample_inputs("cpu", _dtype(op), requires_grad=False)
    usable, empty = False, True
    for sample in itertools.islice(samples, SAMPLES):
        empty = False
        leaves, tree = pytree.tree_flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
        tensors = [t for t in leaves if isinstance(t, Tensor)]
        if any(t.layout is not torch.strided or t.numel() > LARGEST for t in tensors):
            continue
        floating = [i for i, t in enumerate(leaves) if _carries(t)]
        usable = usable or bool(floating)
        for made in _choices(leaves, floating):
            variant = measured(op.get_op(), leaves, tree, made, "op")
            if variant is not None:
                yield variant
    if empty:
        raise NotApplicable("the database has no sample for it")
    if not usable:
        raise NotApplicable("no sample has a dense floating tensor with an axis of two or more")


def _carries(leaf: Any) -> bool:
    return (
        isinstance(leaf, Tensor)
        and leaf.is_floating_point()
        and leaf.numel() > 0
        and any(size > 1 for size in leaf.shape)
    )


def _choices(leaves: Sequence[Any], floating: list[int]) -> Iterator[tuple[tuple[int, int], ...]]:
    """The first tensor alone, all of them, and each other alone, along every axis."""
    groups = [floating[:1], floating, *([i] for i in floating[1:3])]
    for members in dict.fromkeys(tuple(g) for g in groups if g):
        first = leaves[members[0]]
        for axis in range(first.dim() - 1, -1, -1):
            if first.shape[axis] > 1:
                for shift in (0, 1) if len(members) > 1 else (0,):
                    yield tuple((i, _beside(first, axis, leaves[i], shift)) for i in members)


def _beside(first: Tensor, axis: int, other: Tensor, shift: int) -> int:
    """An axis of another tensor: the one that broadcasts against the first one's, or one further
    to the left, as far as there are such with several indices.
    """
    if other is first:
        return axis
    wanted = [axis - first.dim() - shift, axis - first.dim(), -1]
    fit = [d for d in wanted if -other.dim() <= d < 0 and other.shape[d] > 1]
    wide = [d for d in range(other.dim()) if other.shape[d] > 1]
    return fit[0] % other.dim() if fit else wide[-1]


def _unlike(found: list[Variant], most: int, draw: random.Random) -> list[Variant]:
    """Of every kind in turn, until there are enough; by turns such as keep channels apart, and
    such as mix or read them.
    """
    kinds: dict[object, list[Variant]] = {}
    for variant in found:
        place, axis = variant.made[0]
        rank = variant.leaves[place].dim()
        key = (variant.passes, len(variant.made), place, min(axis, 2), min(rank, 4))
        kinds.setdefault(key, []).append(variant)
    for members in kinds.values():
        draw.shuffle(members)
    apart = [members for members in kinds.values() if members[0].passes]
    mixed = [members for members in kinds.values() if not members[0].passes]
    pairs = itertools.zip_longest(apart, mixed)
    ordered = [members for pair in pairs for members in pair if members is not None]
    turns = itertools.zip_longest(*ordered)
    return [v for turn in turns for v in turn if v is not None][:most]


def _other_forms(op: Entry, base: Variant) -> Iterator[Variant]:
    """The same sample in place, and under the operator's other names."""
    forms: list[tuple[str, Any]] = [("in place", op.inplace_variant)]
    forms += [(alias.name, alias.op) for alias in op.aliases]
    for kind, call in forms:
        if call is not None:
            variant = measured(call, base.leaves, base.tree, base.made, kind)
            if variant is not None:
                yield variant
