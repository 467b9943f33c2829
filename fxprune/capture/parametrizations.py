"""Weights that a module computes from tensors of its own become plain parameters."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


@torch.no_grad()
def fold_parametrizations(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Replace weight norm, spectral norm and parametrizations by the weights they give, in place.

    Names stay what they were (`layer.weight`); the tensors that a weight was computed from are
    gone. One whose tensors another module uses too stays as it is.

    Args:
        model: a copy, in eval mode.

    Returns:
        by the name of every weight that is plain now, the names of the parameters it was computed
        from.
    """
    registered = Counter(
        id(p) for m in model.modules() for p in m._parameters.values() if p is not None
    )
    folded: dict[str, tuple[str, ...]] = {}
    for path, module in list(model.named_modules()):
        prefix = f"{path}." if path else ""
        parametrizations: Any = getattr(module, "parametrizations", {})
        if parametrize.is_parametrized(module):
            for name, held in list(parametrizations.items()):
                sources = [f"parametrizations.{name}.{n}" for n, _ in held.named_parameters()]
                if sources and all(registered[id(p)] == 1 for p in held.parameters()):
                    _remove_parametrization(module, name)
                    folded[prefix + name] = tuple(prefix + source for source in sources)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                sources = [f"{hook.name}_g", f"{hook.name}_v"]
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                sources = [f"{hook.name}_orig"]
                remove_spectral_norm(module, hook.name)
            else:
                continue
            folded[prefix + hook.name] = tuple(prefix + source for source in sources)
    return folded


def _remove_parametrization(module: nn.Module, name: str) -> None:
    """Put the weight that a parametrization gives in its place."""
    value: Tensor = getattr(module, name).detach().clone()
    # A copy has the very class of the module it was copied from, and removing changes the class.
    own = type(module)
    body = {k: v for k, v in vars(own).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(own.__name__, own.__bases__, body)
    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    delattr(module, name)
    module.register_parameter(name, nn.Parameter(value))
