"""A small transformer encoder that reads an image row by row: pre-norm (Xiong et al. 2020), or
post-norm as BERT is.
"""

import math

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.models.nets import checkpoint

WIDTH, HEADS, DEPTH, HIDDEN = 64, 4, 3, 128
ROWS = 28
"""Rows of an image, and pixels of a row."""


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values from three layers, or from one.

    Args:
        fused: one layer gives all three.
    """

    def __init__(self, fused: bool):
        super().__init__()
        if fused:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        else:
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out, self.fused = nn.Linear(WIDTH, WIDTH), fused

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        parts = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q, k, v = (p.view(batch, tokens, HEADS, -1).transpose(1, 2) for p in parts)
        mixed = F.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


class Layer(nn.Module):
    """Attention and two linear layers, each beside an identity.

    Args:
        fused: as for `Attention`.
        post: norms stand behind the sums, not before what is added.
    """

    def __init__(self, fused: bool, post: bool):
        super().__init__()
        self.post = post
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention(fused)
        self.first, self.second = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = self.norm1(x + self.attention(x))
            after: Tensor = self.norm2(x + self.second(F.gelu(self.first(x))))
            return after
        x = x + self.attention(self.norm1(x))
        result: Tensor = x + self.second(F.gelu(self.first(self.norm2(x))))
        return result


class Encoder(nn.Module):
    """Logits of images (N, 1, 28, 28), whose rows are the tokens.

    Args:
        fused: queries, keys and values come from one layer.
        post: norms stand behind sums, the first behind the embedding.
    """

    def __init__(self, fused: bool = False, classes: int = 10, post: bool = False):
        super().__init__()
        self.post = post
        self.embed = nn.Linear(ROWS, WIDTH)
        self.place = nn.Parameter(torch.randn(ROWS, WIDTH) / math.sqrt(WIDTH))
        self.layers = nn.ModuleList(Layer(fused, post) for _ in range(DEPTH))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images[:, 0]) + self.place
        x = self.norm(x) if self.post else x
        for layer in self.layers:
            x = layer(x)
        x = x.mean(1)
        logits: Tensor = self.head(x if self.post else self.norm(x))
        return logits


def stored(post: bool) -> str:
    """The checkpoint's name."""
    return "encoder-post" if post else "encoder"


def trained_encoder(fused: bool = False, post: bool = False) -> Encoder:
    """The encoder with its trained weights, float32, in eval mode; the same function in both
    forms.
    """
    state = {k: v.to(torch.float32) for k, v in load_file(checkpoint(stored(post))).items()}
    if fused:
        for name in [n for n in state if ".attention.q." in n]:
            parts = [state.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
            state[name.replace(".q.", ".qkv.")] = torch.cat(parts)
    net = Encoder(fused, post=post)
    net.load_state_dict(state)
    return net.eval()
