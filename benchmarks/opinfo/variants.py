"""Ways to put an operator between layers: which of a sample's tensors come out of a layer, along
which axis its channels lie, and which axis of the result carries them.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils import _pytree as pytree

SAMPLES = 64
"""Samples of an entry that are looked at."""
LARGEST = 1 << 12
"""Elements of the largest tensor that is tried."""
TRIED = 1e-9
"""What differs by more than this share of the largest value has changed."""


class NotApplicable(Exception):
    """Why channels cannot be led through an operator."""


@dataclass(frozen=True)
class Reading:
    """A tensor that the operator returns, and the axis that a layer reads.

    Attributes:
        place: its number among the tensors returned.
        shape: of it.
        axis: the axis along which it changes with the channels.
        passes: whether some of its entries do not change with each channel.
        finite: whether it holds finite numbers only.
    """

    place: int
    shape: tuple[int, ...]
    axis: int
    passes: bool
    finite: bool


@dataclass(frozen=True, eq=False)
class Variant:
    """One sample of an operator, with layers around it.

    Attributes:
        call: takes the sample's arguments, as in `tree`.
        leaves: what stands in the sample: tensors and everything else.
        tree: the nest of `leaves`: input, positional and keyword arguments.
        made: leaves that come out of a layer, and the axis of its channels.
        readings: what the layers behind read.
        kind: the operator as a function, in place, or under another name.
        random: whether two runs differ.
    """

    call: Callable[..., Any]
    leaves: tuple[Any, ...]
    tree: pytree.TreeSpec
    made: tuple[tuple[int, int], ...]
    readings: tuple[Reading, ...]
    kind: str
    random: bool

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """What the operator returns for these in the place of the leaves that are made."""
        leaves = list(self.leaves)
        for (place, _), tensor in zip(self.made, tensors, strict=True):
            leaves[place] = tensor
        return run(self.call, leaves, self.tree)

    @cached_property
    def passes(self) -> bool:
        """Whether channels stay apart in some result."""
        return any(reading.passes for reading in self.readings)

    @property
    def whole(self) -> bool:
        """Whether layers make every tensor, so that none has a batch size of its own."""
        return len(self.made) == sum(isinstance(leaf, Tensor) for leaf in self.leaves)

    def __str__(self) -> str:
        """The arguments, shapes for tensors, and `*` at the axis of the channels."""
        axes = dict(self.made)
        shown = [_shown(leaf, axes.get(i)) for i, leaf in enumerate(self.leaves)]
        first, args, kwargs = pytree.tree_unflatten([_Text(s) for s in shown], self.tree)
        parts = [str(first), *(str(a) for a in args), *(f"{k}={v}" for k, v in kwargs.items())]
        return f"{self.kind}({', '.join(parts)})"


class _Text(str):
    """A text whose representation is itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _shown(leaf: Any, axis: int | None) -> str:
    if not isinstance(leaf, Tensor):
        return repr(leaf) if isinstance(leaf, str) else str(leaf)
    sizes = [f"{size}*" if d == axis else str(size) for d, size in enumerate(leaf.shape)]
    return f"[{' '.join(sizes)}]"


def run(call: Callable[..., Any], leaves: Sequence[Any], tree: pytree.TreeSpec) -> list[Tensor]:
    """The tensors that a call on a sample returns."""
    first, args, kwargs = pytree.tree_unflatten(leaves, tree)
    with torch.no_grad():
        result = call(first, *args, **kwargs)
    return [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]


def entries() -> dict[str, OpInfo]:
    """Every entry of torch's database by its full name."""
    return {op.full_name: op for op in op_db}


def variants(op: OpInfo, most: int, seed: int) -> list[Variant]:
    """Up to `most` ways to put an operator between layers, as unlike each other as they come.

    Raises:
        NotApplicable: there is none.
    """
    found = list(itertools.islice(_candidates(op, seed), 16 * most))
    if not found:
        raise NotApplicable("no sample has an axis for channels")
    chosen = _unlike(found, most, random.Random(seed))
    base = next((v for v in chosen if v.passes), chosen[0])
    return [*chosen, *_other_forms(op, base)]


def _dtype(op: OpInfo) -> torch.dtype:
    for dtype in (torch.float64, torch.float32):
        if op.supports_dtype(dtype, "cpu"):
            return dtype
    raise NotApplicable("takes no float64 or float32 tensor")


