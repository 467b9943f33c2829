"""Networks with channels that meet no nonlinearity, and random bases for them."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.label.groups import Analysis
from fxprune.label.turning import Basis
from tests.nets import Net

WIDTH, HEADS, TOKENS = 16, 2, 6


def _heads(x: Tensor) -> Tensor:
    return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)


def _separate(net: Any, x: Tensor) -> Tensor:
    q, k, v = _heads(net.q(x)), _heads(net.k(x)), _heads(net.v(x))
    weights = (q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5).softmax(-1)
    x = x + net.out((weights @ v).transpose(1, 2).flatten(2))
    logits: Tensor = net.head(x.mean(1))
    return logits


def separate() -> nn.Module:
    """Attention written out, from three layers."""
    q, k, v, out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
    return Net(_separate, q=q, k=k, v=v, out=out, head=nn.Linear(WIDTH, 5))


def _fused(net: Any, x: Tensor) -> Tensor:
    q, k, v = (_heads(part) for part in net.qkv(x).chunk(3, -1))
    mixed = F.scaled_dot_product_attention(q, k, v)
    logits: Tensor = net.head((x + net.out(mixed.transpose(1, 2).flatten(2))).mean(1))
    return logits


def fused() -> nn.Module:
    """Attention from one layer, by one operator."""
    qkv, out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
    return Net(_fused, qkv=qkv, out=out, head=nn.Linear(WIDTH, 5))


def _grouped(net: Any, x: Tensor) -> Tensor:
    q, k, v = (p(x).view(*x.shape[:2], -1, 4).transpose(1, 2) for p in (net.q, net.k, net.v))
    mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    logits: Tensor = net.head((x + net.out(mixed.transpose(1, 2).flatten(2))).mean(1))
    return logits


def grouped() -> nn.Module:
    """Four heads of queries, two of keys and values."""
    k, v = (nn.Linear(WIDTH, 8) for _ in range(2))
    q, out = nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)
    return Net(_grouped, q=q, k=k, v=v, out=out, head=nn.Linear(WIDTH, 5))


def encoder() -> nn.Module:
    """torch's own layer."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, dropout=0.0, batch_first=True)
    return Net(lambda net, x: net.head(net.layer(x).mean(1)), layer=layer, head=nn.Linear(WIDTH, 5))


def chain() -> nn.Module:
    """Linear layers without anything but a mean between them."""
    first, second, head = nn.Linear(WIDTH, 12), nn.Linear(12, 10), nn.Linear(10, 5)
    return Net(
        lambda net, x: net.head(torch.relu(net.second(net.first(x).mean(1)))),
        first=first,
        second=second,
        head=head,
    )


def convolutions() -> nn.Module:
    """A convolution, a grouped one and a pointwise one, without anything but pooling between."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 12, 3, padding=1, groups=2),
        nn.AvgPool2d(2),
        nn.Conv2d(12, 6, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 16, 4),
    )


SEQUENCES = (separate, fused, grouped, encoder, chain)
NETS = (*SEQUENCES, convolutions)


def examples(net: object, count: int, seed: int = 0) -> Tensor:
    """Inputs of one of these, float64."""
    shape = (3, 8, 8) if net is convolutions else (TOKENS, WIDTH)
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=draw, dtype=torch.float64)


def random_bases(analysis: Analysis, seed: int = 0) -> dict[str, Basis]:
    """Of every group that may be rotated: orthonormal where weights read a block, any invertible
    pair where only products do.
    """
    draw, bases = np.random.default_rng(seed), {}
    for group in analysis.groups:
        if group.name not in analysis.rotatable:
            continue
        matrices = []
        for block in group.blocks:
            matrix = draw.standard_normal((group.width, group.width))
            read = any(
                np.isin(analysis.axes[c.parameter, c.axis], block).any() for c in group.consumers
            )
            matrices.append(np.linalg.qr(matrix)[0] if read else matrix + 3 * np.eye(group.width))
        left = np.stack(matrices)
        right = np.ascontiguousarray(np.linalg.inv(left).transpose(0, 2, 1))
        bases[group.name] = Basis(left, right)
    return bases
