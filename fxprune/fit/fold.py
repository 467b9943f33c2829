"""One-shot fit of the consumers of removed channels, from the original model's own activations.

Removed channels are rebuilt from the kept ones by an interpolation matrix, and that matrix is
folded into the weight that reads them (Chee et al., NeurIPS 2022). A consumer's columns are fitted
stratum by stratum: channels of one convolution group that occupy equally many columns.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.moments import InputMoments, Site
from fxprune.calibrate.strata import contract, pair_strata, strata
from fxprune.distributed.group import Group
from fxprune.graph.nodes import attribute
from fxprune.label.groups import Analysis
from fxprune.label.survivors import shrink_parameter
from fxprune.linalg.interpolation import interpolation, precision_of, ridge_for

LAYER = 3e7
"""What a layer takes besides what goes by the cube of its channels, on that scale: 2 ms (2-core AMD
EPYC, 2026-11-26).
"""


@dataclass(frozen=True, eq=False)
class Folds(Mapping[str, Tensor]):
    """Every consumer of removed channels, by the name of its weight, as its one-shot interpolated
    weight; computed when it is asked for.

    Attributes:
        dense: the captured graph.
        analysis: of that graph.
        keep_mask: (channels + 1,) bool.
        moments: of what the consumers read.
        ridged: as `fold_weight` takes it.
    """

    dense: GraphModule
    analysis: Analysis
    keep_mask: np.ndarray
    moments: Mapping[Site, InputMoments]
    ridged: bool = True

    @cached_property
    def sites(self) -> dict[str, Site]:
        """The axis by which each weight reads."""
        return {
            site[0]: site
            for site in self.moments
            if site in self.analysis.foldable and not self.keep_mask[self.analysis.axes[site]].all()
        }

    def __getitem__(self, name: str) -> Tensor:
        site = self.sites[name]
        weight, moments = attribute(self.dense, name), self.moments[site]
        return fold_weight(weight, site, self.analysis, self.keep_mask, moments, self.ridged)

    def __contains__(self, name: object) -> bool:
        return name in self.sites

    def __iter__(self) -> Iterator[str]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def among(self, group: Group) -> Mapping[str, Tensor]:
        """The same; of several ranks each computes its share, by what they cost, and all of them
        are held.

        Args:
            group: of the ranks.
        """
        if group.size == 1 or not self.sites:
            return self
        axes = self.analysis.axes
        costs = [
            LAYER + sum(float(len(s.keys)) ** 3 for s in strata(axes[site]))
            for site in self.sites.values()
        ]
        weights = group.share([partial(self.__getitem__, name) for name in self], costs, "folds")
        return {
            name: weight.to(attribute(self.dense, name).device)
            for name, weight in zip(self, weights, strict=True)
        }


def fold_weight(
    weight: Tensor,
    site: Site,
    analysis: Analysis,
    keep_mask: np.ndarray,
    moments: InputMoments,
    ridged: bool,
) -> Tensor:
    """A consumer's weight at its reduced shape, with the interpolation of removed channels folded
    in.

    Args:
        weight: at full size.
        site: the parameter and the axis that reads the channels.
        analysis: of the captured graph.
        keep_mask: (channels + 1,) bool.
        moments: of what the consumer reads in the original model.
        ridged: whether the interpolation is shrunk as the number of observations asks; the
            reference method does without.
    """
    name, axis = site
    others = {other: ids for other, ids in analysis.axes.items() if other != site}
    sliced = shrink_parameter(weight.detach(), name, replace(analysis, axes=others), keep_mask)
    ids = analysis.axes[site]
    survives = keep_mask[ids]
    kept_ids = ids[survives].reshape(len(ids), -1) if ids.ndim == 2 else ids[survives]
    pairs = pair_strata(moments.strata, strata(kept_ids))
    precision = precision_of(weight.dtype)
    matrices = []
    for pair, gram, seen in zip(pairs, moments.grams, moments.rows, strict=True):
        ridge = ridge_for(len(gram), seen, weight.dtype) if ridged else precision
        matrices.append(interpolation(gram, pair.kept, ridge, precision, seen))
    return contract(sliced, axis, pairs, matrices)
