"""A compressed module as JSON beside its tensors: layers, tensors, sharing, strides and modes."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.errors import StorageError
from fxprune.saving.checks import check_path
from fxprune.saving.graph_json import encode_graph
from fxprune.saving.layers import LAYERS, layer_arguments
from fxprune.saving.values import encode

VERSION = 1


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of the bytes of a contiguous tensor on the CPU."""
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def describe(small: GraphModule, notes: list[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description of a module, and its tensors as they are written.

    Args:
        small: what `compress` returned.
        notes: what the file loses is appended.

    Raises:
        StorageError: the module holds something that has no name in the file.
    """
    called = {str(n.target) for n in small.graph.nodes if n.op == "call_module"}
    modules = _describe_modules(small, called)
    described: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    device: torch.device | None = None
    for name, kind, tensor, persistent in _slots(small, modules):
        earlier = first.setdefault(id(tensor), name)
        if earlier in described and described[earlier]["kind"] == kind:
            described[name] = {"same": earlier, "persistent": persistent}
            continue
        _check_tensor(name, tensor)
        device = device or tensor.device
        tensors[name] = _written(tensor)
        described[name] = _describe_tensor(tensor, kind, persistent, tensors[name])
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


def _describe_modules(small: GraphModule, called: set[str]) -> dict[str, dict[str, Any]]:
    """Every module by path; one that stands elsewhere too is named by its first path, and what
    lies below it not at all.
    """
    modules: dict[str, dict[str, Any]] = {}
    first: dict[int, str] = {}
    for path, module in small.named_modules(remove_duplicate=False):
        if not path or _below_a_repeated(path, modules):
            continue
        check_path(path)
        earlier = first.setdefault(id(module), path)
        if earlier != path:
            modules[path] = {"same": earlier}
        else:
            modules[path] = _describe_module(path, module, path in called)
    return modules


def _below_a_repeated(path: str, modules: dict[str, dict[str, Any]]) -> bool:
    """Whether one of the modules around this one is named by another path."""
    parts = path.split(".")
    return any("same" in modules.get(".".join(parts[:n]), {}) for n in range(1, len(parts)))


def _slots(
    small: GraphModule, modules: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, str, Tensor, bool]]:
    """Name, kind, tensor and whether it is persistent, of every tensor of a described module."""
    for path, module in small.named_modules(remove_duplicate=False):
        if path and "same" in modules.get(path, {"same": ""}):
            continue
        for kind, slots in (("parameter", module._parameters), ("buffer", module._buffers)):
            for leaf, tensor in slots.items():
                if tensor is not None:
                    name = check_path(f"{path}.{leaf}" if path else leaf)
                    yield name, kind, tensor, leaf not in module._non_persistent_buffers_set


def _written(tensor: Tensor) -> Tensor:
    """What is written: on the CPU, contiguous, real."""
    copied = tensor.detach().resolve_conj().resolve_neg().to("cpu", copy=True).contiguous()
    return torch.view_as_real(copied).contiguous() if copied.is_complex() else copied


def _describe_tensor(
    tensor: Tensor, kind: str, persistent: bool, written: Tensor
) -> dict[str, Any]:
    return {
        "kind": kind,
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "order": _order(tensor),
        "grad": tensor.requires_grad,
        "persistent": persistent,
        "sha256": tensor_digest(written),
    }


def _order(tensor: Tensor) -> list[int] | None:
    """Axes from the widest stride to the narrowest; None where that is their own order.

    Tensors in channels_last have another.
    """
    if tensor.is_contiguous():
        return None
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
    return order if tensor.permute(order).is_contiguous() else None


def _describe_module(path: str, module: nn.Module, called: bool) -> dict[str, Any]:
    if type(module) in LAYERS:
        arguments = {k: encode(v) for k, v in layer_arguments(module).items()}
        return {"kind": type(module).__name__, "args": arguments, "training": module.training}
    if called:
        raise StorageError(
            f"Layer {path} is a {type(module).__name__}, which cannot be saved. fxprune saves the "
            "layers that compress makes; save before replacing them."
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
