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
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fxprune.capture.batch import Batch
from fxprune.capture.bounds import most_examples
from fxprune.capture.canonical import canonicalize
from fxprune.capture.constants import check_constants
from fxprune.capture.copying import copy_model
from fxprune.capture.functional import mutates, plain_inplace
from fxprune.capture.image_sizes import attends, holds_image_size, splits_image
from fxprune.capture.original import Original, read_original
from fxprune.capture.parametrizations import fold_parametrizations
from fxprune.capture.plain_masks import plain_masks
from fxprune.capture.returned import register_dataclasses
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
        most: examples per call up to which the graph is the model's; None for any number.
    """

    graph: GraphModule
    example: Batch
    notes: tuple[str, ...]
    original: Original
    most: int | None = None


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
        holds_image_size(node) for node in program.graph.nodes
    ):
        return program, ()
    # Windows, grids and attention make symbolic sizes that take minutes to simplify.
    if not any(attends(node) or splits_image(node) for node in program.graph.nodes):
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


def _same_beyond(
    program: torch.export.ExportedProgram, model: nn.Module, batch: Batch, most: int
) -> bool:
    """Whether a trace of more examples than its guards allow is the same: operators choose their
    kernels by size (cdist), and that is no branch of the model's.
    """
    times = most // batch.size + 1
    more = batch.map(
        lambda t: torch.cat([t] * times) if t.dim() and t.shape[0] == batch.size else t
    )
    try:
        beyond = _traced(model, more, spatial=False)
    except Exception:
        return False
    return most_examples(beyond) is None and beyond.graph_module.code == program.graph_module.code


def _out_of_place(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without calls that change a tensor."""
    try:
        decomposed: torch.export.ExportedProgram = program.run_decompositions({})
    except Exception as error:
        raise CaptureError(
            "torch.export cannot do without a call that changes a tensor in place: "
            f"{str(error).splitlines()[0]} Write x = f(x) for it in the model's forward."
        ) from error
    return decomposed


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
        with _quiet(), plain_masks():
            program, fixed = _export(duplicate, batch)
            most = most_examples(program)
            if most is not None and _same_beyond(program, duplicate, batch, most):
                most = None
        module = program.module(check_guards=False)
        if any(mutates(node) and not plain_inplace(node) for node in module.graph.nodes):
            module = _out_of_place(program).module(check_guards=False)
    assert isinstance(module, GraphModule)
    # torch's own check of sizes and constants is not of those that matter, and is lost in copies.
    module._forward_pre_hooks.clear()
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
    if most is not None:
        notes += (f"the model does something else on more than {most} examples in one call",)
    notes += tuple(
        f"{weight}: its parametrization is folded into the weight" for weight in folded
    ) + canonicalize(module, duplicate)
    return Captured(
        module,
        batch,
        notes
        + drop_unread_parameters(module, duplicate)
        + check_constants(module, duplicate, batch, most),
        read_original(model, folded),
        most,
    )
