"""Everything a caller may choose beside model and data: one frozen value, checked once."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from fxprune.calibrate.groups import Groups, check_groups
from fxprune.calibrate.padding import Mask, check_mask
from fxprune.capture.supported import find_device
from fxprune.errors import BudgetError, CaptureError, PlanError, UnsupportedError
from fxprune.label.named import read_names
from fxprune.plans.budget import Budget, make_budget
from fxprune.plans.methods import METHODS, Method
from fxprune.plans.numbers import is_number, read_number
from fxprune.profile.selectors import SELECTORS
from fxprune.timing.workload import Workload
from fxprune.verify.judge import Decision, check_decision

RoundTo = int | Literal["auto"]
"""Widths are multiples of this; `auto` for what the device's kernels use well."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a public call was asked for; the defaults of every public keyword stand here.

    Attributes:
        budget: what to reach.
        method: how; an entry of the method table.
        selector: which channels go first, where the method leaves it to the caller.
        decision: when two outputs are the same decision; None to infer it (`fxprune.verify.infer`).
        groups: which calibration examples belong together; None where each is on its own.
        example: what to trace with; None for the first examples of the loader.
        dynamic_shapes: which axes of the inputs are free, in torch.export's convention; None for
            what the model allows.
        mask: which tokens of the examples are padding; see `fxprune.calibrate.padding.Mask`.
        uniform_across: names (globs) of repeated blocks in which the widths are equal.
        keep_class: whether the result is of the caller's class; "config" where it is to be built of
            a configuration.
        ignore: names (globs) of modules and parameters that keep their shape.
        keep: least share of the channels to keep, by name (glob) of a module.
        round_to: widths are multiples of this; None for `auto` where latency is limited, else 1.
        workload: what latency is measured on.
        progress: show one bar for the call, with the time left, on a terminal or in a notebook.
        seed: of the split and of all that is drawn.
        memory: bytes of activations held before they spill to disk.
        effort: candidates that are tried.
        part: whether the model is a part of another, whose outputs are no decisions.
        checkpoint: folder in which what is done is kept, so that a run that was killed goes on.
        device: on which the work is done, wherever the model is; None for where the model is.

    Raises:
        BudgetError, UnsupportedError, PlanError: a value is of the wrong kind; says which and
            what to give.
    """

    budget: Budget = field(default_factory=make_budget)
    method: Method = METHODS["auto"]
    selector: str = "output-aware"
    decision: Decision = None
    groups: Groups | None = None
    example: Any = None
    dynamic_shapes: Any = None
    mask: Mask = None
    uniform_across: Sequence[str] | str = ()
    keep_class: bool | Literal["config"] = False
    ignore: Sequence[str] | str = ()
    keep: Mapping[str, float] | None = None
    round_to: RoundTo | None = None
    workload: Workload = Workload()
    progress: bool = True
    seed: int = 0
    memory: float = 2e9
    effort: int = 2
    part: bool = False
    checkpoint: str | os.PathLike[str] | None = None
    device: str | torch.device | None = None

    def __post_init__(self) -> None:
        check_decision(self.decision)
        check_groups(self.groups)
        check_mask(self.mask)
        for name in ("round_to", "seed", "memory", "effort"):
            object.__setattr__(self, name, read_number(getattr(self, name)))
        self._check_kinds()
        if self.device is not None:
            object.__setattr__(self, "device", find_device(self.device))
        if not isinstance(self.selector, str) or self.selector not in SELECTORS:
            raise UnsupportedError(
                f"selector={self.selector!r} is not one of {', '.join(SELECTORS)}."
            )
        named = self.round_to is None or isinstance(self.round_to, str) and self.round_to == "auto"
        if not named and not _counts(self.round_to):
            raise BudgetError(
                f"round_to={self.round_to!r}: widths are multiples of a whole number, 1 or more, "
                'or "auto".'
            )
        if not isinstance(self.progress, (bool, int, np.bool_)):
            raise UnsupportedError(f"progress={self.progress!r}: bars are shown or not.")
        if not _counts(self.effort):
            raise BudgetError(
                f"effort={self.effort!r}: how many plans are tried is a whole number, 1 (uniform "
                "widths, untried) or more."
            )

    def _check_kinds(self) -> None:
        """Check what only goes wrong later, when hours may have passed."""
        seed, memory, ignore = self.seed, self.memory, self.ignore
        if not is_number(seed) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise BudgetError(f"seed={seed!r}: a seed is a whole number, 0 or more.")
        if not is_number(memory) or not memory >= 0:
            raise BudgetError(f"memory={memory!r}: give a number of bytes, such as 2e9.")
        check_dynamic_shapes(self.dynamic_shapes)
        if not isinstance(self.workload, Workload):
            raise BudgetError(
                f"workload={self.workload!r}: give a fxprune.Workload, such as "
                "fxprune.Workload(batch=8)."
            )
        object.__setattr__(self, "ignore", read_names(ignore, "ignore"))
        if not isinstance(self.keep_class, bool) and self.keep_class != "config":
            raise UnsupportedError(
                f"keep_class={self.keep_class!r}: give True for the class of the model, or "
                '"config" for what a configuration of transformers can say.'
            )
        uniform = read_names(self.uniform_across, "uniform_across")
        object.__setattr__(self, "uniform_across", uniform)
        if self.keep is not None:
            if not isinstance(self.keep, Mapping):
                raise PlanError(
                    f"keep={self.keep!r}: give the least share to keep by names (globs) of "
                    'modules, such as {"layer4.*": 0.8}.'
                )
            kept = {name: read_number(share) for name, share in self.keep.items()}
            for name, share in kept.items():
                if not isinstance(name, str) or not is_number(share) or not 0 < share <= 1:
                    raise PlanError(
                        f"keep[{name!r}]={share!r}: give the least share of the channels to keep, "
                        "above 0 and at most 1, by the name (glob) of a module."
                    )
            object.__setattr__(self, "keep", kept)

    @property
    def multiple(self) -> RoundTo:
        """What widths are multiples of, the default resolved."""
        if self.round_to is None:
            return 1 if self.budget.latency is None else "auto"
        return self.round_to

    @property
    def timed(self) -> bool:
        """Whether time counts: layers then stay whole."""
        return self.budget.latency is not None or self.multiple == "auto"

    @property
    def chosen_selector(self) -> str:
        """The method's selector, or the caller's where the method leaves it open."""
        return self.method.selector or self.selector


def check_dynamic_shapes(value: object) -> None:
    """Refuse what is no nest of free axes.

    Raises:
        CaptureError: says what to give.
    """
    if value is not None and not isinstance(value, (Mapping, tuple, list)):
        raise CaptureError(
            f"dynamic_shapes={value!r}: give the free axes by the names of arguments, as "
            'torch.export.export takes them, such as {"input_ids": {1: torch.export.Dim.DYNAMIC}}.'
        )


def _counts(value: object) -> bool:
    """A whole number, 1 or more; True is not one."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


DEFAULTS = Options()
"""What every public keyword is where the caller leaves it out."""
