"""How many examples a trace holds for: a forward may branch on the size of the batch."""

import torch
from torch import Tensor
from torch.export import ExportedProgram

MANY = 1 << 16
"""Examples per call that nobody asks for: bounds above are of integers, not of the model."""


def most_examples(program: ExportedProgram) -> int | None:
    """The most examples per call that a trace's guards allow; None where they allow any number."""
    bounds: list[int] = []
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or not isinstance(value, Tensor) or not value.dim():
            continue
        size = value.shape[0]
        if isinstance(size, torch.SymInt):
            held = program.range_constraints.get(size.node.expr)
            if held is not None and held.upper < MANY:
                bounds.append(int(held.upper))
    return min(bounds, default=None)
