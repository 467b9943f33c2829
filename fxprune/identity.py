"""What a run is of, said to the steps that a checkpoint keeps: they are of no use to another one.

What can be compared without work is compared first: versions, options and weights before the
loader is read, the examples before the model is captured, the graph last.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from fxprune.calibrate.loader import Calibration
from fxprune.capture.batch import device_of
from fxprune.distributed.steps import open_together
from fxprune.distributed.together import current
from fxprune.options import Options
from fxprune.resume.identity import fingerprint, tell
from fxprune.resume.steps import Steps, open_steps

APART = ("budget", "method", "groups", "progress", "checkpoint")
"""Options that are told by their parts, by what they give, or change nothing of the result."""


def open_checkpoint(folder: Any, model: nn.Module) -> AbstractContextManager[Steps]:
    """The steps that `checkpoint=` keeps: of several processes in the first one's folder.

    Args:
        folder: as the caller gave it; None where nothing is kept.
        model: the caller's.

    Raises:
        StorageError: as `fxprune.resume.steps.open_steps`.
    """
    group = current()
    if folder is None or group.size == 1:
        return open_steps(folder)
    return open_together(folder, group, device_of(model))


def require_call(steps: Steps, model: nn.Module, options: Options) -> None:
    """Versions, options and weights must be those of the checkpoint.

    Raises:
        StorageError: names what is not.
    """
    if steps.folder is None:
        return
    budget = options.budget
    own = {name: getattr(options, name) for name in (f.name for f in fields(options))}
    told = {name: tell(value) for name, value in own.items() if name not in APART}
    told |= {f.name: tell(getattr(budget, f.name)) for f in fields(budget)}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    steps.require(
        fxprune=str(getattr(sys.modules["fxprune"], "__version__", "")),
        the_code_of_fxprune=_code(),
        torch=str(torch.__version__),
        where_the_model_is=tell(sorted({str(tensor.device) for _, tensor in tensors})),
        method=options.method.name,
        **told,
    )
    steps.require(the_class_of_the_model=f"{type(model).__module__}.{type(model).__qualname__}")
    steps.require(the_weights_of_the_model=fingerprint(_flat(tensors)))


def require_examples(steps: Steps, calibration: Calibration) -> None:
    """The calibration examples must be those of the checkpoint, in their order.

    Raises:
        StorageError: names what is not.
    """
    if steps.folder is None:
        return
    marks = calibration.fingerprints
    steps.require(the_number_of_calibration_examples=str(calibration.size))
    steps.require(the_calibration_data=fingerprint(sorted(marks)))
    steps.require(
        the_order_of_the_calibration_data=fingerprint(marks),
        the_sizes_of_the_batches=fingerprint(
            [(kept.size, kept.sizes) for kept in calibration._kept]
        ),
        the_groups_of_the_examples=fingerprint((calibration.groups,)),
    )


def require_graph(steps: Steps, graph: GraphModule) -> None:
    """The captured graph must be that of the checkpoint, with its constants.

    Raises:
        StorageError: it is not.
    """
    if steps.folder is None:
        return
    tensors = [*graph.named_parameters(), *graph.named_buffers()]
    lines = [_tell_node(node) for node in graph.graph.nodes]
    steps.require(the_captured_graph=fingerprint((*lines, *_flat(tensors))))


def _tell_node(node: Any) -> tuple[str, ...]:
    target = node.target if isinstance(node.target, str) else _name(node.target)
    return node.op, node.name, target, str(node.args), str(node.kwargs)


def _name(function: Any) -> str:
    """An operator's own name, or a function's; no address."""
    named = isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))
    return str(function) if named else getattr(function, "__qualname__", type(function).__name__)


def _flat(pairs: Iterable[tuple[str, Any]]) -> Iterator[Any]:
    for pair in pairs:
        yield from pair


@cache
def _code() -> str:
    """Of this package's files: the version does not tell of changes on the way to the next."""
    root = Path(__file__).parent
    mark = hashlib.sha256()
    for path in sorted({*root.rglob("*.py"), *(root / "passes").glob("*.py")}):
        mark.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"sha256:{mark.hexdigest()}"
