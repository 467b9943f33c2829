"""Compressed models in one file: safetensors, with the graph, the plan and the report as JSON in
its metadata.

Nothing of the file is run. Layers, operators and functions are looked up in tables, names are
matched against patterns, and what does not fit is refused. The digests find damage; they do not
tell who wrote a file.
"""

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
from fxprune.handover.report import Report, attach, plan_of, report
from fxprune.plans.plan import Plan
from fxprune.resume.folder import replacing
from fxprune.saving.checks import field
from fxprune.saving.describe import VERSION, describe, tensor_digest
from fxprune.saving.rebuild import rebuild
from fxprune.saving.resize import load_into

ENTRIES = ("fxprune", "plan", "report")
"""Metadata entries that hold JSON; `sha256` is of them all."""
MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RuntimeError,
    OverflowError,
    RecursionError,
    MemoryError,
    SyntaxError,
    AssertionError,
)
AGAIN = "Copy the file again, or save the model again."
M = TypeVar("M", bound=nn.Module)


def save(small: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a compressed model to one file, which `load` reads without the original model's source.

    The file is safetensors: its tensors are the state dict, shared parameters once. The graph,
    plan and report are JSON in its metadata. It replaces an existing file only once it is
    complete.

    Args:
        small: what `compress`, `apply` or `load` returned; trained further, moved or cast as you
            like.
        path: `.safetensors` is the usual suffix.

    Raises:
        StorageError: the graph holds something that the file has no name for, or the path cannot
            be written.
        PlanError: the module did not come from fxprune.
    """
    if not isinstance(small, GraphModule):
        inside = (
            [n for n, m in small.named_modules() if isinstance(m, GraphModule)]
            if isinstance(small, nn.Module)
            else []
        )
        advice = (
            f"Save its compressed parts, such as model.get_submodule({inside[0]!r})."
            if inside
            else "Pass what compress returned."
        )
        raise StorageError(f"A {type(small).__name__} cannot be saved by fxprune. {advice}")
    plan, target = plan_of(small), _path(path)
    notes: list[str] = []
    document, tensors = describe(small, notes)
    result = report(small)
    result = replace(
        result, notes=(*result.notes, *(n for n in dict.fromkeys(notes) if n not in result.notes))
    )
    texts = {
        "fxprune": json.dumps(document, allow_nan=False),
        "plan": plan.to_json(),
        "report": result.to_json(),
    }
    try:
        rebuild(json.loads(texts["fxprune"]), tensors, torch.device("cpu"))
    except MALFORMED as error:
        raise StorageError(
            f"The graph could not be loaded again: {type(error).__name__}: {_first(error)}. "
            "Nothing was written."
        ) from error
    try:
        with replacing(target) as part:
            save_file(tensors, part, {"format": "pt", **texts, "sha256": _digest(texts)})
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{target} cannot be written: {error}. Name a file in a folder that exists, may be "
            "written to and has room; what was there before is whole."
        ) from error


@overload
def load(
    path: str | os.PathLike[str], into: None = None, *, device: str | torch.device = "cpu"
) -> GraphModule: ...
@overload
def load(
    path: str | os.PathLike[str], into: M, *, device: str | torch.device | None = None
) -> M: ...
def load(path: str | os.PathLike[str], into: Any = None, *, device: Any = None) -> Any:
    """Read what `save` wrote. Nothing of the file is run, and no source of the original model is
    needed.

    Args:
        path: the file.
        into: an instance of the original class. A copy of it gets the file's weights and sizes, by
            name; nothing is run, so its forward must take its sizes from the tensors and layers:
            compare outputs once.
        device: for the tensors, and for constants in the graph; with `into`, the module's devices
            by default, otherwise the CPU.

    Returns:
        the module as it was saved, or the resized copy of `into` in its own mode. Both carry the
        report and plan.

    Raises:
        StorageError: the file is damaged, tampered with, newer, not of fxprune, or `into` does not
            fit; says what.
    """
    source = _path(path)
    if into is not None and not isinstance(into, nn.Module):
        raise StorageError(
            f"into= takes an instance of the original model, not a {type(into).__name__}."
        )
    try:
        wanted = None if device is None else torch.empty(0, device=torch.device(device)).device
    except (*MALFORMED, NotImplementedError) as error:
        raise StorageError(f"device={device!r} is not a device here: {_first(error)}.") from error
    try:
        target = wanted if wanted is not None and into is None else torch.device("cpu")
        document, tensors, plan, result = _read(source)
        small = rebuild(document, tensors, target)
        attach(small, result, plan)
    except StorageError as error:
        raise StorageError(f"{source}: {error}") from error
    except FxpruneError as error:
        raise StorageError(f"{source} is damaged: {error} {AGAIN}") from error
    except MALFORMED as error:
        raise StorageError(
            f"{source} is damaged or was tampered with: {type(error).__name__}: {_first(error)}. "
            f"{AGAIN}"
        ) from error
    if into is None:
        return small
    try:
        return load_into(into, small, wanted)
    except MALFORMED as error:
        raise StorageError(
            f"This {type(into).__name__} cannot be given the weights of {source}: "
            f"{type(error).__name__}: {_first(error)}. Give an instance of the original class."
        ) from error


def _path(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not Path(path).name or "\0" in str(path):
        raise StorageError(f"path={path!r}: give the name of a file.")
    return Path(path)


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _digest(texts: dict[str, str]) -> str:
    return hashlib.sha256("\0".join(texts[k] for k in ENTRIES).encode()).hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], Plan, Report]:
    """The checked parts of a file; tensors by name, shared ones once."""
    if not path.is_file():
        raise StorageError("there is no such file. Name one that fxprune.save wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "fxprune" not in metadata:
                raise StorageError(
                    "this safetensors file was not written by fxprune.save. Its tensors can be "
                    "read with safetensors."
                )
            document = json.loads(metadata["fxprune"])
            version = field(document, "version", int)
            if version > VERSION:
                raise StorageError(
                    f"the file has version {version}; this fxprune reads up to {VERSION}. Update "
                    "fxprune."
                )
            if set(metadata) != {"format", "sha256", *ENTRIES} or metadata["sha256"] != _digest(
                metadata
            ):
                raise StorageError(
                    f"the file is damaged: its description does not match its digest. {AGAIN}"
                )
            described = field(document, "tensors", dict)
            stored = {
                name
                for name, entry in described.items()
                if "same" not in field(described, name, dict)
            }
            if stored != set(file.keys()):
                odd = sorted(stored ^ set(file.keys()))
                raise StorageError(
                    f"the file is damaged: {', '.join(odd)[:200]} is described but missing, or "
                    f"the other way round. {AGAIN}"
                )
            # A copy: the file stays mapped into memory otherwise, and may change.
            tensors = {name: file.get_tensor(name).clone() for name in described if name in stored}
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise StorageError(
            f"this is not a complete safetensors file: {_first(error)}. {AGAIN}"
        ) from error
    for name, tensor in tensors.items():
        if field(described[name], "sha256", str) != tensor_digest(tensor):
            raise StorageError(f"the file is damaged: {name} does not match its digest. {AGAIN}")
    plan = Plan.from_json(metadata["plan"])
    _check_plan(plan)
    return document, tensors, plan, Report.from_json(metadata["report"])


def _check_plan(plan: Plan) -> None:
    for name, axes in plan.kept.items():
        for indices in axes.values():
            rows = indices if indices and isinstance(indices[0], list) else [indices]
            if not all(
                isinstance(row, list) and all(isinstance(i, int) for i in row) for row in rows
            ):
                raise PlanError(f"The plan's indices of {name[:80]!r} are not whole numbers.")
