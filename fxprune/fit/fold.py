"""Station 5b: one-shot fit of the consumers of removed channels, from the original model's own
activations.
"""

import numpy as np
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.moments import Moments, Site
from fxprune.calibrate.strata import Stratum, folded, strata
from fxprune.label.analysis import Analysis, attribute
from fxprune.label.relabel import shrink_parameter
from fxprune.linalg.interpolation import interpolation
from fxprune.profile.removal import PRECISION, ridge_for


def fold_weight(
    weight: Tensor,
    site: Site,
    analysis: Analysis,
    alive: np.ndarray,
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
    sliced = shrink_parameter(weight.detach(), name, other, alive)
    mask = alive[ids]
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
    alive: np.ndarray,
    moments: dict[Site, Moments],
    ridged: bool = True,
) -> dict[str, Tensor]:
    """Every consumer of removed channels as its one-shot interpolated weight."""
    return {
        site[0]: fold_weight(attribute(dense, site[0]), site, analysis, alive, held, ridged)
        for site, held in moments.items()
        if site in analysis.foldable and not alive[analysis.axes[site]].all()
    }
