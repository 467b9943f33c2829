"""A causal language model that returns its cache of keys and values, and batches of tokens."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY = 40


class Cache:
    """Keys and values of every layer, for the next call."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []


class Block(nn.Module):
    """Attention and an MLP, before each of which the stream is normalized."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, seen: Tensor, cache: Cache) -> Tensor:
        y = self.first(x)
        n, length, _ = x.shape
        q, k, v = (
            layer(y).view(n, length, self.heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        cache.keys.append(k)
        cache.values.append(v)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.o(read.transpose(1, 2).flatten(2))
        added: Tensor = self.down(F.gelu(self.up(self.second(x))))
        return x + added


class CausalLM(nn.Module):
    """Scores of the next token at every position of a padded text."""

    def __init__(self, width: int = 16, heads: int = 2, hidden: int = 32, layers: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)
        nn.init.normal_(self.head.weight, std=0.5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        at = torch.arange(input_ids.shape[1], device=input_ids.device)
        seen = (at[None, :] <= at[:, None]) & attention_mask[:, None, None, :].bool()
        x, cache = self.words(input_ids), Cache()
        for block in self.blocks:
            x = block(x, seen, cache)
        return {"logits": self.head(self.norm(x)), "cache": cache}


def texts(
    lengths: list[int], padded_to: int | None = None, fill: int = 0, seed: int = 0
) -> dict[str, Tensor]:
    """One batch of random tokens, padded on the right with one token."""
    generator = torch.Generator().manual_seed(seed)
    longest = padded_to or max(lengths)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, VOCABULARY, mask.shape, generator=generator)
    return {"input_ids": torch.where(mask > 0, ids, fill), "attention_mask": mask}
