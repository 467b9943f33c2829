"""Compressed models in one file: safetensors, with the graph, the plan and the report as JSON in its metadata.

Nothing of the file is run. Layers, operators and functions are looked up in tables, names are matched against patterns, and what
does not fit is refused. The digests find damage; they do not tell who wrote a file.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.errors import FxpruneError, PlanError, StorageError
from fxprune.graph_json import DTYPES, Decoder, check_path, decode_graph, encode, encode_graph, field
from fxprune.operators import LAYERS, layer_arguments, make_layer
from fxprune.plan import Plan
from fxprune.report import Report, attach, plan_of, report
from fxprune.resize import load_into

VERSION = 1
ENTRIES = ("fxprune", "plan", "report")
"""Metadata entries that hold JSON; `sha256` is of them all."""
MALFORMED = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, OverflowError, RecursionError, MemoryError, SyntaxError,
    AssertionError,
)  # fmt: skip
AGAIN = "Copy the file again, or save the model again."
M = TypeVar("M", bound=nn.Module)


def save(small: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a compressed model to one file, which `load` reads without the original model's source.

    The file is safetensors: its tensors are the state dict, shared parameters once. The graph, plan and report are JSON in its metadata.
    It replaces an existing file only once it is complete.

    Args:
        small: what `compress`, `apply` or `load` returned; trained further, moved or cast as you like.
        path: `.safetensors` is the usual suffix.

    Raises:
        StorageError: the graph holds something that the file has no name for, or the path cannot be written.
        PlanError: the module did not come from fxprune.
    """
    if not isinstance(small, GraphModule):
        inside = [n for n, m in small.named_modules() if isinstance(m, GraphModule)] if isinstance(small, nn.Module) else []
        advice = f"Save its compressed parts, such as model.get_submodule({inside[0]!r})." if inside else "Pass what compress returned."
        raise StorageError(f"A {type(small).__name__} cannot be saved by fxprune. {advice}")
    plan = plan_of(small)
    notes: list[str] = []
    document, tensors = _describe(small, notes)
    held = report(small)
    held = replace(held, notes=(*held.notes, *(n for n in dict.fromkeys(notes) if n not in held.notes)))
    texts = {"fxprune": json.dumps(document, allow_nan=False), "plan": plan.to_json(), "report": held.to_json()}
    _rebuild(json.loads(texts["fxprune"]), tensors, _saved_device(document))
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        save_file(tensors, part, {"format": "pt", **texts, "sha256": _digest(texts)})
        os.replace(part, target)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise StorageError(f"{target} cannot be written: {error}. Name a file in a folder that exists and may be written to.") from error


@overload
def load(path: str | os.PathLike[str], into: None = None, *, device: str | torch.device = "cpu") -> GraphModule: ...
@overload
def load(path: str | os.PathLike[str], into: M, *, device: str | torch.device | None = None) -> M: ...
def load(path: str | os.PathLike[str], into: Any = None, *, device: Any = None) -> Any:
    """Read what `save` wrote. Nothing of the file is run, and no source of the original model is needed.

    Args:
        path: the file.
        into: an instance of the original class. A copy of it gets the file's weights and sizes, by name; nothing is run, so its
            forward must take its sizes from the tensors and layers: compare outputs once.
        device: for the tensors, and for constants in the graph; with `into`, the module's devices by default, otherwise the CPU.

    Returns:
        the module as it was saved, or the resized copy of `into` in its own mode. Both carry the report and plan.

    Raises:
        StorageError: the file is damaged, tampered with, newer, not of fxprune, or `into` does not fit; says what.
    """
    source = Path(path)
    if into is not None and not isinstance(into, nn.Module):
        raise StorageError(f"into= takes an instance of the original model, not a {type(into).__name__}.")
    try:
        target = torch.device("cpu" if device is None or into is not None else device)
        document, tensors, plan, held = _read(source)
        small = _rebuild(document, tensors, target)
        attach(small, held, plan)
    except StorageError as error:
        raise StorageError(f"{source}: {error}") from error
    except FxpruneError as error:
        raise StorageError(f"{source} is damaged: {error} {AGAIN}") from error
    except MALFORMED as error:
        raise StorageError(f"{source} is damaged or was tampered with: {type(error).__name__}: {_first(error)}. {AGAIN}") from error
    return small if into is None else load_into(into, small, None if device is None else torch.device(device))


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _digest(texts: dict[str, str]) -> str:
    return hashlib.sha256("\0".join(texts[k] for k in ENTRIES).encode()).hexdigest()


