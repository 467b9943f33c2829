"""Hypothesis strategies: random networks from the blocks."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.attention_blocks import (
    Attention,
    ChannelsLast,
    CosineAttention,
    FusedCosineAttention,
    SplitAttention,
    SqueezeExcite,
    TalkingHeads,
)
from tests.blocks import (
    SIZE,
    Block,
    Concat,
    Depthwise,
    Gated,
    Grouped,
    GroupedTransposed,
    GroupNorm,
    Padded,
    PixelShuffle,
    Plain,
    Residual,
    Shuffled,
    Siamese,
    Split,
    Transposed,
    conv,
)

BLOCKS: list[Callable[[int, int], Block]] = [
    Plain,
    Residual,
    Concat,
    Depthwise,
    Grouped,
    Shuffled,
    SqueezeExcite,
    Gated,
    Split,
    Padded,
    PixelShuffle,
    Transposed,
    GroupedTransposed,
    Siamese,
    ChannelsLast,
    Attention,
    CosineAttention,
    FusedCosineAttention,
    TalkingHeads,
    GroupNorm,
    SplitAttention,
]


class Flat(nn.Module):
    """Every pixel of every channel feeds the head."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.first, self.second = nn.Linear(channels * SIZE * SIZE, inner), nn.Linear(inner, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(F.relu(self.first(x.flatten(1))))
        return result


class Pooled(nn.Module):
    """Global average pooling and a linear head."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return result


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode with norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "norm" in name and tensor.is_floating_point():
                tensor.copy_(1 + 0.3 * torch.rand(tensor.shape, generator=generator))
    return model.eval()


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """A stem, up to four random blocks and a head, on (batch, 3, 4, 4); float64, in eval mode."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    channels = draw(st.integers(3, 9))
    layers: list[nn.Module] = [conv(3, channels, 3), nn.ReLU()]
    for build in draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4)):
        block = build(channels, draw(st.integers(2, 6)))
        layers.append(block)
        channels = block.out
    layers.append(draw(st.sampled_from([Flat, Pooled]))(channels, draw(st.integers(2, 6))))
    return randomized(nn.Sequential(*layers)).double()
