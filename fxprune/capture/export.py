"""Station 1: a module and an example batch become a canonical ATen graph over named parameters."""

import inspect
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import GraphModule, Node
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fxprune.capture.batch import Batch
from fxprune.capture.canonical import canonicalize
from fxprune.capture.constants import check_constants
from fxprune.capture.copying import copy_model
from fxprune.capture.functional import mutates, plain_inplace
from fxprune.capture.returned import register_dataclasses
from fxprune.capture.original import Original, read_original
from fxprune.capture.parametrizations import fold_parametrizations
from fxprune.capture.supported import check_model
from fxprune.capture.unread import drop_unread_parameters
from fxprune.errors import CaptureError


@dataclass(frozen=True)
class Captured:
    """A model as a graph of ATen calls whose weights are `get_attr` nodes under their qualified
    names.

    Attributes:
        graph: the module; a copy, sharing no tensor with the caller's model.
        example: the batch of two it was traced on.
        notes: what the trace lost, for the report.
        original: what the model held before anything was folded or dropped.
    """

    graph: GraphModule
    example: Batch
    notes: tuple[str, ...]
    original: Original


def _dynamic_shapes(model: nn.Module, batch: Batch, spatial: bool) -> Any:
    """A free batch axis on every tensor that has one; with `spatial`, free image axes too."""

    def shape(item: Any) -> Any:
        if not isinstance(item, Tensor) or not item.dim() or item.shape[0] != batch.size:
            return None
        free = {0: Dim.DYNAMIC}
        if spatial and item.dim() >= 4:
            free |= dict.fromkeys(range(2, item.dim()), Dim.AUTO)
        return free

    return (
        pytree.tree_map(shape, batch.args),
        pytree.tree_map(shape, batch.kwargs),
    )


def _export(model: nn.Module, batch: Batch) -> tuple[torch.export.ExportedProgram, tuple[str, ...]]:
    """Trace with a free batch size, and with free image sizes where the trace would hold the
    example's otherwise.
    """
    start = time.monotonic()
    try:
        program = _traced_after_another_size(model, batch)
    except Exception as error:
        return _fixed(model, batch, error), ()
    if not any(t.dim() >= 4 for t in batch.tensors()) or not any(
        _sized(node) for node in program.graph.nodes
    ):
        return program, ()
    # Windows, grids and attention make symbolic sizes that take minutes to simplify.
    if not any(_attends(node) or _folds(node) for node in program.graph.nodes):
        try:
            with _Deadline(time.monotonic() + PATIENCE + 4 * (time.monotonic() - start)):
                return _traced(model, batch, spatial=True), ()
        except Exception:
            pass
    return program, (
        "the image size could not be left free: the result takes images of the example's size only",
    )


PATIENCE = 10.0


class _Deadline(TorchFunctionMode):
    """Gives up a trace whose symbolic sizes have grown out of hand."""

    def __init__(self, end: float):
        super().__init__()
        self.end = end

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if time.monotonic() > self.end:
            raise TimeoutError
        return func(*args, **(kwargs or {}))


def _traced(
    model: nn.Module, batch: Batch, spatial: bool, strict: bool = False
) -> torch.export.ExportedProgram:
    args, kwargs = _dynamic_shapes(model, batch, spatial)
    # Bound as torch.export binds the example, so that *args and **kwargs are nested alike.
    shapes = dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
    return torch.export.export(
        model, batch.args, batch.kwargs, dynamic_shapes=shapes, strict=strict
    )


def _traced_after_another_size(model: nn.Module, batch: Batch) -> torch.export.ExportedProgram:
    """Trace with a free batch size; where that fails, once more after a run on one example.

    A model that keeps what it made for the last shape (anchors, positions) compares that with the
    traced shape, which ties the two.
    """
    try:
        return _traced(model, batch, spatial=False)
    except Exception:
        with suppress(Exception):
            one = batch.part(0, 1)
            model(*one.args, **one.kwargs)
        try:
            return _traced(model, batch, spatial=False)
        except Exception:
            # Reading the source, not only running it, leaves free what Python makes an integer of,
            # such as len(x).
            return _traced(model, batch, spatial=False, strict=True)


