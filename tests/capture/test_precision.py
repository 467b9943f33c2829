"""The caller's reduced precision of float32 stays outside, and comes back."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fxprune.capture.precision import callers_precision, full_precision
from fxprune.capture.undisturbed import undisturbed


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    products, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(products)
    torch._C._set_cudnn_allow_tf32(cudnn)


def test_inside_products_and_convolutions_are_whole() -> None:
    torch.set_float32_matmul_precision("medium")
    torch._C._set_cudnn_allow_tf32(True)
    with undisturbed(nn.Linear(2, 2), 0):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
        with callers_precision():
            assert torch.get_float32_matmul_precision() == "medium"
            assert torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "medium"
    assert torch.backends.cudnn.allow_tf32


def test_the_caller_computes_as_ever_outside() -> None:
    torch.set_float32_matmul_precision("high")
    with callers_precision():
        assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch has one switch only")
def test_switches_set_one_by_one_come_back() -> None:
    product, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = product.fp32_precision, conv.fp32_precision
    try:
        product.fp32_precision = "tf32"
        with full_precision():
            assert (product.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")
            with callers_precision():
                assert (product.fp32_precision, conv.fp32_precision) == ("tf32", before[1])
        assert (product.fp32_precision, conv.fp32_precision) == ("tf32", before[1])
    finally:
        product.fp32_precision, conv.fp32_precision = before
        if product.fp32_precision == "none":
            product.fp32_precision = "ieee"


def test_switches_that_somebody_froze_are_set_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "__allow_nonbracketed_mutation_flag", False)
    torch.set_float32_matmul_precision("high")
    with full_precision():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32
