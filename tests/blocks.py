"""Convolutional parts of random networks: every construct that the labels have a rule for."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 4
"""Height and width of what the blocks take."""


def conv(channels: int, out: int, kernel: int = 1, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the image size."""
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, **options)


class Block(nn.Module):
    """Takes and gives (batch, channels, SIZE, SIZE); `out` is how many channels it gives."""

    out: int


class Residual(Block):
    """x + bn(conv(relu(conv(x))))"""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.first, self.second, self.norm = (
            conv(channels, inner, 3),
            conv(inner, channels),
            nn.BatchNorm2d(channels),
        )
        self.out = channels

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.norm(self.second(F.relu(self.first(x))))
        return result


class Concat(Block):
    """The input beside a branch."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.branch, self.norm = conv(channels, inner, 3), nn.BatchNorm2d(channels + inner)
        self.out = channels + inner

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(torch.cat([x, self.branch(x)], 1)))


class Plain(Block):
    """conv, bn, relu"""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.conv, self.norm, self.out = (
            conv(channels, inner, 3, bias=False),
            nn.BatchNorm2d(inner),
            inner,
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Depthwise(Block):
    """Depthwise with a channel multiplier of two, then pointwise."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.depthwise = conv(channels, 2 * channels, 3, groups=channels)
        self.pointwise, self.out = conv(2 * channels, inner), inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.pointwise(F.silu(self.depthwise(x)))
        return result


class Grouped(Block):
    """A grouped convolution, optionally followed by a channel shuffle and another one."""

    def __init__(self, channels: int, inner: int, shuffle: bool = False):
        super().__init__()
        inner = (inner + 3) // 4 * 4
        self.enter, self.shuffle = conv(channels, inner), shuffle
        self.first, self.second, self.out = (
            conv(inner, inner, 3, groups=2),
            conv(inner, inner, groups=2),
            inner,
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(F.relu(self.enter(x))))
        if self.shuffle:
            x = x.view(x.shape[0], 2, -1, x.shape[2], x.shape[3]).transpose(1, 2).flatten(1, 2)
        result: Tensor = self.second(x)
        return result


class Shuffled(Grouped):
    """Grouped convolutions with a channel shuffle between them."""

    def __init__(self, channels: int, inner: int):
        super().__init__(channels, inner, shuffle=True)


class Gated(Block):
    """A gated linear unit over the two halves of a projection."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.enter, self.leave, self.out = (
            conv(channels, 2 * inner),
            conv(inner, channels),
            channels,
        )

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.enter(x).chunk(2, 1)
        result: Tensor = self.leave(value * F.gelu(gate))
        return result


class Split(Block):
    """Two unequal parts of the channels, one of them processed, side by side again."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.enter, self.part, self.out = conv(channels, inner + 2), conv(2, 3, 3), inner + 3

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = self.enter(x).split([self.enter.out_channels - 2, 2], 1)
        return torch.cat([kept, self.part(changed)], 1)


class Padded(Block):
    """Candidate-A shortcut: zeros stand in for the missing channels."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.extra = inner
        self.conv, self.out = conv(channels, channels + inner, 3), channels + inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x) + F.pad(
            x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2)
        )
        return result


class PixelShuffle(Block):
    """Channels become pixels, and pooling brings the size back."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.conv, self.after, self.out = conv(channels, 4 * inner), conv(inner, inner), inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.after(F.max_pool2d(F.pixel_shuffle(self.conv(x), 2), 2))
        return result


class Transposed(Block):
    """A transposed convolution and strided convolution."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.up, self.down, self.out = (
            nn.ConvTranspose2d(channels, inner, 2, 2),
            nn.Conv2d(inner, inner, 2, 2),
            inner,
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(F.leaky_relu(self.up(x)))
        return result


class GroupedTransposed(Block):
    """A grouped transposed convolution between pointwise ones, and a strided one that brings the
    size back.
    """

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.enter = conv(channels, 2 * inner)
        self.up = nn.ConvTranspose2d(2 * inner, 3 * 2 * inner, 2, 2, groups=2)
        self.down, self.out = nn.Conv2d(6 * inner, inner, 2, 2), inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(F.leaky_relu(self.up(F.relu(self.enter(x)))))
        return result


class Siamese(Block):
    """One convolution called on two tensors."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.shared, self.out = conv(channels, inner, 3), 2 * inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.shared(x), self.shared(x.flip(3))], 1)


class GroupNorm(Block):
    """One norm group per channel, or two for all."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.conv, self.norm, self.out = (
            conv(channels, 2 * inner),
            nn.GroupNorm(2 if inner % 2 else 2 * inner, 2 * inner),
            2 * inner,
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.hardswish(self.norm(self.conv(x)))
