"""A small vision transformer: pre-norm blocks on one residual stream."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.models.nets import ASSETS


class Block(nn.Module):
    """Attention and two linear layers, each behind a LayerNorm and added to the stream."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.proj(mixed)
        added: Tensor = self.down(F.gelu(self.up(self.norm2(x))))
        return x + added


class ViT(nn.Module):
    """28 x 28 gray images in patches of 7 x 7, and a class token."""

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4, classes: int = 10):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


def checkpoint() -> Path:
    """Where the trained weights are."""
    return ASSETS / "vit.safetensors"


def trained() -> ViT:
    """With its shipped weights, in eval mode."""
    net = ViT()
    net.load_state_dict({k: v.float() for k, v in load_file(checkpoint()).items()})
    return net.eval()
