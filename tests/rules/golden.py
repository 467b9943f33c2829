"""Channel groups and pinned axes as text, which golden tests compare."""

import torch
from torch import nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis


def analyzed(net: nn.Module, *shape: int) -> Analysis:
    captured = capture(net, make_batch((torch.zeros(2, *(shape or (3, 4, 4))),), {}))
    return analyze_graph(captured.graph, 2)


def reasons(analysis: Analysis) -> str:
    return "\n".join(dict.fromkeys(f"{p.parameter}[{p.axis}]: {p.reason}" for p in analysis.pinned))
