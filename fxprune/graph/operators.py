"""Names of operators."""

from __future__ import annotations

from typing import Any

import torch


def operator_name(target: Any) -> str:
    """`aten.conv2d` for every overload of `torch.ops.aten.conv2d`; a function's qualified name
    otherwise.
    """
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._opname}"
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"
