"""What models give on examples, and how far two of them are apart."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.capture.batch import Batch


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Outputs on all images, (N, classes), where the images are, computed where the model is."""
    device = next(model.parameters(), images).device
    return torch.cat([model(x.to(device)).to(images.device) for x in images.split(100)])


def outputs(model: Callable[..., Any], batch: Batch) -> list[Tensor]:
    """Floating-point tensors that a model returns."""
    with torch.no_grad():
        result = model(*batch.args, **batch.kwargs)
    found = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
    return [t for t in found if t.is_floating_point()]


def distance(expected: list[Tensor], found: list[Tensor]) -> float:
    """Largest difference over the largest expected value."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        raise ValueError(
            f"outputs of shapes {[tuple(t.shape) for t in found]}, expected "
            f"{[tuple(t.shape) for t in expected]}"
        )
    if not all(bool(torch.isfinite(t).all()) for t in expected):
        raise ValueError("the original's output is not finite")
    worst = [
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
        for a, b in zip(found, expected, strict=True)
        if b.numel()
    ]
    return max(worst, default=0.0)


def resized(batch: Batch, size: int) -> Batch:
    """A batch of other random examples."""
    torch.manual_seed(size)

    def draw(t: Tensor) -> Tensor:
        if not t.dim() or t.shape[0] != batch.size:
            return t
        shape = (size, *t.shape[1:])
        return (
            torch.randn(shape, dtype=t.dtype)
            if t.is_floating_point()
            else t[:1].expand(shape).contiguous()
        )

    return batch.map(draw)
