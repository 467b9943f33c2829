"""What a model held before anything of it was folded or dropped: what shares are shares of."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Original:
    """Sizes and flags of the caller's model.

    Attributes:
        parameters: how many numbers, tensors that have several names once.
        buffers: names of its buffers.
        bytes: of parameters and buffers.
        frozen: names of parameters that ask for no gradient, and of weights computed from such
            alone.
    """

    parameters: int
    buffers: frozenset[str]
    bytes: int
    frozen: frozenset[str]


def read_original(model: nn.Module, folded: Mapping[str, tuple[str, ...]]) -> Original:
    """Sizes and flags of a model.

    Args:
        model: the caller's.
        folded: as `fold_parametrizations` returns.
    """
    frozen = {
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad
    }
    frozen |= {weight for weight, sources in folded.items() if frozen.issuperset(sources)}
    return Original(
        sum(p.numel() for p in model.parameters()),
        frozenset(name for name, _ in model.named_buffers(remove_duplicate=False)),
        sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())),
        frozenset(frozen),
    )
