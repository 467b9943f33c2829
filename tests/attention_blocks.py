"""Parts of random networks that gate, normalize or mix by what they see: attention and its kin."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.blocks import SIZE, Block, conv


class Attention(Block):
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
        result: Tensor = x + mixed.transpose(1, 2).reshape(batch, channels, height, width)
        return result


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
        result: Tensor = x + mixed.transpose(1, 2).reshape(batch, channels, height, width)
        return result


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
        result: Tensor = x + mixed.transpose(1, 2).reshape(batch, channels, height, width)
        return result


class SplitAttention(Block):
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
        result: Tensor = (parts * gate).sum(1)
        return result


class ChannelsLast(Block):
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
        result: Tensor = x + y.permute(0, 3, 1, 2)
        return result


class SqueezeExcite(Block):
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
        result: Tensor = x * gate[:, :, None, None]
        return result
