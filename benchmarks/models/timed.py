"""Networks whose time is measured: the trained ones, and torchvision's with random weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.models import nets, torchvision_ops
from fxprune.demo import data

TORCHVISION = ("resnet50", "vgg16_bn", "mobilenet_v2", "convnext_tiny", "vit_b_16")


def networks() -> dict[str, Callable[[], tuple[nn.Module, Tensor, str]]]:
    """Model, calibration examples and method by name."""

    def own(name: str) -> Callable[[], tuple[nn.Module, Tensor, str]]:
        return lambda: (nets.trained(name), data.load().calibration, "channels")

    def torchvision(name: str) -> Callable[[], tuple[nn.Module, Tensor, str]]:
        torch.manual_seed(0)
        return lambda: (
            getattr(torchvision_ops.torchvision.models, name)().eval(),
            torch.randn(4, 3, 224, 224),
            "magnitude",
        )

    return {name: own(name) for name in nets.NETS} | {
        name: torchvision(name) for name in TORCHVISION
    }
