"""Whether all ranks work on the same model, asked for the same."""

import sys
from hashlib import blake2b

import torch
from torch import nn

from fxprune.distributed.group import Group
from fxprune.errors import DistributedError

AGREED = (
    "budget",
    "method",
    "selector",
    "uniform_across",
    "keep_class",
    "ignore",
    "keep",
    "round_to",
    "effort",
    "seed",
)
"""Options in which ranks must not differ."""


def require_same(group: Group, model: nn.Module, options: object) -> None:
    """Check that every rank has the first one's weights and options.

    Args:
        group: of the ranks.
        model: on whatever device.
        options: of the call.

    Raises:
        DistributedError: names what differs, and on which ranks.
    """
    if group.size == 1:
        return
    own = {name: repr(getattr(options, name)) for name in AGREED}
    own["the weights"] = _mark(model)
    own["the version of torch"] = str(torch.__version__)
    own["the version of fxprune"] = str(getattr(sys.modules["fxprune"], "__version__", ""))
    told = group.gather(own, "the call")
    for name in own:
        others = [r for r, one in enumerate(told) if one.get(name) != told[0].get(name)]
        if others:
            raise DistributedError(
                f"Rank {', '.join(map(str, others))} of {group.size} and rank 0 differ in {name}: "
                "all ranks make the same call, on the same model with the same weights. Load the "
                "same checkpoint on all of them; what one is to do by itself goes inside "
                "`with fxprune.alone():`."
            )


def _mark(model: nn.Module) -> str:
    """A digest of a model's parameters and buffers."""
    found = blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            if flat.numel():
                found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()
