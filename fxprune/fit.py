"""Fit the consumers of removed channels: both models in lockstep over the calibration set."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from fxprune.analysis import Analysis, attribute
from fxprune.calibrate import Moments, Site, arguments
from fxprune.inputs import Batch
from fxprune.layout import Stratum, folded, strata
from fxprune.linalg.interpolation import interpolation, solve_ridge
from fxprune.relabel import kept_axes, shrink_parameter
from fxprune.rules.registry import operator_name


def fold_weight(
    weight: Tensor, site: Site, analysis: Analysis, alive: np.ndarray, moments: Moments, ridge: float
) -> Tensor:
    """One-shot fit of a consumer: interpolate from the original model's own activations and fold."""
    name, axis = site
    partial = dict(analysis.axes)
    ids = partial.pop(site)
    other = type(analysis)(**{**analysis.__dict__, "axes": partial})
    sliced = shrink_parameter(weight.detach(), name, other, alive)
    mask = alive[ids]
    kept_ids = ids[mask].reshape(len(ids), -1) if ids.ndim == 2 else ids[mask]
    old, new = list(moments.strata), strata(kept_ids)
    pairs = match(old, new)
    matrices = []
    for a, b, gram in zip(old, pairs, moments.grams, strict=True):
        place = {key: i for i, key in enumerate(a.keys.tolist())}
        kept = np.array([place[key] for key in b.keys.tolist()], dtype=np.int64)
        matrices.append(interpolation(gram, kept, ridge))
    return folded(sliced, axis, old, pairs, matrices)


def match(old: list[Stratum], new: list[Stratum]) -> list[Stratum]:
    """The surviving part of every stratum, empty where nothing survives."""
    result = []
    for stratum in old:
        found = next(
            (s for s in new if s.group == stratum.group and s.columns.shape[1] == stratum.columns.shape[1]),
            Stratum(stratum.group, np.zeros(0, dtype=np.int64), np.zeros((0, stratum.columns.shape[1]), dtype=np.int64)),
        )
        result.append(found)
    return result


def fold_all(
    dense: GraphModule, small: GraphModule, analysis: Analysis, alive: np.ndarray, moments: dict[Site, Moments], ridge: float
) -> None:
    """Set every consumer of removed channels in `small` to its one-shot interpolated weight."""
    for site, held in moments.items():
        if site in analysis.foldable and not alive[analysis.axes[site]].all():
            weight = fold_weight(attribute(dense, site[0]), site, analysis, alive, held, ridge)
            attribute(small, site[0]).data.copy_(weight)


