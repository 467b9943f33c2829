"""FLOPs, parameters and latency as functions of the groups' widths."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch.fx import GraphModule

from fxprune.label.groups import Analysis, CostTerm


class _TermSum:
    """The sum of cost terms as a function of the kept fraction of every group.

    The kept share of an axis is affine in the groups' kept fractions, so that all terms are
    evaluated by one matrix product.

    Args:
        terms: what is summed.
        group_of: index of each channel id's group, -1 for channels that stay.
        groups: how many there are.
    """

    def __init__(self, terms: Sequence[CostTerm], group_of: np.ndarray, groups: int):
        terms = [term for term in terms if term.amount]
        axes = max((len(term.axes) for term in terms), default=0)
        self._amounts = np.array([term.amount for term in terms])
        # Of every axis of every term: the share that stays whatever is removed, and each group's.
        self._fixed = np.ones((len(terms), axes))
        self._shares = np.zeros((len(terms), axes, groups))
        for t, term in enumerate(terms):
            for a, ids in enumerate(term.axes):
                owner = group_of[ids.reshape(-1)]
                self._fixed[t, a] = (owner < 0).mean()
                self._shares[t, a] = np.bincount(owner[owner >= 0], minlength=groups) / owner.size

    def at(self, kept: np.ndarray) -> float:
        """The sum at kept fractions, (groups,)."""
        return float(self._amounts @ (self._fixed + self._shares @ kept).prod(1))


class CostModel:
    """Exact FLOPs and parameters of every choice of widths, and latency where measured.

    Args:
        module: the captured graph.
        analysis: of that graph.
        seconds: terms of the latency, from `fit_call_seconds`; no latency without.
        parameters, flops: of the original, of which shares are taken; by default the graph's.

    Attributes:
        full: (groups,) width of every group.
    """

    def __init__(
        self,
        module: GraphModule,
        analysis: Analysis,
        seconds: Sequence[CostTerm] = (),
        parameters: int | None = None,
        flops: float | None = None,
    ):
        group_of = analysis.group_of()
        self.full = np.array([g.width for g in analysis.groups], dtype=float)
        axes: dict[str, list[np.ndarray]] = {}
        for (owner, _), ids in analysis.axes.items():
            axes.setdefault(owner, []).append(ids)
        terms: dict[str, Sequence[CostTerm]] = {
            "flops": analysis.costs,
            "params": [
                CostTerm(name, float(parameter.numel()), tuple(axes.get(name, ())))
                for name, parameter in module.named_parameters()
            ],
        }
        if seconds:
            terms["latency"] = seconds
        groups = len(self.full)
        self._sums = {name: _TermSum(held, group_of, groups) for name, held in terms.items()}
        self._totals = {
            name: max(total.at(np.ones(groups)), 1e-12) for name, total in self._sums.items()
        }
        if parameters is not None:
            self._totals["params"] = float(parameters)
        if flops is not None:
            self._totals["flops"] = flops

    def flops(self, widths: np.ndarray) -> float:
        """FLOPs per example of convolutions and matrix products (a multiply-add counts 2)."""
        return self._sums["flops"].at(np.asarray(widths) / self.full)

    def params(self, widths: np.ndarray) -> float:
        """Number of parameters."""
        return self._sums["params"].at(np.asarray(widths) / self.full)

    def total(self, name: str) -> float:
        """What the original costs, of which shares are taken."""
        return self._totals[name]

    def fractions(self, widths: np.ndarray, names: Iterable[str] | None = None) -> dict[str, float]:
        """`flops`, `params` and, where measured, `latency` (or those named) as fractions of the
        original.
        """
        kept = np.asarray(widths) / self.full
        return {
            name: self._sums[name].at(kept) / self._totals[name]
            for name in (self._sums if names is None else names)
        }
