"""Widths that the kernels of a device use well: what `round_to="auto"` means."""

import torch
from torch import nn

from fxprune.label.groups import Analysis
from fxprune.timing.workload import Workload


def choose_multiples(analysis: Analysis, model: nn.Module, workload: Workload) -> list[int]:
    """Widths that the device's kernels use well, per group.

    On a CPU one vector register of float32, which oneDNN pads channels to (nChw16c, nChw8c): 20 or
    28 channels take the time of 32. On a GPU 32 bytes or 16 half-precision values, which tensor
    cores read at a time. Narrow groups take the largest power of two that halves them.
    """
    first = next(model.parameters())
    device, dtype = torch.device(workload.device or first.device), workload.dtype or first.dtype
    if device.type == "cpu":
        step = {"AVX512": 16}.get(torch.backends.cpu.get_cpu_capability(), 8)
    else:
        step = 8 if dtype.itemsize >= 4 else 16
    return [
        max(1, min(step, 1 << max(g.channels // 2, 1).bit_length() - 1)) for g in analysis.groups
    ]
