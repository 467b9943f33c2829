"""The attempts at a trace, from the freest sizes of the inputs to those of the example."""

import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from functools import partial
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fxprune.capture.batch import Batch
from fxprune.capture.constant_buffers import constant_buffers
from fxprune.capture.free_sizes import Places, image_axes_of, lengths_of, shapes_to_ask
from fxprune.capture.image_sizes import attends, holds_image_size, splits_image
from fxprune.capture.recurrent_shapes import recurrent_by_shapes
from fxprune.errors import CaptureError

NOTHING: Places = frozenset()
MOST_TERMS = 20_000
"""Terms of symbolic sizes of all results of a trace together, above which it is given up: what
torch then spends on simplifying them grows faster than their number. A feature pyramid over 80
residual blocks has 5,000.
"""


def trace(
    model: nn.Module, batch: Batch, varied: Places, asked: Any
) -> tuple[ExportedProgram, tuple[str, ...]]:
    """Trace with a free number of examples, and with lengths and image sizes free where the model
    allows it; at the example's sizes where it allows nothing.

    Args:
        model: a copy.
        batch: to trace on.
        varied: axes that must be free: their sizes differ between calibration batches.
        asked: free axes as the caller names them, in torch.export's convention.

    Returns:
        the program, and notes for the report.

    Raises:
        CaptureError: torch.export refuses.
    """
    if asked is not None:
        return _traced_as_asked(model, batch, asked), ()
    images = image_axes_of(batch)
    lengths = (lengths_of(batch) | varied) - images
    free = [lengths, NOTHING] if lengths else [NOTHING]
    attempts: list[Callable[[], ExportedProgram]] = [
        *(partial(traced, model, batch, axes) for axes in free),
        lambda: _traced_after_another_size(model, batch),
        # Reading the source, not only running it, leaves free what Python makes an integer of,
        # such as len(x).
        *(partial(traced, model, batch, axes, strict=True) for axes in free),
        *(partial(_traced_with_constants, model, batch, axes) for axes in free),
    ]
    failed: list[Exception] = []
    for attempt in attempts:
        try:
            program = attempt()
            break
        except Exception as error:
            failed.append(error)
    else:
        return _fixed(model, batch, failed[-1]), ()
    program, notes = _with_free_images(
        model, batch, program, lengths, images, bool(varied & images)
    )
    if failed:
        notes += (
            f"torch.export traced the model in attempt {len(failed) + 1} of at most "
            f"{len(attempts) + 2}; the first failed: {type(failed[0]).__name__}: "
            f"{_first_line(failed[0])}",
        )
    known = _with_known_sizes(model, batch, program, free)
    if known is not None:
        notes += ("torch.export traced the model once more: its buffers hold sizes",)
    return known or program, notes


def _with_known_sizes(
    model: nn.Module, batch: Batch, program: ExportedProgram, free: Iterable[Places]
) -> ExportedProgram | None:
    """A trace that knows the sizes which `program` takes from numbers in buffers; None where there
    are none, or they stay unknown.
    """
    if not any(True for _ in model.buffers()) or not _has_unknown_sizes(program):
        return None
    for axes in free:
        with suppress(Exception):
            found = _traced_with_constants(model, batch, axes)
            if not _has_unknown_sizes(found):
                return found
    return None


def _has_unknown_sizes(program: ExportedProgram) -> bool:
    """Whether a tensor's size depends on what another one holds."""
    values = pytree.tree_leaves([node.meta.get("val") for node in program.graph.nodes])
    sizes = [size for value in values if isinstance(value, Tensor) for size in value.shape]
    return any(isinstance(size, torch.SymInt) and size.node.hint is None for size in sizes)


def _with_free_images(
    model: nn.Module,
    batch: Batch,
    program: ExportedProgram,
    lengths: Places,
    images: Places,
    needed: bool,
) -> tuple[ExportedProgram, tuple[str, ...]]:
    """A trace with free image sizes where `program` would hold the example's otherwise."""
    nodes = list(program.graph.nodes)
    if not images or not any(map(holds_image_size, nodes)):
        return program, ()
    # Windows, grids and attention make symbolic sizes that take minutes to simplify.
    if needed or not any(attends(node) or splits_image(node) for node in nodes):
        with suppress(Exception), _FewTerms():
            return traced(model, batch, images | lengths), ()
    return program, (
        "the image size could not be left free: the result takes images of the example's size only",
    )


