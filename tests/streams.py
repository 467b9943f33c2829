"""Pre-norm networks whose residual streams lie in few directions."""

import copy
import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.graph.nodes import attribute
from fxprune.label.keep import keep_all
from fxprune.label.turning import Basis
from fxprune.passes import ReduceChannels, Rotate
from fxprune.profile.folding import Streams

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


def turned(graph: GraphModule, streams: Streams, x: Tensor, share: float) -> tuple[float, ...]:
    """Put all streams into random orthonormal coordinates, and take the last of these away.

    Returns:
        relative differences: of the folded and the rotated graph to the original, of the narrowed
        one to the rotated one with zeros there, and of that to the original.
    """
    assert streams.graph is not None
    assert streams.analysis is not None
    draw, bases = np.random.default_rng(0), dict[str, Basis]()
    keep_mask = keep_all(streams.analysis)
    for group in streams.analysis.groups:
        if group.name in streams.centered:
            matrix = np.linalg.qr(draw.standard_normal((group.width, group.width)))[0][None]
            bases[group.name] = Basis(matrix, matrix)
            keep_mask[group.blocks[:, int(share * group.width) :]] = False
    rotated = Rotate(streams.analysis, bases)(streams.graph).graph_module
    small = ReduceChannels(streams.analysis, keep_mask)(rotated).graph_module
    zeros = copy.deepcopy(rotated)
    for (parameter, axis), ids in streams.analysis.axes.items():
        gone = torch.from_numpy(~keep_mask[ids]).nonzero().flatten()
        attribute(zeros, parameter).data.index_fill_(axis, gone, 0)
    given = [_outputs(g, x) for g in (graph, streams.graph, rotated, zeros, small)]
    wanted, folded, whole, masked, narrow = given
    return (
        distance(wanted, folded),
        distance(wanted, whole),
        distance(masked, narrow),
        distance(wanted, narrow),
    )


def _outputs(module: GraphModule, x: Tensor) -> Tensor:
    """All that a graph gives, in one row."""
    with torch.no_grad():
        found = module(x)
    leaves = found if isinstance(found, (tuple, list)) else (found,)
    return torch.cat([leaf.reshape(-1) for leaf in leaves if leaf is not None])
