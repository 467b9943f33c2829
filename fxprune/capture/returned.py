"""Types of what a model returns, made known to torch.export."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree


def register_dataclasses(output: Any) -> None:
    """Make the dataclasses of a model's output known to torch's pytrees, which torch.export asks
    for; others and known ones are left alone.

    Args:
        output: what the model returned.
    """
    if is_dataclass(output) and not isinstance(output, type):
        for field in fields(output):
            register_dataclasses(getattr(output, field.name))
        if pytree.tree_structure(output).is_leaf():
            kind = type(output)
            name = f"{kind.__module__}.{kind.__qualname__}"
            torch.export.register_dataclass(kind, serialized_type_name=name)
    elif isinstance(output, Mapping):
        for value in output.values():
            register_dataclasses(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            register_dataclasses(value)
