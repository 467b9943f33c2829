"""A plan: names and integers that say what stays; JSON both ways, re-appliable to another
checkpoint.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxprune.errors import PlanError
from fxprune.label.groups import Analysis
from fxprune.label.survivors import kept_axes
from fxprune.plans.factoring import Factoring

VERSION = 5
UNROTATED, UNFOLDED, UNMAPPED = 2, 3, 4
"""The versions of plans that rotate nothing, fold no norms, and put in no maps: older ones read
them.
"""
TIED = "tied"
"""The setting that lists the groups whose widths are equal."""
Indices = list[int] | list[list[int]]


@dataclass(frozen=True)
class Rotation:
    """A channel group whose channels were written in new coordinates, of which the first stay.

    Attributes:
        digest: of the coordinates.
        axes: the weight axes that hold the group's channels, as (parameter, axis); indices in
            `Plan.kept` number new coordinates there.
        norm: of a stream whose norms were folded, which these are: "rms", or "layer", where the
            mean's direction is the last coordinate along the axes. Else nothing.
    """

    digest: str
    axes: tuple[tuple[str, int], ...]
    norm: str = ""


@dataclass(frozen=True)
class Plan:
    """What `compress` decided.

    Attributes:
        kept: per changed parameter and axis the indices that stay, in order. Axis 1 of a grouped
            convolution's weight holds one list per convolution group.
        shapes: the original shape of every parameter in `kept` or `factorings`.
        widths: channels kept per block of each group, by group name.
        method: how it was made.
        factorings: layers replaced by two, by the name of their weight; `kept` and `shapes` speak
            of the one they were.
        rotations: channel groups that were rotated, by name.
        folded: parameters of norms that went into the layers around them, and what stands for them
            in the original's class.
        maps: layers that the original does not have, by name as modules: square ones, between a
            norm and what else could not take its weights.
    """

    kept: dict[str, dict[int, Indices]]
    shapes: dict[str, tuple[int, ...]]
    widths: dict[str, int]
    method: str = "auto"
    settings: dict[str, Any] = field(default_factory=dict)
    factorings: dict[str, Factoring] = field(default_factory=dict)
    rotations: dict[str, Rotation] = field(default_factory=dict)
    folded: dict[str, float] = field(default_factory=dict)
    maps: tuple[str, ...] = ()

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the rotated groups whose norms were folded."""
        return tuple(name for name, rotation in self.rotations.items() if rotation.norm)

    @property
    def rotated(self) -> frozenset[tuple[str, int]]:
        """The weight axes that hold rotated channels."""
        return frozenset(axis for rotation in self.rotations.values() for axis in rotation.axes)

    def to_json(self, **options: Any) -> str:
        """The plan as a JSON document."""
        version = UNFOLDED if self.rotations else UNROTATED
        version = UNMAPPED if self.streams else version
        version = VERSION if self.maps else version
        document = {"version": version, **asdict(self)}
        if not self.maps:
            del document["maps"]
        if not self.streams:
            del document["folded"]
            for rotation in document["rotations"].values():
                del rotation["norm"]
        if not self.rotations:
            del document["rotations"]
        return json.dumps(document, **options)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read a plan back.

        Raises:
            PlanError: not a plan, or written by a newer version.
        """
        try:
            data = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise PlanError(
                f"This is not a plan: {error}. Pass what Plan.to_json wrote."
            ) from error
        if not isinstance(data, dict) or not {"version", "kept", "shapes", "widths"} <= set(data):
            raise PlanError(
                "This is not a plan: `version`, `kept`, `shapes` or `widths` is missing."
            )
        if not isinstance(data["version"], int) or data["version"] > VERSION:
            raise PlanError(
                f"The plan has version {data['version']}; this fxprune reads up to {VERSION}. "
                "Update fxprune."
            )
        try:
            return cls(
                {
                    str(n): {int(a): list(i) for a, i in axes.items()}
                    for n, axes in data["kept"].items()
                },
                {str(n): tuple(int(s) for s in shape) for n, shape in data["shapes"].items()},
                {str(n): int(w) for n, w in data["widths"].items()},
                str(data.get("method", "auto")),
                dict(data.get("settings", {})),
                {str(n): Factoring(**how) for n, how in data.get("factorings", {}).items()},
                {str(n): _read_rotation(**r) for n, r in data.get("rotations", {}).items()},
                {str(n): float(value) for n, value in data.get("folded", {}).items()},
                tuple(str(name) for name in data.get("maps", ())),
            )
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise PlanError(f"The plan is malformed: {error}.") from error

    def __hash__(self) -> int:
        return hash(self.to_json(sort_keys=True))


def _read_rotation(digest: str, axes: list[tuple[str, int]], norm: str = "") -> Rotation:
    return Rotation(str(digest), tuple((str(name), int(axis)) for name, axis in axes), str(norm))


def make_plan(
    analysis: Analysis,
    keep_mask: np.ndarray,
    state: Mapping[str, Tensor],
    method: str,
    settings: dict[str, Any],
    factorings: Mapping[str, Factoring] = MappingProxyType({}),
    rotations: Mapping[str, Rotation] = MappingProxyType({}),
    folded: Mapping[str, float] = MappingProxyType({}),
    maps: tuple[str, ...] = (),
) -> Plan:
    """Write down a choice of channels.

    Args:
        analysis: of the captured graph.
        keep_mask: (channels + 1,) bool.
        state: the captured graph's parameters and buffers.
        method, settings, factorings, rotations, folded, maps: noted in the plan.
    """
    kept_axes(analysis, keep_mask)
    tied = [list(group.tied) for group in analysis.groups if group.tied]
    if tied:
        settings = {**settings, TIED: tied}
    kept: dict[str, dict[int, Indices]] = {}
    for (name, axis), ids in analysis.axes.items():
        mask = keep_mask[ids]
        if not mask.all():
            rows = _indices_per_row(mask)
            kept.setdefault(name, {})[axis] = rows[0] if mask.ndim == 1 else rows
    return Plan(
        kept,
        {name: tuple(state[name].shape) for name in dict.fromkeys((*kept, *factorings))},
        {g.name: int(keep_mask[g.blocks[0]].sum()) for g in analysis.groups},
        method,
        settings,
        dict(factorings),
        dict(rotations),
        dict(folded),
        maps,
    )


def _indices_per_row(mask: np.ndarray) -> list[list[int]]:
    """Indices that stay: a list per convolution group where the axis is grouped, else one list."""
    return [np.flatnonzero(row).tolist() for row in np.atleast_2d(mask)]


def keep_mask_of(analysis: Analysis, plan: Plan) -> np.ndarray:
    """The plan as (channels + 1,) bool over an analysis' channels.

    Raises:
        PlanError: it names parameters, axes or indices that the model does not have, or separates
            what belongs together.
    """
    largest = max((int(ids.max(initial=0)) for ids in analysis.axes.values()), default=0)
    keep_mask = np.ones(largest + 1, dtype=bool)
    for name, axes in plan.kept.items():
        for axis, indices in axes.items():
            ids = analysis.axes.get((name, axis))
            if ids is None:
                raise PlanError(
                    f"The plan shortens {name} along axis {axis}; this model has no such weight "
                    "axis."
                )
            removed = ids[~_positions(name, axis, indices, ids.shape)]
            if (removed == 0).any():
                raise PlanError(
                    f"The plan removes indices of {name}, axis {axis}, that must stay in this "
                    "model."
                )
            keep_mask[removed] = False
    for (name, axis), ids in analysis.axes.items():
        _check_coupled(name, axis, keep_mask[ids], plan.kept.get(name, {}).get(axis))
    return keep_mask


def _positions(name: str, axis: int, indices: Indices, shape: tuple[int, ...]) -> np.ndarray:
    """Indices of a weight axis as bool, of the shape of the axis' channel ids."""
    mask = np.zeros(shape, dtype=bool)
    rows = np.atleast_2d(mask)
    try:
        for row, kept in zip(rows, indices if mask.ndim == 2 else [indices], strict=True):
            if not isinstance(kept, list):
                raise TypeError(f"{kept!r} is no list")
            row[np.array(kept, dtype=np.int64)] = True
    except (IndexError, ValueError, TypeError) as error:
        raise PlanError(
            f"The plan keeps indices of {name}, axis {axis}, that are not in 0..{shape[-1] - 1}."
        ) from error
    return mask


