"""Formats that a model is written in for other runtimes, each opened again and compared with the
model before it is kept.
"""

import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from fxprune.capture.batch import Batch
from fxprune.errors import StorageError, UnsupportedError

LIMITS = {torch.float16: 3e-2, torch.bfloat16: 6e-2}
"""Largest difference that rounding explains, as a share of the largest output."""
LIMIT = 1e-3
"""In other dtypes."""
BATCHES = (2, 5)
"""Examples that outputs are compared on, where their number is free."""
EXTERNAL = 1.5e9
"""Bytes of weights from which on ONNX keeps them in a second file; one holds less than 2 GB."""
Run = Callable[[Batch], Sequence[Tensor]]


@dataclass(frozen=True)
class Format:
    """One of them.

    Attributes:
        name: of the file, where the caller names none.
        require: raises an UnsupportedError where something is not installed.
        write: a traced model to a file.
        open: a file, to the runtime's name and what runs it.
        example: Python that opens `{file}`.
    """

    name: str
    require: Callable[[], None]
    write: Callable[[ExportedProgram, Path], None]
    open: Callable[[Path], tuple[str, Run]]
    example: str


@dataclass(frozen=True)
class Exported:
    """What was written, and how far its outputs are from those of the model.

    Attributes:
        format, file, bytes: of the file.
        batch: `free`, or the number of examples that every call must have.
        runtime: that ran the file.
        difference: largest, as a share of the largest output.
    """

    format: str
    file: str
    bytes: int
    batch: str
    runtime: str
    difference: float


@torch.no_grad()
def export_checked(net: nn.Module, example: Batch, kind: str, file: Path) -> Exported:
    """Write a model in a format; the file appears once its outputs are the model's.

    Args:
        net: in eval mode.
        example: to trace it with.
        kind: a key of `FORMATS`.
        file: where to.

    Raises:
        UnsupportedError: it cannot be traced or written.
        StorageError: the file gives other outputs.
    """
    form = FORMATS[kind]
    with _quiet(f"{type(net).__name__} does not take the example"):
        net(*example.args, **example.kwargs)
    with _quiet(f"{type(net).__name__} cannot be exported to {kind}"):
        program, free = _trace(net, example)
        with TemporaryDirectory(dir=file.parent) as folder:
            made = Path(folder) / file.name
            form.write(program, made)
            runtime, run = form.open(made)
            sizes = BATCHES if free else (example.size,)
            # Of what is no number, NumPy gives none; Python's max may pass over it.
            difference = float(np.max([_difference(net, run, _like(example, n)) for n in sizes]))
            limit = max((LIMITS.get(p.dtype, LIMIT) for p in net.parameters()), default=LIMIT)
            if not difference <= limit:
                raise StorageError(
                    f"What {kind} gives differs from the model by {difference:.1e} of the largest "
                    f"output, run by {runtime}; {limit:g} is allowed. Nothing was written."
                )
            written = sum(path.stat().st_size for path in Path(folder).iterdir())
            for path in Path(folder).iterdir():
                os.replace(path, file.parent / path.name)
    batch = "free" if free else str(example.size)
    return Exported(kind, str(file), written, batch, runtime, difference)


@contextmanager
def _quiet(what: str) -> Iterator[None]:
    """What exporters print goes to stderr, and what they raise becomes one error."""
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (StorageError, UnsupportedError, OSError):
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0][:300]
        raise UnsupportedError(f"{what}: {type(error).__name__}: {first}") from error


def _trace(net: nn.Module, example: Batch) -> tuple[ExportedProgram, bool]:
    """The traced model, and whether the number of examples is free in it."""
    named = dict(signature(net.forward).bind(*example.args, **example.kwargs).arguments)
    batch = torch.export.Dim("batch", max=1 << 20)
    free = pytree.tree_map(
        lambda v: (
            {0: batch}
            if isinstance(v, Tensor) and v.dim() and len(v) == example.size
            else ({} if isinstance(v, Tensor) else None)
        ),
        named,
    )
    call: dict[str, Any] = {"args": example.args, "kwargs": example.kwargs}
    try:
        return torch.export.export(net, **call, dynamic_shapes=free), True
    except Exception:  # it says in many ways that the number of examples is fixed
        return torch.export.export(net, **call), False


