"""Hypothesis strategies: random networks from every construct that label propagation has a rule
for.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

SIZE = 4


def conv(channels: int, out: int, kernel: int = 1, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the image size."""
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, **options)


class Residual(nn.Module):
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
        return x + self.norm(self.second(F.relu(self.first(x))))


class Concat(nn.Module):
    """The input beside a branch."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.branch, self.norm = conv(channels, inner, 3), nn.BatchNorm2d(channels + inner)
        self.out = channels + inner

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(torch.cat([x, self.branch(x)], 1)))


class Plain(nn.Module):
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


class Depthwise(nn.Module):
    """Depthwise with a channel multiplier of two, then pointwise."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.depthwise = conv(channels, 2 * channels, 3, groups=channels)
        self.pointwise, self.out = conv(2 * channels, inner), inner

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(F.silu(self.depthwise(x)))


class Grouped(nn.Module):
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
        return self.second(x)


class Shuffled(Grouped):
    """Grouped convolutions with a channel shuffle between them."""

    def __init__(self, channels: int, inner: int):
        super().__init__(channels, inner, shuffle=True)


class SqueezeExcite(nn.Module):
    """Channels gated by their pooled selves."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.reduce, self.expand, self.out = (
            nn.Linear(channels, inner),
            nn.Linear(inner, channels),
            channels,
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3))))).sigmoid()
        return x * gate[:, :, None, None]


class Gated(nn.Module):
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
        return self.leave(value * F.gelu(gate))


class Split(nn.Module):
    """Two unequal parts of the channels, one of them processed, side by side again."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.enter, self.part, self.out = conv(channels, inner + 2), conv(2, 3, 3), inner + 3

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = self.enter(x).split([self.enter.out_channels - 2, 2], 1)
        return torch.cat([kept, self.part(changed)], 1)


class Padded(nn.Module):
    """Candidate-A shortcut: zeros stand in for the missing channels."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.extra = inner
        self.conv, self.out = conv(channels, channels + inner, 3), channels + inner

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + F.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class PixelShuffle(nn.Module):
    """Channels become pixels, and pooling brings the size back."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.conv, self.after, self.out = conv(channels, 4 * inner), conv(inner, inner), inner

    def forward(self, x: Tensor) -> Tensor:
        return self.after(F.max_pool2d(F.pixel_shuffle(self.conv(x), 2), 2))


class Transposed(nn.Module):
    """A transposed convolution and strided convolution."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.up, self.down, self.out = (
            nn.ConvTranspose2d(channels, inner, 2, 2),
            nn.Conv2d(inner, inner, 2, 2),
            inner,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.leaky_relu(self.up(x)))


class GroupedTransposed(nn.Module):
    """A grouped transposed convolution between pointwise ones, and a strided one that brings the
    size back.
    """

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.enter = conv(channels, 2 * inner)
        self.up = nn.ConvTranspose2d(2 * inner, 3 * 2 * inner, 2, 2, groups=2)
        self.down, self.out = nn.Conv2d(6 * inner, inner, 2, 2), inner

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.leaky_relu(self.up(F.relu(self.enter(x)))))


class Siamese(nn.Module):
    """One convolution called on two tensors."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.shared, self.out = conv(channels, inner, 3), 2 * inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.shared(x), self.shared(x.flip(3))], 1)


class ChannelsLast(nn.Module):
    """ConvNeXt's block: a per-pixel network on the last axis with a layer scale."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.first, self.second, self.out = (
            nn.Linear(channels, inner),
            nn.Linear(inner, channels),
            channels,
        )
        self.scale = nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.scale * self.second(F.gelu(self.first(x.permute(0, 2, 3, 1))))
        return x + y.permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Pixels attend to each other; queries, keys and values from one projection."""

    heads = 2

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.width = self.heads * inner
        self.norm = nn.LayerNorm(channels)
        self.qkv, self.proj, self.out = (
            nn.Linear(channels, 3 * self.width),
            nn.Linear(self.width, channels),
            channels,
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        parts = (
            self.qkv(tokens)
            .reshape(batch, height * width, 3, self.heads, -1)
            .permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        mixed = self.proj(mixed.transpose(1, 2).reshape(batch, height * width, self.width))
        return x + mixed.transpose(1, 2).reshape(batch, channels, height, width)


class CosineAttention(Attention):
    """Normalized queries and keys, a scale and a bias per head: heads stay or go as a whole."""

    heads, fused = 3, False

    def __init__(self, channels: int, inner: int):
        super().__init__(channels, inner)
        self.scale = nn.Parameter(torch.rand(self.heads, 1, 1) + 0.5)
        self.bias = nn.Parameter(torch.randn(self.heads, SIZE * SIZE, SIZE * SIZE))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        query, key, value = (
            self.qkv(tokens)
            .reshape(batch, height * width, 3, self.heads, -1)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        query, key = F.normalize(query, dim=-1) * self.scale, F.normalize(key, dim=-1)
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self.bias[None])
        else:
            mixed = (query @ key.transpose(-2, -1) + self.bias).softmax(-1) @ value
        mixed = self.proj(mixed.transpose(1, 2).reshape(batch, height * width, self.width))
        return x + mixed.transpose(1, 2).reshape(batch, channels, height, width)


class FusedCosineAttention(CosineAttention):
    """The same by one attention operator."""

    fused = True


class TalkingHeads(Attention):
    """A linear layer mixes the attention maps of the heads before they weigh the values."""

    def __init__(self, channels: int, inner: int):
        super().__init__(channels, inner)
        self.mix = nn.Linear(self.heads, self.heads)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        query, key, value = (
            self.qkv(tokens)
            .reshape(batch, height * width, 3, self.heads, -1)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        scores = self.mix((query @ key.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        mixed = self.proj(
            (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, height * width, self.width)
        )
        return x + mixed.transpose(1, 2).reshape(batch, channels, height, width)


class GroupNorm(nn.Module):
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


class SplitAttention(nn.Module):
    """ResNeSt: a softmax over two branches weighs their sum."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.enter, self.gate, self.out = (
            conv(channels, 2 * inner, 3, groups=1),
            conv(inner, 2 * inner),
            inner,
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        parts = self.enter(x).reshape(batch, 2, -1, height, width)
        gate = (
            self.gate(parts.sum(1).mean((2, 3), keepdim=True)).view(batch, 2, -1, 1, 1).softmax(1)
        )
        return (parts * gate).sum(1)


BLOCKS: list[Callable[[int, int], nn.Module]] = [
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
        return self.second(F.relu(self.first(x.flatten(1))))


class Pooled(nn.Module):
    """Global average pooling and a linear head."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


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
    """A stem, up to four random blocks and a head; float64, in eval mode. Takes (batch, 3, 4,
    4).
    """
    torch.manual_seed(draw(st.integers(0, 1000)))
    channels = draw(st.integers(3, 9))
    layers: list[nn.Module] = [conv(3, channels, 3), nn.ReLU()]
    for build in draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4)):
        layers.append(build(channels, draw(st.integers(2, 6))))
        channels = layers[-1].out  # type: ignore[assignment]
    layers.append(draw(st.sampled_from([Flat, Pooled]))(channels, draw(st.integers(2, 6))))
    return randomized(nn.Sequential(*layers)).double()