def _check_coupled(name: str, axis: int, mask: np.ndarray, indices: Indices | None) -> None:
    """Check that the plan says of this axis what it says of the channels coupled to it."""
    rows = _indices_per_row(mask)
    if indices is None:
        planned: list[Any] = [list(range(mask.shape[-1]))] * len(rows)
    else:
        planned = indices if mask.ndim == 2 else [indices]
    if rows != [sorted(row) for row in planned]:
        raise PlanError(
            f"The plan and the model disagree about {name}, axis {axis}: its channels are coupled "
            "to others that the plan treats differently."
        )


def _per_group(indices: Indices) -> list[list[int]] | None:
    """Indices in one list per convolution group; None where they are one list for the axis."""
    return indices if indices and isinstance(indices[0], list) else None


def reduced_shape(name: str, shape: tuple[int, ...], plan: Plan) -> tuple[int, ...]:
    """A parameter's shape after the plan's channels are gone."""
    sizes = list(shape)
    for axis, indices in plan.kept.get(name, {}).items():
        if axis < len(sizes):
            groups = _per_group(indices)
            sizes[axis] = len(indices if groups is None else groups[0])
    return tuple(sizes)


def scatter(small: Tensor, shape: tuple[int, ...], kept: dict[int, Indices]) -> Tensor:
    """A reduced parameter put back into its original shape, zeros elsewhere.

    Args:
        small: of the shape that `reduced_shape` gives.
        shape: the original's.
        kept: the parameter's entry in `Plan.kept`.
    """
    full = small.new_zeros(shape)
    positions = [torch.arange(size) for size in shape]
    groups: list[list[int]] | None = None
    for axis, indices in kept.items():
        if _per_group(indices) is None:
            positions[axis] = torch.tensor(indices, dtype=torch.int64)
        else:
            groups = _per_group(indices)
    if groups is None:
        full[torch.meshgrid(*positions, indexing="ij")] = small
        return full
    parts = zip(
        positions[0].tensor_split(len(groups)), groups, small.tensor_split(len(groups)), strict=True
    )
    for rows, columns, values in parts:
        part = [rows, torch.tensor(columns, dtype=torch.int64), *positions[2:]]
        full[torch.meshgrid(*part, indexing="ij")] = values
    return full