def _tensor_digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _order(tensor: Tensor) -> list[int] | None:
    """Axes from the widest stride to the narrowest where that is not their own order, as in channels_last."""
    if tensor.is_contiguous():
        return None
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
    return order if tensor.permute(order).is_contiguous() else None


def _plain(tensor: Tensor) -> Tensor:
    """What is written: on the CPU, contiguous, real."""
    held = tensor.detach().resolve_conj().resolve_neg().to("cpu", copy=True).contiguous()
    return torch.view_as_real(held).contiguous() if held.is_complex() else held


def _describe(small: GraphModule, notes: list[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
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
                    described[name] = {"same": first[id(tensor)], "persistent": leaf not in module._non_persistent_buffers_set}
                    continue
                first.setdefault(id(tensor), name)
                _check_tensor(name, tensor)
                tensors[name] = _plain(tensor)
                device = device or tensor.device
                described[name] = {
                    "kind": kind, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "order": _order(tensor),
                    "grad": tensor.requires_grad, "persistent": leaf not in module._non_persistent_buffers_set,
                    "sha256": _tensor_digest(tensors[name]),
                }  # fmt: skip
    document = {
        "version": VERSION, "torch": str(torch.__version__), "class": "GraphModule", "device": str(device or "cpu"),
        "training": small.training, "modules": modules, "tensors": described, "graph": encode_graph(small, notes),
    }  # fmt: skip
    return document, tensors


def _describe_module(path: str, module: nn.Module, called: bool) -> dict[str, Any]:
    if type(module) in LAYERS:
        arguments = {k: encode(v) for k, v in layer_arguments(module).items()}
        return {"kind": type(module).__name__, "args": arguments, "training": module.training}
    if called:
        raise StorageError(
            f"Layer {path} is a {type(module).__name__}, which cannot be saved. fxprune saves the layers that compress makes; save before "
            "replacing them."
        )
    return {"kind": "Module", "args": {}, "training": module.training}


def _check_tensor(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        raise StorageError(f"Tensor {name} is on the meta device and has no values. Load the weights first.")
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or tensor.is_quantized:
        raise StorageError(f"Tensor {name} is a quantized, sparse or {type(tensor).__name__} tensor. Save before quantizing.")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], Plan, Report]:
    """The checked parts of a file; tensors by name, shared ones once."""
    if not path.is_file():
        raise StorageError("there is no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "fxprune" not in metadata:
                raise StorageError("this safetensors file was not written by fxprune.save.")
            document = json.loads(metadata["fxprune"])
            version = field(document, "version", int)
            if version > VERSION:
                raise StorageError(f"the file has version {version}; this fxprune reads up to {VERSION}. Update fxprune.")
            if set(metadata) != {"format", "sha256", *ENTRIES} or metadata["sha256"] != _digest(metadata):
                raise StorageError(f"the file is damaged: its description does not match its digest. {AGAIN}")
            described = field(document, "tensors", dict)
            stored = {name for name, entry in described.items() if "same" not in field(described, name, dict)}
            if stored != set(file.keys()):
                odd = sorted(stored ^ set(file.keys()))
                raise StorageError(f"the file is damaged: {', '.join(odd)[:200]} is described but missing, or the other way round. {AGAIN}")
            # A copy: the file stays mapped into memory otherwise, and may change.
            tensors = {name: file.get_tensor(name).clone() for name in described if name in stored}
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise StorageError(f"this is not a complete safetensors file: {_first(error)}. {AGAIN}") from error
    for name, tensor in tensors.items():
        if field(described[name], "sha256", str) != _tensor_digest(tensor):
            raise StorageError(f"the file is damaged: {name} does not match its digest. {AGAIN}")
    plan = Plan.from_json(metadata["plan"])
    _check_plan(plan)
    return document, tensors, plan, Report.from_json(metadata["report"])


def _check_plan(plan: Plan) -> None:
    for name, axes in plan.kept.items():
        for held in axes.values():
            rows = held if held and isinstance(held[0], list) else [held]
            if not all(isinstance(row, list) and all(isinstance(i, int) for i in row) for row in rows):
                raise PlanError(f"The plan's indices of {name[:80]!r} are not whole numbers.")


def _saved_device(document: dict[str, Any]) -> torch.device:
    return torch.device(field(document, "device", str))


def _rebuild(document: dict[str, Any], tensors: dict[str, Tensor], device: torch.device) -> GraphModule:
    """The module of a description.

    Raises:
        StorageError: the description is malformed.
    """
    root = nn.Module()
    decoder = Decoder({}, _saved_device(document), device)
    modules = field(document, "modules", dict)
    for path in modules:
        parent, _, leaf = check_path(path).rpartition(".")
        entry = field(modules, path, dict)
        owner = _module(root, parent)
        if type(owner) not in (nn.Module, nn.Sequential):
            raise StorageError(f"The file puts {path} inside a {type(owner).__name__}.")
        owner.add_module(leaf, _module(root, entry["same"]) if "same" in entry else _make_module(entry, decoder))
    described = field(document, "tensors", dict)
    placed: dict[str, Tensor] = {}
    for name in described:
        placed[name] = _place(root, name, field(described, name, dict), tensors, placed, device)
    for path, module in root.named_modules():
        missing = [k for k, v in (*module._parameters.items(), *module._buffers.items()) if v is not None and v.is_meta]
        if missing and device.type != "meta":
            raise StorageError(f"The file lacks {path}.{missing[0]}.")
    small = decode_graph(root, field(document, "graph", dict), decoder, field(document, "class", str))
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
    root: nn.Module, name: str, entry: dict[str, Any], tensors: dict[str, Tensor], placed: dict[str, Tensor], device: torch.device
) -> Tensor:
    """Put one tensor where the description says; it must fit the layer."""
    path, _, leaf = check_path(name).rpartition(".")
    owner = _module(root, path)
    if "same" in entry:
        found = placed.get(field(entry, "same", str))
        if found is None:
            raise StorageError(f"The file shares {name} with a tensor that it does not hold before.")
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
            raise StorageError(f"The file gives {name} the shape {tuple(tensor.shape)}; its layer has {tuple(slot.shape)}.")
        slots[leaf] = tensor  # type: ignore[assignment]
    elif isinstance(tensor, nn.Parameter):
        owner.register_parameter(leaf, tensor)
    else:
        owner.register_buffer(leaf, tensor, persistent=persistent)
    return tensor


def _restored(name: str, entry: dict[str, Any], stored: Tensor, device: torch.device) -> Tensor:
    """A tensor with its dtype, strides and kind."""
    dtype, shape, order = field(entry, "dtype", str), field(entry, "shape", list), field(entry, "order", (list, type(None)))
    complex_ = dtype in ("complex64", "complex128", "complex32")
    tensor = torch.view_as_complex(stored) if complex_ else stored
    if DTYPES.get(dtype) is not tensor.dtype or list(tensor.shape) != shape:
        raise StorageError(f"The file describes {name} as {dtype} {shape}, but holds {tensor.dtype} {list(tensor.shape)}.")
    if order is not None:
        if sorted(order) != list(range(tensor.dim())):
            raise StorageError(f"The file orders the axes of {name} as {order}.")
        tensor = tensor.permute(order).contiguous().permute([order.index(a) for a in range(tensor.dim())])
    tensor = tensor.to(device)
    kind, grad = field(entry, "kind", str), field(entry, "grad", bool)
    if kind == "parameter":
        return nn.Parameter(tensor, requires_grad=grad)
    if kind != "buffer":
        raise StorageError(f"The file describes {name} as a {kind[:80]!r}.")
    return tensor.requires_grad_(grad)
