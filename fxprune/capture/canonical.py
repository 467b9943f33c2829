"""What torch.export traced becomes the one form that all later stations read."""

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.capture.cells import open_cells
from fxprune.capture.composite import open_composites
from fxprune.capture.fold_constants import fold_numbers, fold_weights
from fxprune.capture.functional import make_functional
from fxprune.capture.recurrent import split_layers
from fxprune.capture.regions import inline_regions
from fxprune.capture.rewritten import rewrite_calls
from fxprune.graph.nodes import attribute
from fxprune.graph.tensors import AS_LAYERS, MADE, is_made, names_of, owner_of, shared_names


def canonicalize(module: GraphModule, model: nn.Module) -> tuple[str, ...]:
    """Make calls functional, inline regions, and give every tensor one name under which it is read.

    Args:
        module: of an exported program; changed in place.
        model: that was traced.

    Returns:
        notes for the report.
    """
    inline_regions(module)
    open_cells(module)
    open_composites(module)
    make_functional(module)
    rewrite_calls(module)
    _register_tensors(module, model)
    _one_name_each(module)
    fold_numbers(module)
    notes = fold_weights(module)
    split_layers(module)
    _drop_unread_constants(module)
    _free_layout(module)
    return notes


def _register_tensors(module: GraphModule, model: nn.Module) -> None:
    """Tensors that the trace left as plain attributes (non-persistent buffers, constants) become
    buffers; those that the model does not hold stand apart, under `MADE`.
    """
    places: dict[str, str] = {}
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        name = str(node.target)
        if name in places:
            node.target = places[name]
            continue
        owner, leaf = owner_of(module, name)
        value = getattr(owner, leaf)
        registered = leaf in owner._parameters or leaf in owner._buffers
        if isinstance(value, Tensor) and not registered:
            delattr(owner, leaf)
            if not _holds(model, name):
                if not hasattr(module, MADE):
                    module.add_module(MADE, nn.Module())
                owner, leaf = module.get_submodule(MADE), name.replace(".", "_")
                node.target = places[name] = f"{MADE}.{leaf}"
            owner.register_buffer(leaf, value, persistent=False)


def _drop_unread_constants(module: GraphModule) -> None:
    """What the forward makes and nothing reads any more goes."""
    read = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    for name in [name for name, _ in module.named_buffers() if is_made(name)]:
        if name not in read:
            owner, leaf = owner_of(module, name)
            delattr(owner, leaf)


def _holds(model: nn.Module, name: str) -> bool:
    """Whether an attribute of a model is a tensor."""
    try:
        return isinstance(attribute(model, name), Tensor)
    except AttributeError:
        return False


def _one_name_each(module: GraphModule) -> None:
    """Calls read a shared tensor (siamese branches, tied embeddings) under its first name, so that
    it is one weight to all that follows.
    """
    names = names_of(module)
    for node in module.graph.nodes:
        if node.op == "get_attr":
            node.target = names.get(str(node.target), node.target)
    if shared_names(module):  # of a model that was compressed before
        del module._modules[AS_LAYERS]


def _free_layout(module: GraphModule) -> None:
    """Views become reshapes, which give the same on any memory layout: nothing is changed in place
    any more.
    """
    for node in module.graph.nodes:
        if node.target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            node.target = torch.ops.aten.reshape.default
    module.recompile()
