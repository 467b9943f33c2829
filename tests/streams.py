"""Pre-norm networks whose residual streams lie in few directions."""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, TOKENS, RANK = 12, 5, 5


class Block(nn.Module):
    """Two linear layers behind a norm, added to the stream."""

    def __init__(self, norm: Any, bias: bool):
        super().__init__()
        self.norm, self.up, self.down = (
            norm(WIDTH),
            nn.Linear(WIDTH, 20, bias),
            nn.Linear(20, WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.down(F.gelu(self.up(self.norm(x))))
        return x + added


class Stream(nn.Module):
    """Pre-norm blocks on a stream that lies in few directions of its channels, none of which is a
    channel of its own.
    """

    def __init__(self, norm: Any = nn.LayerNorm, bias: bool = True):
        super().__init__()
        self.embed, self.place = nn.Linear(7, WIDTH), nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.blocks = nn.Sequential(*(Block(norm, bias) for _ in range(2)))
        self.norm, self.head = norm(WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.blocks(self.embed(x) + self.place)).mean(1))
        return logits


class Rms(nn.Module):
    """As language models write it."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
        return normed


KINDS: dict[str, Any] = {
    "layer": (nn.LayerNorm, True),
    "layer, readers without biases": (nn.LayerNorm, False),
    "rms": (nn.RMSNorm, True),
    "rms without weights": (lambda width: nn.RMSNorm(width, 1e-5, elementwise_affine=False), True),
    "rms written out": (Rms, True),
}


def net(kind: str = "layer", seed: int = 0) -> nn.Module:
    """With every number of every tensor drawn, and a stream of low rank."""
    torch.manual_seed(seed)
    made = Stream(*KINDS[kind]).eval()
    with torch.no_grad():
        for name, tensor in made.named_parameters():
            if "norm" in name:
                tensor.add_(0.5 * torch.randn_like(tensor))
        basis = torch.linalg.qr(torch.randn(WIDTH, RANK))[0]
        for name, tensor in made.named_parameters():
            if name.startswith(("embed", "place")) or "down" in name:
                axis = -1 if name == "place" else 0
                turned = tensor.movedim(axis, -1) @ basis @ basis.T
                tensor.copy_(2 * turned.movedim(-1, axis))
    return made


def inputs(count: int = 240, seed: int = 1) -> Tensor:
    return torch.randn(count, TOKENS, 7, generator=torch.Generator().manual_seed(seed))


def quiet(function: Any, *args: Any, **options: Any) -> Any:
    """A call without bar and warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, progress=False, **options)


def distance(wanted: Tensor, found: Tensor) -> float:
    """In the 2-norm, relative to what is wanted."""
    return float((wanted - found).norm() / wanted.norm())