def _like(example: Batch, size: int) -> Batch:
    """As many examples with values like those of an example: numbers drawn about its mean, other
    values its own, and truth values and zeros drawn.
    """
    draws = torch.Generator().manual_seed(size)

    def draw(tensor: Tensor) -> Tensor:
        if not tensor.dim() or len(tensor) != example.size:
            return tensor
        rows = tensor[torch.arange(size) % len(tensor)]
        if tensor.is_floating_point():
            noise = torch.randn(rows.shape, generator=draws).to(rows)
            spread = rows.float().std().to(rows) if rows.any() else 1.0
            return noise * spread + rows.float().mean().to(rows)
        return rows if rows.any() else torch.randint(0, 2, rows.shape, generator=draws).to(rows)

    return example.map(draw)


def _difference(net: nn.Module, run: Run, batch: Batch) -> float:
    wanted = [t for t in pytree.tree_leaves(net(*batch.args, **batch.kwargs)) if _is_output(t)]
    found = [t for t in run(batch) if _is_output(t)]
    if [t.shape for t in wanted] != [t.shape for t in found]:
        shapes = [[tuple(t.shape) for t in tensors] for tensors in (wanted, found)]
        raise StorageError(
            f"The model gives outputs of the shapes {shapes[0]}, and the exported one of "
            f"{shapes[1]}. Nothing was written."
        )
    largest = [
        float((a.double() - b.double()).abs().max() / a.double().abs().max().clamp_min(1e-12))
        for a, b in zip(wanted, found, strict=True)
        if a.numel()
    ]
    return float(np.max([0.0, *largest]))


def _is_output(value: object) -> bool:
    return isinstance(value, Tensor)


def _require(*packages: str, install: str) -> Callable[[], None]:
    def check() -> None:
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            raise UnsupportedError(f"This needs {' and '.join(missing)}: {install}.")

    return check


def _write_onnx(program: ExportedProgram, file: Path) -> None:
    made = torch.onnx.export(program, dynamo=True, verbose=False)
    if made is None:
        raise UnsupportedError("torch.onnx.export gave no program.")
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    made.save(file, external_data=size > EXTERNAL)


def _open_onnx(file: Path) -> tuple[str, Run]:
    """By onnxruntime where it is installed, else by the reference implementation in onnx."""
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        runtime, names = "onnxruntime", [entry.name for entry in session.get_inputs()]
    else:
        from onnx.reference import ReferenceEvaluator

        session = ReferenceEvaluator(str(file))
        runtime, names = "onnx's reference implementation", list(session.input_names)

    def run(batch: Batch) -> Sequence[Tensor]:
        values = [tensor.numpy(force=True) for tensor in batch.tensors()]
        return [
            torch.as_tensor(value)
            for value in session.run(None, dict(zip(names, values, strict=True)))
        ]

    return runtime, run


def _write_pt2(program: ExportedProgram, file: Path) -> None:
    torch.export.save(program, file)


def _open_pt2(file: Path) -> tuple[str, Run]:
    return "torch.export", _runner(torch.export.load(file).module())


def _require_compiler() -> None:
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl")):
        raise UnsupportedError(
            "AOTInductor compiles C++, and no compiler is found: install one, such as g++."
        )


def _write_aoti(program: ExportedProgram, file: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    aoti_compile_and_package(program, package_path=str(file))


def _open_aoti(file: Path) -> tuple[str, Run]:
    from torch._inductor import aoti_load_package

    return "AOTInductor", _runner(aoti_load_package(str(file)))


def _runner(call: Callable[..., Any]) -> Run:
    return lambda batch: pytree.tree_leaves(call(*batch.args, **batch.kwargs))


FORMATS = {
    "onnx": Format(
        "model.onnx",
        _require("onnx", "onnxscript", install='pip install "fxprune[onnx]"'),
        _write_onnx,
        _open_onnx,
        "import onnxruntime; onnxruntime.InferenceSession({file!r})",
    ),
    "pt2": Format(
        "model.pt2",
        lambda: None,
        _write_pt2,
        _open_pt2,
        "import torch; torch.export.load({file!r}).module()",
    ),
    "aoti": Format(
        "model_aoti.pt2",
        _require_compiler,
        _write_aoti,
        _open_aoti,
        "import torch; torch._inductor.aoti_load_package({file!r})",
    ),
}
