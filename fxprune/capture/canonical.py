"""What torch.export traced becomes the one form that all later stations read."""

import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.capture.fold_constants import fold_numbers, fold_weights
from fxprune.capture.functional import make_functional
from fxprune.capture.regions import inline_regions
from fxprune.graph.tensors import names_of, owner_of


def canonicalize(module: GraphModule) -> tuple[str, ...]:
    """Make calls functional, inline regions, and give every tensor one name under which it is read.

    Args:
        module: of an exported program; changed in place.

    Returns:
        notes for the report.
    """
    inline_regions(module)
    make_functional(module)
    _register_tensors(module)
    _one_name_each(module)
    fold_numbers(module)
    notes = fold_weights(module)
    _free_layout(module)
    return notes


def _register_tensors(module: GraphModule) -> None:
    """Tensors that the trace left as plain attributes (non-persistent buffers, constants) become
    buffers.
    """
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        owner, leaf = owner_of(module, str(node.target))
        value = getattr(owner, leaf)
        registered = leaf in owner._parameters or leaf in owner._buffers
        if isinstance(value, Tensor) and not registered:
            delattr(owner, leaf)
            owner.register_buffer(leaf, value, persistent=False)


def _one_name_each(module: GraphModule) -> None:
    """Calls read a shared tensor (siamese branches, tied embeddings) under its first name, so that
    it is one weight to all that follows.
    """
    names = names_of(module)
    for node in module.graph.nodes:
        if node.op == "get_attr":
            node.target = names.get(str(node.target), node.target)


def _free_layout(module: GraphModule) -> None:
    """Views become reshapes, which give the same on any memory layout: nothing is changed in place
    any more.
    """
    for node in module.graph.nodes:
        if node.target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            node.target = torch.ops.aten.reshape.default
    module.recompile()
