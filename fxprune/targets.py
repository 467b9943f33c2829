"""Compress named submodules in place inside a model that cannot be captured whole."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.spill import Spill
from fxprune.capture.batch import Batch, make_batch
from fxprune.capture.copying import copy_model
from fxprune.capture.undisturbed import undisturbed
from fxprune.distributed.together import together
from fxprune.errors import BudgetError, CalibrationError, PlanError, UnsupportedError
from fxprune.identity import open_checkpoint
from fxprune.label.named import read_names
from fxprune.options import Options
from fxprune.pipeline import compress_whole
from fxprune.verify.decisions import close


class _Reached(Exception):
    """The submodule was called: nothing after it matters."""


class Passing:
    """A loader of what one submodule is called with while the whole model runs on the
    calibration data.

    Args:
        model: the whole model.
        name: of the submodule.
        calibration: examples for the whole model.
    """

    def __init__(self, model: nn.Module, name: str, calibration: Calibration):
        self._model, self._name, self._calibration = model, name, calibration
        self._labels: np.ndarray | None = None

    def labels(self, batch: Batch) -> np.ndarray:
        """The groups of the examples in the batch that was handed out last.

        Raises:
            CalibrationError: what the submodule is called with has not a row for every example.
        """
        assert self._labels is not None
        if batch.size != len(self._labels):
            raise CalibrationError(
                f"{self._name} is called with {batch.size} rows for {len(self._labels)} examples, "
                "so that groups= cannot be followed into it. Leave groups= out with targets=."
            )
        return self._labels

    def __iter__(self) -> Iterator[Batch]:
        module = self._model.get_submodule(self._name)
        called: list[Batch] = []

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            detached = pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), (args, kwargs))
            called.append(make_batch(*detached))
            raise _Reached

        self._model.eval()
        for numbers, batch in self._calibration.numbered():
            self._labels = self._calibration.groups[numbers]
            hook = module.register_forward_pre_hook(keep, with_kwargs=True)
            try:
                with torch.no_grad():
                    self._model(*batch.args, **batch.kwargs)
            except _Reached:
                pass
            finally:
                hook.remove()
            yield from called
            called.clear()


def resolve_targets(model: nn.Module, targets: Sequence[str] | str) -> list[str]:
    """Names of submodules; globs are expanded, and none lies inside another.

    Raises:
        PlanError: a name matches nothing, or one target holds another.
    """
    patterns = read_names(targets, "targets")
    names = [n for n, _ in model.named_modules() if n]
    found: list[str] = []
    for pattern in patterns:
        matching = [n for n in names if fnmatchcase(n, pattern)]
        if not matching:
            raise PlanError(
                f"targets={pattern!r} matches no submodule. The model's submodules begin with "
                f"{', '.join(names[:8])}."
            )
        found += [n for n in matching if n not in found]
    for name in found:
        inside = next((o for o in found if name.startswith(o + ".")), None)
        if inside:
            raise PlanError(f"targets: {name} lies inside {inside}. Name one of them.")
    if not found:
        raise PlanError("targets is empty. Name at least one submodule.")
    return found


def compress_targets(
    model: nn.Module, loader: Any, targets: Sequence[str] | str, options: Options
) -> nn.Module:
    """A copy of the model with the named submodules compressed; budgets count each target on its
    own.

    Args:
        model: not changed.
        loader: calibration examples for the whole model.
        targets: names or globs of submodules.
        options: for each of them.

    Returns:
        the copy in eval mode; each target is a GraphModule with a report of its own.

    Raises:
        PlanError: a name matches nothing; otherwise as `compress`, with the target's name.
    """
    with together():
        return _compress_targets(model, loader, targets, options)


def _compress_targets(
    model: nn.Module, loader: Any, targets: Sequence[str] | str, options: Options
) -> nn.Module:
    names = resolve_targets(model, targets)
    if options.keep_class:
        raise UnsupportedError(
            "keep_class= and targets=: with targets= the model is of its own class anyway, and its "
            "targets are graphs. Leave one of them out."
        )
    if options.budget.agreement is not None:
        raise BudgetError(
            "targets= needs flops= or params=: agreement is certified on a whole model's decisions."
        )
    # A part's outputs are no decisions; they are to stay as they are.
    judged = replace(options, decision=options.decision or close(), part=True)
    result = copy_model(model).eval()
    with open_checkpoint(options.checkpoint, model) as steps:
        with undisturbed(model, options.seed):
            store = Spill(options.memory)
            calibration = Calibration(result, loader, store=store, groups=options.groups)
        for name in names:
            passing = Passing(result, name, calibration)
            groups = None if options.groups is None else passing.labels
            own = replace(judged, groups=groups, checkpoint=steps.of_part(name))
            try:
                small = compress_whole(result.get_submodule(name), passing, own)
            except CalibrationError as error:
                raise CalibrationError(f"Target {name}: {error}") from error
            parent, _, leaf = name.rpartition(".")
            setattr(result.get_submodule(parent) if parent else result, leaf, small)
    return result