def _fixed(model: nn.Module, batch: Batch, error: Exception) -> torch.export.ExportedProgram:
    """Trace at the example's shapes; raises what stood in the way of a free batch size where that
    fails too.
    """
    try:
        # Earlier attempts leave marks of free axes on their tensors.
        batch = batch.map(torch.clone)
        return torch.export.export(model, batch.args, batch.kwargs, strict=False)
    except Exception:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise CaptureError(
            f"torch.export could not capture {type(model).__name__} on inputs "
            f"{[tuple(t.shape) for t in batch.tensors()]}: "
            f"{type(error).__name__}: {first}. If a part of the model depends on the data "
            "(detection post-processing, generation "
            'loops), compress the other parts in place with targets=["name", ...].'
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log of attempts that torch.export gives up: what it means reaches the caller as
    an error.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        # It also prints whole graphs on the error stream.
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.disable(before)


RESHAPES = frozenset({"view", "reshape", "_unsafe_view", "expand", "unflatten", "repeat"})
CUTS = frozenset(
    {
        "slice",
        "narrow",
        "split",
        "split_with_sizes",
        "chunk",
        "select",
        "roll",
        "unfold",
        "index_select",
    }
)
MAKERS = frozenset(
    {
        "arange",
        "zeros",
        "ones",
        "full",
        "linspace",
        "meshgrid",
        "im2col",
        "col2im",
        "affine_grid_generator",
        "pad",
    }
)


def _sized(node: Node) -> bool:
    """Whether a call of a trace may hold the example's image size as a number."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    name, val = node.target._opname, node.meta.get("val")
    if name in RESHAPES and isinstance(val, Tensor):
        return val.dim() > 2 and any(isinstance(s, int) and s > 1 for s in val.shape[2:])
    if name in CUTS:
        dim = (
            node.args[2]
            if name.startswith(("split", "roll")) and len(node.args) > 2
            else node.args[1]
            if len(node.args) > 1
            else 0
        )
        return not isinstance(dim, int) or dim not in (0, 1)
    if name.startswith("avg_pool"):
        source, kernel = node.args[0].meta["val"], list(node.args[1])  # type: ignore[union-attr, arg-type]
        return tuple(source.shape[-len(kernel) :]) == tuple(kernel)
    return name in MAKERS or name.startswith(
        ("upsample", "_upsample", "constant_pad", "grid_sampler")
    )


def _attends(node: Node) -> bool:
    """A product of two activations."""
    name = getattr(node.target, "_opname", "")
    if not name.startswith(
        ("matmul", "bmm", "einsum", "scaled_dot_product", "_scaled_dot_product")
    ):
        return False
    return all(n.op == "call_function" for n in node.all_input_nodes[:2])


def _folds(node: Node) -> bool:
    """A reshape that splits image axes, as into windows or patches."""
    if getattr(node.target, "_opname", "") not in RESHAPES or not isinstance(node.args[0], Node):
        return False
    before, after = node.args[0].meta["val"].shape, node.meta["val"].shape
    image = len(before) > 2 and any(s != 1 for s in before[2:])
    return image and len(after) > len(before) and tuple(before[-2:]) != tuple(after[-2:])


def capture(model: nn.Module, batch: Batch) -> Captured:
    """Trace a copy of the model in eval mode with a free batch size.

    Args:
        model: any module; neither its tensors nor its mode are touched.
        batch: two examples.

    Raises:
        CaptureError: torch.export refuses; says where and what to do.
        UnsupportedError: dtype, meta or quantized parameters.
    """
    check_model(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        duplicate = copy_model(model).eval().requires_grad_(True)
        folded = fold_parametrizations(duplicate)
        try:
            register_dataclasses(duplicate(*batch.args, **batch.kwargs))
        except Exception as error:
            raise CaptureError(
                f"{type(model).__name__} does not run on the example "
                f"{[tuple(t.shape) for t in batch.tensors()]}: "
                f"{type(error).__name__}: {error}. Check that the loader yields what forward takes."
            ) from error
        with _quiet():
            program, fixed = _export(duplicate, batch)
        module = program.module(check_guards=False)
        if any(mutates(node) and not plain_inplace(node) for node in module.graph.nodes):
            module = program.run_decompositions({}).module(check_guards=False)
    assert isinstance(module, GraphModule)
    if not any(
        isinstance(v, torch.SymInt)
        for n in module.graph.nodes
        if n.op == "placeholder" and isinstance(n.meta.get("val"), Tensor)
        for v in n.meta["val"].shape
    ):
        notes: tuple[str, ...] = (
            "the batch size could not be left free: the result takes batches of two only",
        )
    else:
        notes = fixed
    notes += tuple(
        f"{weight}: its parametrization is folded into the weight" for weight in folded
    ) + canonicalize(module)
    return Captured(
        module,
        batch,
        notes
        + drop_unread_parameters(module, duplicate)
        + check_constants(module, duplicate, batch),
        read_original(model, folded),
    )