class _FewTerms(TorchFunctionMode):
    """Gives up a trace whose symbolic sizes have grown out of hand."""

    def __init__(self) -> None:
        super().__init__()
        self.terms = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            symbolic: Any = [s for s in result.shape if isinstance(s, torch.SymInt)]
            self.terms += sum(int(size.node.expr.count_ops()) + 1 for size in symbolic)
        if self.terms > MOST_TERMS:
            raise OverflowError
        return result


def traced(
    model: nn.Module,
    batch: Batch,
    free: Places = NOTHING,
    strict: bool = False,
    asked: Any = None,
) -> ExportedProgram:
    """One attempt.

    Args:
        model: a copy.
        batch: to trace on.
        free: axes that are free where the model allows it.
        strict: read the source, too.
        asked: as `trace` takes it.
    """
    # An attempt leaves marks of free axes on its tensors.
    batch = batch.map(torch.clone)
    with _named_keywords(model, batch), recurrent_by_shapes():
        shapes = shapes_to_ask(model, batch, free, asked)
        return torch.export.export(
            model, batch.args, batch.kwargs, dynamic_shapes=shapes, strict=strict
        )


@contextmanager
def _named_keywords(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Let the forward of a copy name the arguments that it takes as `**kwargs`.

    torch.export looks their shapes up both by their own names and as one argument of nested ones,
    and leaves nothing free.
    """
    signature = inspect.signature(model.forward)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    taken = {p.name for p in own}
    if len(own) == len(signature.parameters) or not batch.kwargs.keys() - taken:
        yield
        return
    forward = model.forward

    @functools.wraps(forward)
    def named(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    more = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in batch.kwargs]
    own += [parameter for parameter in more if parameter.name not in taken]
    named.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    held = "forward" in vars(model)
    model.forward = named
    try:
        yield
    finally:
        if held:
            model.forward = forward
        else:
            del model.forward


def _traced_as_asked(model: nn.Module, batch: Batch, asked: Any) -> ExportedProgram:
    try:
        return traced(model, batch, asked=asked)
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(
            f"torch.export cannot leave the axes of dynamic_shapes= free in "
            f"{type(model).__name__}: {_first_line(error)}. Leave out those that the model does "
            "not allow, or leave dynamic_shapes= out: what the model allows is found then."
        ) from error


def _traced_after_another_size(model: nn.Module, batch: Batch) -> ExportedProgram:
    """Trace once more after a run on one example.

    A model that keeps what it made for the last shape (anchors, positions) compares that with the
    traced shape, which ties the two.
    """
    with suppress(Exception):
        one = batch.part(0, 1)
        model(*one.args, **one.kwargs)
    return traced(model, batch)


def _traced_with_constants(model: nn.Module, batch: Batch, free: Places) -> ExportedProgram:
    with constant_buffers(model, batch):
        return traced(model, batch, free)


def _fixed(model: nn.Module, batch: Batch, error: Exception) -> ExportedProgram:
    """Trace at the example's shapes; raises what stood in the way of a free batch size where that
    fails too.
    """
    for made in (nullcontext(), constant_buffers(model, batch)):
        with suppress(Exception), made, recurrent_by_shapes():
            held = batch.map(torch.clone)
            return torch.export.export(model, held.args, held.kwargs, strict=False)
    raise CaptureError(
        f"torch.export could not capture {type(model).__name__} on inputs "
        f"{[tuple(t.shape) for t in batch.tensors()]}: "
        f"{type(error).__name__}: {_first_line(error)}. If a part of the model depends on the "
        "data (detection post-processing, generation "
        'loops), compress the other parts in place with targets=["name", ...].'
    ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the log of attempts that torch.export gives up: what it means reaches the caller as
    an error.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        # It also prints whole graphs on the error stream.
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore", FutureWarning)
            # Recurrent layers of torch keep their weights in a list of their own too.
            warnings.filterwarnings("ignore", r".*_flat_weights.*assigned during export")
            yield
    finally:
        logging.disable(before)


@contextmanager
def unvalidated() -> Iterator[None]:
    """Without the checks that distributions make of their parameters' values, which are no part of
    what a model computes.
    """
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
