"""Trained networks made smaller, as tests of saving take them."""

from functools import lru_cache

from torch.fx import GraphModule

import fxprune
from benchmarks.models import nets
from fxprune.demo import data


@lru_cache
def compressed(name: str) -> GraphModule:
    method = "uniform" if name == "vgg" else "paper-uniform"
    return fxprune.compress(
        nets.trained(name), data.load().calibration[:64], flops=0.5, method=method, progress=False
    )
