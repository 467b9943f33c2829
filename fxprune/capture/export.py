"""Station 1: a module and an example batch become a canonical ATen graph over named parameters."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from fxprune.capture.batch import Batch
from fxprune.capture.bounds import imagine_examples, most_examples
from fxprune.capture.canonical import canonicalize
from fxprune.capture.constants import check_constants
from fxprune.capture.copying import run_copy
from fxprune.capture.free_sizes import (
    FreeSize,
    Places,
    check_size,
    find_free_sizes,
    find_held_lengths,
    find_held_sizes,
)
from fxprune.capture.functional import mutates, plain_inplace
from fxprune.capture.original import Original, read_original
from fxprune.capture.parametrizations import fold_parametrizations
from fxprune.capture.plain_masks import plain_masks
from fxprune.capture.returned import register_outputs
from fxprune.capture.supported import check_model
from fxprune.capture.tracing import NOTHING, quiet, trace, traced, unvalidated
from fxprune.capture.trials import answer
from fxprune.capture.unread import drop_unread_parameters
from fxprune.errors import CaptureError


@dataclass(frozen=True)
class Captured:
    """A model as a graph of ATen calls whose weights are `get_attr` nodes under their qualified
    names.

    Attributes:
        graph: the module; a copy, whose parameters may lie where the caller's lie. They are never
            written to.
        example: the batch of two it was traced on.
        notes: what the trace lost, for the report.
        original: what the model held before anything was folded or dropped.
        most: examples per call up to which the graph is the model's; None for any number.
        fixed: examples per call, where the graph takes no other number.
    """

    graph: GraphModule
    example: Batch
    notes: tuple[str, ...]
    original: Original
    most: int | None = None
    fixed: int | None = None


def _same_beyond(program: ExportedProgram, model: nn.Module, batch: Batch, most: int) -> bool:
    """Whether a trace of more examples than its guards allow is the same: operators choose their
    kernels by size (cdist), and that is no branch of the model's.
    """
    try:
        beyond = traced(model, imagine_examples(batch, most // batch.size + 1))
    except Exception:
        return False
    return most_examples(beyond) is None and beyond.graph_module.code == program.graph_module.code


def _out_of_place(program: ExportedProgram) -> ExportedProgram:
    """The program without calls that change a tensor."""
    try:
        decomposed: ExportedProgram = program.run_decompositions({})
    except Exception as error:
        raise CaptureError(
            "torch.export cannot do without a call that changes a tensor in place: "
            f"{str(error).splitlines()[0]} Write x = f(x) for it in the model's forward."
        ) from error
    return decomposed


def capture(
    model: nn.Module, batch: Batch, varied: Places = NOTHING, dynamic_shapes: Any = None
) -> Captured:
    """Trace a copy of the model in eval mode with a free batch size, and with lengths and image
    sizes free where the model allows it.

    Args:
        model: any module; neither its tensors nor its mode are touched.
        batch: two examples.
        varied: axes whose sizes differ between calibration batches.
        dynamic_shapes: which axes are free, in torch.export's convention; the number of examples
            is in any case. By default what the model allows.

    Raises:
        CaptureError: torch.export refuses; says where and what to do.
        UnsupportedError: dtype, meta or quantized parameters.
    """
    check_model(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        duplicate, folded = run_copy(model, partial(_run_once, batch=batch))
        with quiet(), plain_masks(), unvalidated():
            program, notes = trace(duplicate, batch, varied, dynamic_shapes)
            sizes, doubtful = _check_sizes(program, model, batch)
            if doubtful:
                program = traced(duplicate, batch)
                notes += tuple(dict.fromkeys(doubtful))
            sizes += _find_held(program, model, batch)
            most = most_examples(program)
            if most is not None and _same_beyond(program, duplicate, batch, most):
                most = None
        module, held_rows = program.module(check_guards=False), False
        if any(mutates(node) and not plain_inplace(node) for node in module.graph.nodes):
            module = _out_of_place(program).module(check_guards=False)
            # What torch makes of such a call may hold the example's sizes.
            held_rows = answer(module, batch.filled(batch.size + 1)) is None
    assert isinstance(module, GraphModule)
    # torch's own check of sizes and constants is not of those that matter, and is lost in copies.
    module._forward_pre_hooks.clear()
    fixed = batch.size if held_rows or not _frees_rows(module) else None
    notes = _notes_on_rows(notes, fixed, most)
    notes += tuple(
        f"{weight}: its parametrization is folded into the weight" for weight in folded
    ) + canonicalize(module, duplicate)
    held = [*sizes, *find_held_lengths(module, fixed)]
    notes += drop_unread_parameters(module, duplicate)
    notes += check_constants(module, duplicate, batch, most, held)
    return Captured(module, batch, notes, read_original(model, folded), most, fixed)


def _run_once(model: nn.Module, batch: Batch) -> tuple[nn.Module, dict[str, tuple[str, ...]]]:
    """Run a copy of a model and make known the types of what it returns.

    Returns:
        the copy, all of whose weights are plain parameters, and what these were computed from.
    """
    folded = fold_parametrizations(model.requires_grad_(True))
    try:
        register_outputs(model(*batch.args, **batch.kwargs))
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} does not run on the example "
            f"{[tuple(t.shape) for t in batch.tensors()]}: "
            f"{type(error).__name__}: {error}. Check that the loader yields what forward takes, in "
            "batches of the one size, where it takes no other number of examples."
        ) from error
    return model, folded


def _check_sizes(
    program: ExportedProgram, model: nn.Module, batch: Batch
) -> tuple[list[FreeSize], list[str]]:
    """Free sizes at which the trace does what the model does, and notes on those at which it does
    something else.
    """
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    module._forward_pre_hooks.clear()
    sizes, notes = list[FreeSize](), list[str]()
    found = find_free_sizes(program, module)
    if not found:
        return sizes, notes
    check = partial(_check_each, module, batch=batch, sizes=found)
    for size, checked in zip(found, run_copy(model, check), strict=True):
        if checked is None:
            notes.append(
                f"the size {size.example} of the inputs could not be left free: at others the "
                "model does something else than at the example's"
            )
        else:
            sizes.append(checked)
    return ([], notes) if notes else (sizes, notes)


def _find_held(program: ExportedProgram, model: nn.Module, batch: Batch) -> list[FreeSize]:
    """Sizes that only the trace holds."""
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    module._forward_pre_hooks.clear()
    return run_copy(model, partial(find_held_sizes, module, batch=batch))


def _check_each(
    module: GraphModule, model: nn.Module, batch: Batch, sizes: list[FreeSize]
) -> list[FreeSize | None]:
    return [check_size(module, model, batch, size) for size in sizes]


def _notes_on_rows(notes: tuple[str, ...], fixed: int | None, most: int | None) -> tuple[str, ...]:
    """Notes on sizes, and on numbers of examples that the graph does not take."""
    if fixed is not None:
        free = "the batch size could not be left free: the result takes batches of"
        notes = (f"{free} {fixed} examples only",)
    if most is not None:
        notes += (f"the model does something else on more than {most} examples in one call",)
    return notes


def _frees_rows(module: GraphModule) -> bool:
    """Whether an input of a trace has a free size."""
    inputs = (n.meta.get("val") for n in module.graph.nodes if n.op == "placeholder")
    shapes = (value.shape for value in inputs if isinstance(value, Tensor))
    return any(isinstance(size, torch.SymInt) for shape in shapes for size in shape)


def capture_either(
    model: nn.Module,
    batch: Batch,
    given: Batch,
    usual: bool = True,
    varied: Places = NOTHING,
    dynamic_shapes: Any = None,
) -> Captured:
    """Capture with a free number of examples, or with the one that is given where the model takes
    no other.

    Args:
        model: any module.
        batch: two examples.
        given: as many as the caller gives.
        usual: whether they come so in every call; else two are taken where the model runs on two.
        varied, dynamic_shapes: as for `capture`.

    Raises:
        CaptureError, UnsupportedError: as `capture`.
    """
    try:
        captured = capture(model, batch, varied, dynamic_shapes)
    except CaptureError as error:
        if given.size == batch.size or dynamic_shapes is not None:
            raise
        try:
            return capture(model, given, varied)
        except CaptureError:
            raise error from None
    if captured.fixed is None or captured.fixed == given.size or not usual:
        return captured
    return capture(model, given, varied, dynamic_shapes)
