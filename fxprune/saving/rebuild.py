"""A compressed module out of its description and tensors, each checked before it is placed."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.errors import StorageError
from fxprune.saving.checks import check_path, field
from fxprune.saving.graph_json import decode_graph
from fxprune.saving.layers import LAYERS, make_layer
from fxprune.saving.values import DTYPES, Decoder


def rebuild(
    document: dict[str, Any], tensors: dict[str, Tensor], device: torch.device
) -> GraphModule:
    """The module of a description.

    Raises:
        StorageError: the description is malformed.
    """
    root = nn.Module()
    decoder = Decoder({}, torch.device(field(document, "device", str)), device)
    modules = field(document, "modules", dict)
    for path in modules:
        parent, _, leaf = check_path(path).rpartition(".")
        entry = field(modules, path, dict)
        owner = _module(root, parent)
        if type(owner) not in (nn.Module, nn.Sequential):
            raise StorageError(f"The file puts {path} inside a {type(owner).__name__}.")
        owner.add_module(
            leaf, _module(root, entry["same"]) if "same" in entry else _make_module(entry, decoder)
        )
    described = field(document, "tensors", dict)
    placed: dict[str, Tensor] = {}
    for name in described:
        placed[name] = _place(root, name, field(described, name, dict), tensors, placed, device)
    for path, module in root.named_modules():
        missing = [
            k
            for k, v in (*module._parameters.items(), *module._buffers.items())
            if v is not None and v.is_meta
        ]
        if missing and device.type != "meta":
            raise StorageError(f"The file lacks {path}.{missing[0]}.")
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()
    small = decode_graph(
        root, field(document, "graph", dict), decoder, field(document, "class", str)
    )
    for path in modules:
        if "same" not in modules[path]:
            _module(small, path).training = field(modules[path], "training", bool)
    small.training = field(document, "training", bool)
    return small


def _module(root: nn.Module, path: Any) -> nn.Module:
    """A submodule by name, found among modules only."""
    module = root
    for part in check_path(path).split(".") if path else ():
        child = module._modules.get(part)
        if child is None:
            raise StorageError(f"The file names {path}, but holds no such layer before.")
        module = child
    return module


def _make_module(entry: dict[str, Any], decoder: Decoder) -> nn.Module:
    kind, arguments = field(entry, "kind", str), field(entry, "args", dict)
    if kind == "Module" and not arguments:
        return nn.Module()
    return make_layer(kind, {k: decoder(v) for k, v in arguments.items()})


def _place(
    root: nn.Module,
    name: str,
    entry: dict[str, Any],
    tensors: dict[str, Tensor],
    placed: dict[str, Tensor],
    device: torch.device,
) -> Tensor:
    """Put one tensor where the description says; it must fit the layer."""
    path, _, leaf = check_path(name).rpartition(".")
    owner = _module(root, path)
    if "same" in entry:
        earlier = placed.get(field(entry, "same", str))
        if earlier is None:
            raise StorageError(
                f"The file shares {name} with a tensor that it does not hold before."
            )
        tensor = earlier
    else:
        tensor = _restore(name, entry, tensors[name], device)
    persistent = field(entry, "persistent", bool)
    slots = owner._parameters if isinstance(tensor, nn.Parameter) else owner._buffers
    slot = slots.get(leaf)
    if type(owner) in LAYERS:
        if slot is None:
            raise StorageError(f"The file gives a {type(owner).__name__} a tensor {leaf}.")
        if slot.shape != tensor.shape:
            raise StorageError(
                f"The file gives {name} the shape {tuple(tensor.shape)}; its layer has "
                f"{tuple(slot.shape)}."
            )
        slots[leaf] = tensor  # type: ignore[assignment]
    elif isinstance(tensor, nn.Parameter):
        owner.register_parameter(leaf, tensor)
    else:
        owner.register_buffer(leaf, tensor, persistent=persistent)
    return tensor


def _restore(name: str, entry: dict[str, Any], stored: Tensor, device: torch.device) -> Tensor:
    """A tensor with its dtype, strides and kind."""
    dtype, shape, order = (
        field(entry, "dtype", str),
        field(entry, "shape", list),
        field(entry, "order", (list, type(None))),
    )
    complex_ = dtype in ("complex64", "complex128", "complex32")
    tensor = torch.view_as_complex(stored) if complex_ else stored
    if DTYPES.get(dtype) is not tensor.dtype or list(tensor.shape) != shape:
        raise StorageError(
            f"The file describes {name} as {dtype} {shape}, but holds {tensor.dtype} "
            f"{list(tensor.shape)}."
        )
    if order is not None:
        if sorted(order) != list(range(tensor.dim())):
            raise StorageError(f"The file orders the axes of {name} as {order}.")
        tensor = (
            tensor.permute(order)
            .contiguous()
            .permute([order.index(a) for a in range(tensor.dim())])
        )
    tensor = tensor.to(device)
    kind, grad = field(entry, "kind", str), field(entry, "grad", bool)
    if kind == "parameter":
        return nn.Parameter(tensor, requires_grad=grad)
    if kind != "buffer":
        raise StorageError(f"The file describes {name} as a {kind[:80]!r}.")
    return tensor.requires_grad_(grad)
