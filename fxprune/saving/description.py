"""A compressed module as JSON beside its tensors, and back: layers, tensors, sharing, strides and
modes.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.errors import StorageError
from fxprune.saving.graph_json import (
    DTYPES,
    Decoder,
    check_path,
    decode_graph,
    encode,
    encode_graph,
    field,
)
from fxprune.saving.operators import LAYERS, layer_arguments, make_layer

VERSION = 1


def tensor_digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _order(tensor: Tensor) -> list[int] | None:
    """Axes from the widest stride to the narrowest where that is not their own order, as in
    channels_last.
    """
    if tensor.is_contiguous():
        return None
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
    return order if tensor.permute(order).is_contiguous() else None


def _plain(tensor: Tensor) -> Tensor:
    """What is written: on the CPU, contiguous, real."""
    held = tensor.detach().resolve_conj().resolve_neg().to("cpu", copy=True).contiguous()
    return torch.view_as_real(held).contiguous() if held.is_complex() else held


def describe(small: GraphModule, notes: list[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description of a module, and its tensors as they are written."""
    modules: dict[str, dict[str, Any]] = {}
    described: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    called = {str(n.target) for n in small.graph.nodes if n.op == "call_module"}
    device: torch.device | None = None
    for path, module in small.named_modules(remove_duplicate=False):
        parent = path.rpartition(".")[0]
        while parent and "same" not in modules.get(parent, {}):
            parent = parent.rpartition(".")[0]
        if parent:
            continue
        if path:
            check_path(path)
            if id(module) in first:
                modules[path] = {"same": first[id(module)]}
                continue
            first[id(module)] = path
            modules[path] = _describe_module(path, module, path in called)
        for kind, held in (("parameter", module._parameters), ("buffer", module._buffers)):
            for leaf, tensor in held.items():
                if tensor is None:
                    continue
                name = check_path(f"{path}.{leaf}" if path else leaf)
                if id(tensor) in first and described[first[id(tensor)]]["kind"] == kind:
                    described[name] = {
                        "same": first[id(tensor)],
                        "persistent": leaf not in module._non_persistent_buffers_set,
                    }
                    continue
                first.setdefault(id(tensor), name)
                _check_tensor(name, tensor)
                tensors[name] = _plain(tensor)
                device = device or tensor.device
                described[name] = {
                    "kind": kind,
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "shape": list(tensor.shape),
                    "order": _order(tensor),
                    "grad": tensor.requires_grad,
                    "persistent": leaf not in module._non_persistent_buffers_set,
                    "sha256": tensor_digest(tensors[name]),
                }
    document = {
        "version": VERSION,
        "torch": str(torch.__version__),
        "class": "GraphModule",
        "device": str(device or "cpu"),
        "training": small.training,
        "modules": modules,
        "tensors": described,
        "graph": encode_graph(small, notes),
    }
    return document, tensors


def _describe_module(path: str, module: nn.Module, called: bool) -> dict[str, Any]:
    if type(module) in LAYERS:
        arguments = {k: encode(v) for k, v in layer_arguments(module).items()}
        return {"kind": type(module).__name__, "args": arguments, "training": module.training}
    if called:
        raise StorageError(
            f"Layer {path} is a {type(module).__name__}, which cannot be saved. fxprune saves the "
            "layers that compress makes; save before "
            "replacing them."
        )
    return {"kind": "Module", "args": {}, "training": module.training}


def _check_tensor(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        raise StorageError(
            f"Tensor {name} is on the meta device and has no values. Load the weights first."
        )
    if (
        type(tensor) not in (Tensor, nn.Parameter)
        or tensor.layout is not torch.strided
        or tensor.is_quantized
    ):
        raise StorageError(
            f"Tensor {name} is a quantized, sparse or {type(tensor).__name__} tensor. Save before "
            "quantizing."
        )


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
        found = module._modules.get(part)
        if found is None:
            raise StorageError(f"The file names {path}, but holds no such layer before.")
        module = found
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
        found = placed.get(field(entry, "same", str))
        if found is None:
            raise StorageError(
                f"The file shares {name} with a tensor that it does not hold before."
            )
        tensor = found
    else:
        tensor = _restored(name, entry, tensors[name], device)
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


def _restored(name: str, entry: dict[str, Any], stored: Tensor, device: torch.device) -> Tensor:
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
