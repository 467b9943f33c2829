"""FLOPs, parameters and latency as functions of the groups' widths."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch.fx import GraphModule

from fxprune.label.groups import Analysis, Cost


class _Terms:
    """A sum of products: each term is proportional to the kept share of several axes.

    A share is affine in the groups' kept fractions, so that all terms are evaluated by one matrix
    product.

    Args:
        terms: (cost at full width, channel ids along every axis that it is proportional to).
        group_of: index of each channel id's group, -1 for channels that stay.
        groups: how many there are.
    """

    def __init__(
        self, terms: Sequence[tuple[float, Sequence[np.ndarray]]], group_of: np.ndarray, groups: int
    ):
        factors = max((len(axes) for _, axes in terms), default=0)
        self._base = np.array([base for base, _ in terms])
        self._fixed = np.ones((len(terms), factors))
        self._shares = np.zeros((len(terms), factors, groups))
        for t, (_, axes) in enumerate(terms):
            for f, ids in enumerate(axes):
                owner = group_of[ids.reshape(-1)]
                self._fixed[t, f] = (owner < 0).mean()
                self._shares[t, f] = np.bincount(owner[owner >= 0], minlength=groups) / owner.size

    def at(self, kept: np.ndarray) -> float:
        return float(self._base @ (self._fixed + self._shares @ kept).prod(1))


class CostModel:
    """Exact FLOPs and parameters of every choice of widths, and latency where measured.

    Args:
        module: the captured graph.
        analysis: of that graph.
        seconds: terms of the latency, as of FLOPs (see `fxprune.latency`).
    """

    def __init__(self, module: GraphModule, analysis: Analysis, seconds: Sequence[Cost] = ()):
        group_of = analysis.group_of()
        self.full = np.array([g.width for g in analysis.groups], dtype=float)
        axes: dict[str, list[np.ndarray]] = {}
        for (owner, _), ids in analysis.axes.items():
            axes.setdefault(owner, []).append(ids)
        params = [(float(p.numel()), axes.get(name, [])) for name, p in module.named_parameters()]
        self._terms = {
            "flops": _Terms(
                [(c.flops, c.factors) for c in analysis.costs], group_of, len(self.full)
            ),
            "params": _Terms(params, group_of, len(self.full)),
        }
        if seconds:
            self._terms["latency"] = _Terms(
                [(c.flops, c.factors) for c in seconds], group_of, len(self.full)
            )
        self._totals = {
            name: max(terms.at(np.ones(len(self.full))), 1e-12)
            for name, terms in self._terms.items()
        }

    def flops(self, widths: np.ndarray) -> float:
        """FLOPs per example of convolutions and matrix products (a multiply-add counts 2)."""
        return self._terms["flops"].at(np.asarray(widths) / self.full)

    def params(self, widths: np.ndarray) -> float:
        """Number of parameters."""
        return self._terms["params"].at(np.asarray(widths) / self.full)

    def fractions(self, widths: np.ndarray, names: Iterable[str] | None = None) -> dict[str, float]:
        """`flops`, `params` and, where measured, `latency` (or those named) as fractions of the
        original.
        """
        kept = np.asarray(widths) / self.full
        return {
            name: self._terms[name].at(kept) / self._totals[name]
            for name in (self._terms if names is None else names)
        }
