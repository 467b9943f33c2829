"""torch.nn.Transformer looks into its masks to choose a kernel, which no trace can follow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

DETECTS = "torch.nn.modules.transformer._detect_is_causal_mask"


@contextmanager
def plain_masks() -> Iterator[None]:
    """A mask counts as causal only where the caller says so; otherwise it is added as it is, which
    gives the same.
    """

    def stated(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
        return bool(is_causal)

    with mock.patch(DETECTS, stated):
        yield
