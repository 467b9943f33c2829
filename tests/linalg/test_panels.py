"""Refits of layers with many outputs, which pass by in panels."""

from collections.abc import Callable, Iterator
from typing import Any
from weakref import finalize

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune.linalg.refit import Fit, refit, solution
from fxprune.linalg.wide_refit import WideRows, refit_wide
from tests.linalg.matrices import sums

OUTPUTS, FEATURES = 2000, 32


class Held(TorchDispatchMode):
    """Counts bytes that are made inside and held.

    Attributes:
        most: at one time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known, self._now, self.most = set[int](), 0, 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {
            t.untyped_storage()._cdata
            for t in pytree.tree_leaves((args, kwargs))
            if isinstance(t, Tensor)
        }
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._known | given:
                    self._count(storage)
        self.most = max(self.most, self._now)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self._now += size

        def release() -> None:
            self._known.discard(key)
            self._now -= size

        finalize(storage, release)


def problem(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features (1, rows, f), targets (1, rows, o), and a prior (1, o, f), float32."""
    generator = torch.Generator().manual_seed(0)
    p, w, noise, other = (
        torch.randn(*shape, generator=generator)
        for shape in (
            (1, rows, FEATURES),
            (1, OUTPUTS, FEATURES),
            (1, rows, OUTPUTS),
            (1, OUTPUTS, FEATURES),
        )
    )
    return p + 1, (p + 1) @ w.mT + noise, w + 0.3 * other


def from_sums() -> Callable[[], Fit]:
    p, y, prior = problem(200)
    train, held_out = sums(p[:, :160], y[:, :160]), sums(p[:, 160:], y[:, 160:])
    return lambda: refit(train, held_out, prior, intercept=True)


def at_a_ridge() -> Callable[[], Fit]:
    p, y, prior = problem(200)
    every = sums(p, y)
    return lambda: solution(every, prior, True, 0.1, torch.float32)


def from_rows() -> Callable[[], Fit]:
    p, y, prior = problem(10)

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.arange(FEATURES), p

    rows = WideRows(FEATURES, blocks, y, torch.arange(10) % 5 == 0)
    return lambda: refit_wide(rows, prior, intercept=True)


@pytest.mark.parametrize("make", [from_sums, at_a_ridge, from_rows])
def test_a_fit_of_many_outputs_holds_few_copies_of_its_weight(
    make: Callable[[], Callable[[], Fit]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = make()
    whole = fit()
    monkeypatch.setattr("fxprune.linalg.refit.PANEL_ENTRIES", 100 * FEATURES)
    with Held() as held:
        parts = fit()
    assert held.most < 3 * 8 * OUTPUTS * FEATURES
    assert parts.ridge == whole.ridge
    torch.testing.assert_close(parts.weight, whole.weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.bias, whole.bias, atol=1e-5, rtol=1e-5)
