"""A graph module's tensors and their names."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.graph.nodes import attribute

MADE = "made_in_forward"
"""Where a graph holds the constants that a forward makes anew in every call, such as
`torch.tensor(0.5)`: no module owns them, so they may lose channels and are never fitted.
"""

AS_LAYERS = "as_layers"
"""Where a compressed model holds the layers that stand for calls whose weights are tensors of
modules that are no layers: they share these tensors, whose names in a state dict stay.
"""
COUNTER = "num_batches_tracked"
"""What a batch norm that is a layer holds, and as a call does not."""


def is_made(name: str) -> bool:
    """Whether a tensor of a captured graph is a constant that the forward makes."""
    return name.startswith(f"{MADE}.")


def alias(tensor: Tensor) -> Tensor:
    """Another tensor, or parameter, that lies where this one lies; it must not be written to, but
    be given other data (`rewrite`).
    """
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach(), tensor.requires_grad)
    return tensor.detach()


def aliases(module: nn.Module) -> dict[int, Any]:
    """A memo for `copy.deepcopy` by which a copy's tensors lie where the module's lie."""
    tensors = (*module.parameters(), *module.buffers())
    return {id(tensor): alias(tensor) for tensor in tensors}


@torch.no_grad()
def rewrite(tensor: Tensor, value: Tensor) -> None:
    """Give a tensor other values of its shape, in its layout, dtype and device; tensors that lay
    where it lay keep theirs.
    """
    tensor.data = torch.empty_like(tensor.data).copy_(value)


def own_memory(module: nn.Module, other: nn.Module) -> None:
    """Move every tensor of a module that lies where one of another module lies."""
    held = {t.untyped_storage().data_ptr() for t in (*other.parameters(), *other.buffers())}
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.untyped_storage().data_ptr() in held:
            rewrite(tensor, tensor.detach())


def owner_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds an attribute of this qualified name, and its name there."""
    path, _, leaf = name.rpartition(".")
    return attribute(module, path), leaf


def set_attribute(module: nn.Module, name: str, value: Any) -> None:
    """Put a value under a qualified name whose owner is there already."""
    owner, leaf = owner_of(module, name)
    setattr(owner, leaf, value)


def set_parameter(module: nn.Module, name: str, value: nn.Parameter) -> None:
    """Register a parameter under a qualified name, in place of what was there, with the modules
    that lead to it.
    """
    path, _, leaf = name.rpartition(".")
    owner = module
    for part in path.split(".") if path else ():
        if not hasattr(owner, part):
            owner.add_module(part, nn.Module())
        owner = getattr(owner, part)
    if hasattr(owner, leaf):
        delattr(owner, leaf)
    owner.register_parameter(leaf, value)


def names_of(module: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer, and the first name of the same tensor."""
    first: dict[int, str] = {}
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors}


def shared_names(module: nn.Module) -> dict[str, str]:
    """The names that tensors have in layers below `AS_LAYERS`, and the first name of each; empty
    where that is a module of the model's own, which holds others.
    """
    if AS_LAYERS not in module._modules:
        return {}
    names = {n: own for n, own in names_of(module).items() if n.startswith(f"{AS_LAYERS}.")}
    lone = [n for n, own in names.items() if n == own and n.rpartition(".")[2] != COUNTER]
    return {} if lone else names


def drop_unread(module: GraphModule) -> bool:
    """Erase reads of parameters that no call uses any more; whether there were any."""
    unread = [n for n in reversed(module.graph.nodes) if n.op == "get_attr" and not n.users]
    for node in unread:
        module.graph.erase_node(node)
    return bool(unread)
