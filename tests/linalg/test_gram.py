"""Sums of products against torch's own."""

import numpy as np
import pytest
import torch

import fxprune.linalg.gram as products
from fxprune.linalg.gram import PANEL, columns_of, gram, lower_panels, mirror, second_moment
from tests.tensors import normal

FEATURES = [1, PANEL, PANEL + 1, 2 * PANEL, 150]


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("batch", [(), (3,), (2, 1)])
def test_half_of_the_products_gives_all(batch: tuple[int, ...], features: int) -> None:
    rows = normal(*batch, 40, features)
    found = gram(rows)
    torch.testing.assert_close(found, rows.mT @ rows)
    # Near the diagonal both halves come from one product, elsewhere one from the other.
    torch.testing.assert_close(found, found.mT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("library", [True, False], ids=["oneDNN", "MKL"])
def test_either_library_gives_the_same(library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "ONEDNN", library and products.ONEDNN)
    rows = normal(300, 150)
    found = gram(rows.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), rows.T @ rows, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("features", FEATURES)
def test_panels_cover_the_lower_triangle_and_what_lies_below(features: int) -> None:
    columns = normal(features + 7, 30)
    result = torch.full((features + 7, features), torch.nan, dtype=torch.float64)
    for start, part in lower_panels(columns, features, features + 7):
        assert part.shape == (features + 7 - start, min(PANEL, features - start))
        result[start:, start : start + PANEL] = part
    lower = torch.ones_like(result, dtype=torch.bool).tril()
    torch.testing.assert_close(result[lower], (columns @ columns[:features].T)[lower])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("groups", [1, 2])
def test_columns_stand_side_by_side_and_add_nothing(groups: int, dtype: torch.dtype) -> None:
    parts = [(normal(groups, 70, n).to(dtype), normal(groups, 5, n).to(dtype)) for n in (3, 90)]
    columns = columns_of(parts, 93)
    wanted = torch.cat([torch.cat(pair, 1) for pair in parts], 2)
    assert torch.equal(columns[:, :75, :93], wanted)
    assert float(columns[:, 75:].abs().sum() + columns[..., 93:].abs().sum()) == 0
    for start, part in lower_panels(columns, 70, 75):
        own = wanted[:, start:] @ wanted[:, start : min(start + PANEL, 70)].mT
        torch.testing.assert_close(part, own, rtol=1e-4, atol=1e-4)


def test_products_have_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, product = set(), products._product

    def noted(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        shapes.add((*left.shape[-2:], *right.shape[-2:]))
        return product(left, right)

    monkeypatch.setattr(products, "_product", noted)
    monkeypatch.setattr(products, "ONEDNN", True)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda a, b, *_: a @ b.mT)
    for rows in range(200, 256, 5):
        for features in range(70, 128, 9):
            gram(normal(rows, features).float())
    assert len(shapes) == 2


def test_mirror_takes_the_lower_triangle() -> None:
    wanted = normal(2, 150, 5) @ normal(2, 150, 5).mT
    wanted = wanted + wanted.mT
    below = wanted.clone()
    for start in range(0, 150, PANEL):
        below[:, start : start + PANEL, start + PANEL :] = torch.nan
    assert torch.equal(mirror(below), wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_second_moments_of_blocks_are_summed_in_double_precision(dtype: torch.dtype) -> None:
    rows = normal(100, 9).to(dtype)
    found = second_moment(rows, block=30)
    assert found.dtype == np.float64
    exact = (rows.double().T @ rows.double()).numpy()
    np.testing.assert_allclose(
        found, exact, rtol=1e-12 if dtype == torch.float64 else 1e-4, atol=1e-3
    )
