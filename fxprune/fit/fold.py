"""Station 5b: one-shot fit of the consumers of removed channels, from the original model's own
activations.
"""

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.moments import Moments, Site
from fxprune.calibrate.strata import Stratum, strata
from fxprune.graph.nodes import attribute
from fxprune.label.groups import Analysis
from fxprune.label.survivors import shrink_parameter
from fxprune.linalg.interpolation import interpolation
from fxprune.profile.removal import PRECISION, ridge_for


def fold_weight(
    weight: Tensor,
    site: Site,
    analysis: Analysis,
    keep_mask: np.ndarray,
    moments: Moments,
    ridged: bool,
) -> Tensor:
    """One-shot fit of a consumer: interpolate from the original model's own activations and fold.

    With `ridged` the interpolation is shrunk as the number of observations asks; the reference
    method does without.
    """
    name, axis = site
    partial = dict(analysis.axes)
    ids = partial.pop(site)
    other = type(analysis)(**{**analysis.__dict__, "axes": partial})
    sliced = shrink_parameter(weight.detach(), name, other, keep_mask)
    mask = keep_mask[ids]
    kept_ids = ids[mask].reshape(len(ids), -1) if ids.ndim == 2 else ids[mask]
    old, new = list(moments.strata), strata(kept_ids)
    pairs = match(old, new)
    matrices = []
    precision = PRECISION.get(weight.dtype, 1e-5)
    for a, b, gram, seen in zip(old, pairs, moments.grams, moments.rows, strict=True):
        place = {key: i for i, key in enumerate(a.keys.tolist())}
        kept = np.array([place[key] for key in b.keys.tolist()], dtype=np.int64)
        ridge = ridge_for(len(gram), seen, weight.dtype) if ridged else precision
        matrices.append(interpolation(gram, kept, ridge, precision, seen))
    return folded(sliced, axis, old, pairs, matrices)


def match(old: list[Stratum], new: list[Stratum]) -> list[Stratum]:
    """The surviving part of every stratum, empty where nothing survives."""
    result = []
    for stratum in old:
        found = next(
            (
                s
                for s in new
                if s.group == stratum.group and s.columns.shape[1] == stratum.columns.shape[1]
            ),
            Stratum(
                stratum.group,
                np.zeros(0, dtype=np.int64),
                np.zeros((0, stratum.columns.shape[1]), dtype=np.int64),
            ),
        )
        result.append(found)
    return result


def fold_all(
    dense: GraphModule,
    analysis: Analysis,
    keep_mask: np.ndarray,
    moments: dict[Site, Moments],
    ridged: bool = True,
) -> dict[str, Tensor]:
    """Every consumer of removed channels as its one-shot interpolated weight."""
    return {
        site[0]: fold_weight(attribute(dense, site[0]), site, analysis, keep_mask, held, ridged)
        for site, held in moments.items()
        if site in analysis.foldable and not keep_mask[analysis.axes[site]].all()
    }


def folded(
    weight: Tensor, axis: int, old: list[Stratum], new: list[Stratum], matrices: list[np.ndarray]
) -> Tensor:
    """Contract a weight's consumed axis with interpolation matrices.

    Args:
        weight: the full consumed axis; other axes already sliced.
        axis: the consumed axis.
        old, new: strata before and after, in the same order.
        matrices: per stratum T of shape (kept, n).

    Returns:
        the weight with the consumed axis reduced, float64 arithmetic, in the weight's dtype.
    """
    moved = weight.detach().double().movedim(axis, -1)
    groups = 1 + max(s.group for s in old)
    out_rows = moved.shape[0] // groups
    per_old = moved.shape[-1]
    per_new = sum(s.columns.size for s in new) // groups
    result = moved.new_zeros(*moved.shape[:-1], per_new)
    for a, b, matrix in zip(old, new, matrices, strict=True):
        if not b.columns.size:
            continue
        block = slice(a.group * out_rows, (a.group + 1) * out_rows) if groups > 1 else slice(None)
        source = moved[block][..., torch.from_numpy(a.columns.reshape(-1) - a.group * per_old)]
        source = source.view(*source.shape[:-1], *a.columns.shape)
        t = torch.from_numpy(matrix).to(moved.device)
        value = torch.einsum("...np,kn->...kp", source, t)
        columns = torch.from_numpy(b.columns.reshape(-1) - b.group * per_new)
        result[block] = result[block].index_copy(-1, columns, value.reshape(*value.shape[:-2], -1))
    return result.movedim(-1, axis).to(weight.dtype).contiguous()
