"""Models that Torch-Pruning (Fang et al. 2023) made small."""

import copy

from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.label.flops import count_flops

IMPORTANCES = {"magnitude": "MagnitudeImportance", "taylor": "TaylorImportance"}
"""Names in `torch_pruning.importance`."""
HALVINGS = 9


def last_layers(model: nn.Module, found: list[Tensor]) -> list[nn.Module]:
    """The last linear layer or convolution, if as wide as the model's output: what Torch-Pruning's
    examples ignore.
    """
    layers = [
        m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    ]
    if not layers:
        return []
    last = layers[-1]
    width = last.out_features if isinstance(last, nn.Linear) else last.out_channels
    return [last] if any(width in t.shape[1:] or t.dim() == 1 for t in found) else []


def with_gradients(net: nn.Module, calibration: Tensor) -> nn.Module:
    """A copy whose parameters hold the gradient of the cross-entropy with its own decisions."""
    held = copy.deepcopy(net)
    for x in calibration.split(100):
        scores = held(x)
        nn.functional.cross_entropy(scores, scores.argmax(1), reduction="sum").backward()
    return held


def pruned(net: nn.Module, importance: str, ratio: float, example: Tensor) -> nn.Module:
    """A copy with this share of every layer's channels gone."""
    import torch_pruning

    model = copy.deepcopy(net)
    for ours, theirs in zip(model.parameters(), net.parameters(), strict=True):
        ours.grad = None if theirs.grad is None else theirs.grad.clone()
    torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=getattr(torch_pruning.importance, IMPORTANCES[importance])(),
        pruning_ratio=ratio,
        ignored_layers=last_layers(model, [model(example)]),
    ).step()
    return model.eval()


def at_flops(net: nn.Module, importance: str, flops: float, example: Tensor) -> nn.Module:
    """The largest model within the budget."""
    batch = make_batch((example,), {})
    full, low, high = count_flops(net, batch), 0.0, 0.95
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        fits = count_flops(pruned(net, importance, middle, example), batch) <= flops * full
        low, high = (low, middle) if fits else (middle, high)
    return pruned(net, importance, high, example)
