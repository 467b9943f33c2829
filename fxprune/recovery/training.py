"""How `recover` trains: one frozen value, checked once; every default stands here."""

import math
from dataclasses import dataclass, fields

from fxprune.errors import BudgetError, UnsupportedError
from fxprune.plans.numbers import is_number, read_number

OPTIMIZERS = ("soap", "adam", "sgd")
SCHEDULES = ("cosine", "linear", "step", "constant")
PRECISIONS = (None, "no", "fp16", "bf16", "fp8")
DROPS = (0.4, 0.8)
"""Shares of the budget after which the schedule `step` divides the rate by 10 (Wang et al. 2022,
PRACTISE, sec. 4).
"""


@dataclass(frozen=True, kw_only=True)
class Training:
    """The knobs of `fxprune.recover`; the defaults suit thin networks and few examples.

    Attributes:
        optimizer: `soap` (Adam along the axes in which a layer's gradients vary independently;
            Vyas et al. 2024), `adam` (decoupled weight decay; Loshchilov & Hutter 2019) or `sgd`
            (Nesterov).
        rate: largest learning rate; by default 1e-3 for soap, 3e-4 for adam and 0.01 for sgd.
        momentum: of sgd.
        weight_decay: of matrices and kernels; vectors (biases, norms) have none.
        warmup: share of the budget in which the rate rises from 0, at the start and where training
            goes back.
        schedule: how it falls after that: `cosine`, `linear`, `step` (tenfold at 40 and 80 % of the
            budget) or `constant`.
        batch: examples per step and process; fewer where the loader's batches are smaller.
        accumulate: batches whose gradients are summed before a step.
        average: decay of the moving average of the weights that is judged and handed back; 0 for
            the weights themselves.
        features: weight in the loss of what the last layers before the outputs give, beside the
            model's outputs.
        label_share: under labels=True, the share of cross entropy against the labels in the loss of
            the outputs.
        label_smoothing: of that cross entropy.
        freeze_statistics: normalizations keep their running statistics.
        evaluations: how often the acceptance examples are looked at, evenly over the budget.
        patience: evaluations in a row without one that is accepted, after which training stops.
        save_seconds: seconds between two checkpoints.
        mixed_precision: `no`, `fp16`, `bf16` or `fp8`; None leaves it to `accelerate launch`.

    Raises:
        BudgetError, UnsupportedError: a value is of the wrong kind; says which and what to give.
    """

    optimizer: str = "soap"
    rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 0.05
    schedule: str = "cosine"
    batch: int = 32
    accumulate: int = 1
    average: float = 0.0
    features: float = 5.0
    label_share: float = 0.5
    label_smoothing: float = 0.0
    freeze_statistics: bool = True
    evaluations: int = 10
    patience: int = 10
    save_seconds: float = 30.0
    mixed_precision: str | None = None

    def __post_init__(self) -> None:
        choices = {
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "mixed_precision": PRECISIONS,
            "freeze_statistics": (True, False),
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in choices:
                if value not in choices[field.name]:
                    listed = ", ".join(map(str, choices[field.name]))
                    raise UnsupportedError(f"{field.name}={value!r} is not one of {listed}.")
                continue
            object.__setattr__(self, field.name, read_number(value))
        for name in ("batch", "accumulate", "evaluations", "patience"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise BudgetError(f"{name}={value!r}: give a whole number, 1 or more.")
        for name in ("momentum", "warmup", "average", "label_smoothing"):
            self._require(name, "a number from 0 to less than 1", 0.0, 1.0)
        self._require("label_share", "a share from 0 to 1", 0.0, 1.0 + 1e-12)
        for name in ("weight_decay", "features", "save_seconds"):
            self._require(name, "a number, 0 or more", 0.0, float("inf"))
        if self.rate is not None:
            self._require("rate", "a learning rate above 0", 1e-30, float("inf"))

    def _require(self, name: str, wanted: str, low: float, below: float) -> None:
        value = getattr(self, name)
        if not is_number(value) or not low <= value < below:
            raise BudgetError(f"{name}={value!r}: give {wanted}.")

    @property
    def peak(self) -> float:
        """The largest learning rate, the default resolved."""
        if self.rate is not None:
            return self.rate
        return RATES[self.optimizer]

    def rate_at(self, done: float, began: float = 0.0) -> float:
        """The learning rate when a share of the budget is spent.

        Args:
            done: from 0 to 1.
            began: when the steps began that it is for.
        """
        rate = self.peak * min(1.0, (done - began + 1e-3) / (self.warmup + 1e-3))
        rest = min(1.0, max(0.0, done - self.warmup) / (1 - self.warmup))
        if self.schedule == "cosine":
            return rate * (1 + math.cos(math.pi * rest)) / 2
        if self.schedule == "linear":
            return rate * (1 - rest)
        if self.schedule == "step":
            return rate * 0.1 ** sum(done >= drop for drop in DROPS)
        return rate


RATES = {"soap": 1e-3, "adam": 3e-4, "sgd": 0.01}
"""Default learning rates."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long to train: exactly one of the three.

    Attributes:
        minutes: wall time of the training, evaluations included.
        steps: of the optimizer.
        epochs: passes over the examples that are trained on.

    Raises:
        BudgetError: none or several are given, or the number is no budget.
    """

    minutes: float | None = None
    steps: int | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        given = {f.name: read_number(getattr(self, f.name)) for f in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            raise BudgetError(
                "Say how long to train by one of minutes=, steps= or epochs=, such as minutes=10; "
                f"{len(given)} are given."
            )
        ((name, value),) = given.items()
        if not is_number(value) or not 0 < value < float("inf"):
            raise BudgetError(f"{name}={value!r}: give a number above 0.")
        if name == "steps" and not isinstance(value, int):
            raise BudgetError(f"steps={value!r}: steps are a whole number, 1 or more.")
        object.__setattr__(self, name, value)

    @property
    def seconds(self) -> float | None:
        """Of training; None where steps are counted."""
        return None if self.minutes is None else 60 * self.minutes

    def total_steps(self, examples: int, per_step: int) -> int | None:
        """Steps of the optimizer; None where time is counted.

        Args:
            examples: that are trained on.
            per_step: examples of all processes in one step.
        """
        if self.epochs is not None:
            return max(1, math.ceil(self.epochs * examples / per_step))
        return self.steps
