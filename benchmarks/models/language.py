"""A small causal language model of bytes: pre-norm blocks on one residual stream."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.models.nets import ASSETS

BYTES, LONGEST = 256, 512


class Block(nn.Module):
    """Causal attention and two linear layers, each behind an RMSNorm and added to the stream."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.RMSNorm(width, 1e-6), nn.RMSNorm(width, 1e-6)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.o(seen.transpose(1, 2).flatten(2)))
        added: Tensor = self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))
        return x + added


class ByteLM(nn.Module):
    """Scores of the next byte at every position of at most 512; 6.5 million parameters."""

    def __init__(
        self,
        width: int = 256,
        depth: int = 8,
        heads: int = 8,
        hidden: int = 1024,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.bytes, self.positions = nn.Embedding(BYTES, width), nn.Embedding(LONGEST, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(depth))
        self.norm, self.head = nn.RMSNorm(width, 1e-6), nn.Linear(width, BYTES, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                small = depth if name.endswith(("o.weight", "down.weight")) else 0.5
                nn.init.normal_(parameter, std=0.02 / (2 * small) ** 0.5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.bytes(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def checkpoint() -> Path:
    """Where the trained weights are."""
    return ASSETS / "language.safetensors"


def trained() -> ByteLM:
    """With its trained weights, in eval mode.

    Raises:
        FileNotFoundError: train it: python -m benchmarks.train_lm
    """
    net = ByteLM()
    net.load_state_dict({k: v.float() for k, v in load_file(checkpoint()).items()})
    return net.eval()
