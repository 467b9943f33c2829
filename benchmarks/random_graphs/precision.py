"""Networks in double precision, and what rounding does to them there."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from benchmarks.examination.outputs import distance, outputs
from fxprune.capture.batch import Batch

LOW = (torch.float32, torch.bfloat16)


def doubled(net: nn.Module) -> nn.Module:
    """In double precision, where a graph names another one too."""
    if isinstance(net, GraphModule):
        changed = False
        for node in net.graph.nodes:
            args = tuple(torch.float64 if a in LOW else a for a in node.args)
            kwargs = {k: torch.float64 if a in LOW else a for k, a in node.kwargs.items()}
            if args != node.args or kwargs != node.kwargs:
                node.args, node.kwargs, changed = args, kwargs, True
        if changed:
            net.recompile()
    return net.double()


def last_bit_effect(net: nn.Module, batch: Batch, expected: Sequence[Tensor]) -> float:
    """What a change of the inputs in their last bit does to the outputs."""
    near = batch.map(
        lambda t: t * (1 + 2e-16 * torch.randn_like(t)) if t.is_floating_point() else t
    )
    return distance(list(expected), outputs(net, near))
