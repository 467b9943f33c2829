"""How many examples a trace holds for: a forward may branch on the size of the batch."""

import torch
from torch import Tensor
from torch.export import ExportedProgram

from fxprune.capture.batch import Batch

MANY = (1 << 16) - 1
"""Examples per call that nobody asks for: such bounds are of integers and of a GPU's grids, not of
the model.
"""


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


def imagine_examples(batch: Batch, times: int) -> Batch:
    """A call with so many times the examples, for a trace: tensors that take no memory, since a
    kernel for tens of thousands of images is told apart by their number.
    """
    # Half as long to import as torch.
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def imagine(t: Tensor) -> Tensor:
        if not t.dim() or t.shape[0] != batch.size:
            return mode.from_tensor(t)
        with mode:
            return torch.empty((times * len(t), *t.shape[1:]), dtype=t.dtype, device=t.device)

    return batch.map(imagine)
