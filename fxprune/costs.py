"""FLOPs and parameters as functions of the groups' widths."""

from dataclasses import dataclass

import numpy as np
from torch.fx import GraphModule

from fxprune.analysis import Analysis


@dataclass(frozen=True)
class _Share:
    """Share of an axis that is kept: (fixed + sum of counts x width / full width) / total."""

    fixed: float
    groups: np.ndarray
    counts: np.ndarray

    def at(self, kept: np.ndarray) -> float:
        return float(self.fixed + self.counts @ kept[self.groups])


def _share(ids: np.ndarray, group_of: np.ndarray) -> _Share:
    owner = group_of[ids.reshape(-1)]
    groups, counts = np.unique(owner[owner >= 0], return_counts=True)
    return _Share(float((owner < 0).mean()), groups, counts / owner.size)


class CostModel:
    """Exact FLOPs and parameters of every choice of widths.

    Args:
        module: the captured graph.
        analysis: of that graph.
    """

    def __init__(self, module: GraphModule, analysis: Analysis):
        group_of = analysis.group_of()
        self.full = np.array([g.width for g in analysis.groups], dtype=float)
        self._flops = [(c.flops, [_share(f, group_of) for f in c.factors]) for c in analysis.costs]
        self._params = []
        for name, parameter in module.named_parameters():
            shares = [_share(ids, group_of) for (owner, _), ids in analysis.axes.items() if owner == name]
            self._params.append((float(parameter.numel()), shares))

    def _total(self, terms: list[tuple[float, list[_Share]]], widths: np.ndarray) -> float:
        kept = np.asarray(widths) / self.full
        return sum(base * float(np.prod([s.at(kept) for s in shares])) for base, shares in terms)

    def flops(self, widths: np.ndarray) -> float:
        """FLOPs per example of convolutions and matrix products (a multiply-add counts 2)."""
        return self._total(self._flops, widths)

    def params(self, widths: np.ndarray) -> float:
        """Number of parameters."""
        return self._total(self._params, widths)

    def fractions(self, widths: np.ndarray) -> dict[str, float]:
        """`flops` and `params` as fractions of the original."""
        return {
            "flops": self.flops(widths) / max(self.flops(self.full), 1.0),
            "params": self.params(widths) / max(self.params(self.full), 1.0),
        }