def _candidates(op: OpInfo, seed: int) -> Iterator[Variant]:
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


def measured(
    call: Callable[..., Any],
    leaves: Sequence[Any],
    tree: pytree.TreeSpec,
    made: tuple[tuple[int, int], ...],
    kind: str,
) -> Variant | None:
    """A variant with what the operator itself says about where its channels go; None where it
    returns nothing that can be read.
    """
    leaves = _without_ties(call, leaves, tree, made)

    def result(changed: int | None) -> list[Tensor]:
        # In-place operators get tensors of their own.
        given = [t.clone() if isinstance(t, Tensor) else t for t in leaves]
        if changed is not None:
            for place, axis in made:
                given[place] = _swapped(given[place], axis, changed)
        return run(call, given, tree)

    try:
        base, again = result(None), result(None)
        alike = all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(base, again, strict=True))
        same = alike and all(differing(a, b).sum() == 0 for a, b in zip(base, again, strict=True))
        width = min(leaves[place].shape[axis] for place, axis in made)
        runs = [result(channel) for channel in range(width)]
        readings = tuple(
            _reading(place, tensor, [r[place] for r in runs], made[0][1])
            for place, tensor in enumerate(base)
            if tensor.numel() and tensor.layout is torch.strided
        )
    except Exception:  # what torch raises for samples that do not suit it has many types
        return None
    if not readings:
        return None
    return Variant(call, tuple(leaves), tree, made, readings, kind, not same)


def _without_ties(
    call: Callable[..., Any],
    leaves: Sequence[Any],
    tree: pytree.TreeSpec,
    made: tuple[tuple[int, int], ...],
) -> Sequence[Any]:
    """A sample whose values do not stand where rounding decides, for operators that compare."""
    given = [t.clone() if isinstance(t, Tensor) else t for t in leaves]
    try:
        if all(t.is_floating_point() or t.is_complex() for t in run(call, given, tree)):
            return leaves
    except Exception:  # as below
        return leaves
    moved = list(leaves)
    for place, _ in made:
        count = torch.arange(1, leaves[place].numel() + 1, dtype=leaves[place].dtype)
        moved[place] = leaves[place] * (1 + 1e-3 * torch.sin(count).view(leaves[place].shape))
    return moved


def _swapped(tensor: Tensor, axis: int, channel: int) -> Tensor:
    """A copy in which a channel holds what its neighbor holds: values that the operator takes."""
    changed = tensor.clone()
    neighbor = (channel + 1) % tensor.shape[axis]
    changed.select(axis, channel).copy_(tensor.select(axis, neighbor) * 0.75)
    return changed


def differing(left: Tensor, right: Tensor) -> Tensor:
    """Where two tensors of one shape differ."""
    if not left.is_floating_point() and not left.is_complex():
        return left != right
    scale = left[left.isfinite()].abs().amax() if left.isfinite().any() else 1.0
    return ~torch.isclose(left, right, rtol=0, atol=float(scale) * TRIED, equal_nan=True)


def _reading(place: int, base: Tensor, runs: list[Tensor], axis: int) -> Reading:
    """Where a result changes with each channel; the axis along which each changes least."""
    shape, finite = tuple(base.shape), not base.is_floating_point() or bool(base.isfinite().all())
    same = [r for r in runs if r.shape == base.shape]
    if not shape or len(same) < len(runs):
        return Reading(place, shape, 0, False, finite)
    touched = [differing(base, r) for r in runs]
    spread: list[tuple[float, int]] = []
    for d in range(len(shape)):
        rest = tuple(i for i in range(len(shape)) if i != d)
        share = [float((t.any(rest) if rest else t).double().mean()) for t in touched]
        spread.append((max(share), -d))
    least, at = min(spread)
    if least >= 1:
        return Reading(place, shape, axis if axis < len(shape) else len(shape) - 1, False, finite)
    return Reading(place, shape, -at, any(bool(t.any()) for t in touched), finite)


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


def _other_forms(op: OpInfo, base: Variant) -> Iterator[Variant]:
    """The same sample in place, and under the operator's other names."""
    forms: list[tuple[str, Any]] = [("in place", op.inplace_variant)]
    forms += [(alias.name, alias.op) for alias in op.aliases]
    for kind, call in forms:
        if call is not None:
            variant = measured(call, base.leaves, base.tree, base.made, kind)
            if variant is not None:
                yield variant
