"""The original with zeros where channels went: what a small model must equal."""

import copy

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.plans.plan import Plan, scatter


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Give constant tensors (norms, layer scales, zero-initialized weights) random values: errors
    would hide behind them.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)

    with torch.no_grad():
        for tensor in model.parameters():
            if (
                tensor.is_floating_point()
                and tensor.numel() > 1
                and bool((tensor == tensor.flatten()[0]).all())
            ):
                tensor.copy_(
                    0.1 * noise(tensor)
                    + (tensor if float(tensor.flatten()[0].abs()) > 0.1 else 0.3)
                )
                if tensor.dim() > 1 and tensor.shape[0] > 1:
                    tensor.sub_(0.3).mul_(0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * noise(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(1 + 0.2 * noise(buffer).tanh())


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, the non-persistent ones too."""
    return {
        n: t.detach()
        for n, t in [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
    }


def masked(model: nn.Module, graph: GraphModule, small: nn.Module, plan: Plan) -> nn.Module:
    """The original with the small weights scattered back and zeros elsewhere; the graph where
    names differ.
    """
    state, held = tensors(model), tensors(graph)
    fits = all(n in state and torch.equal(state[n], held[n]) for n in plan.kept)
    big = copy.deepcopy(model if fits else graph)
    full, reduced = tensors(big), tensors(small)
    for name in plan.kept:
        full[name].copy_(scatter(reduced[name], plan.shapes[name], plan.kept[name]))
    return big
