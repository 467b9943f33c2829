"""One abuse: what is called with what, and whether what came of it may come of it."""

import random
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.errors import FxpruneError

PATIENCE = 10.0
"""Seconds after which an error comes too late."""
LIMIT = 40
"""Seconds after which an abuse is stopped."""
Verdict = Literal["works", "refused", "violation"]


@dataclass(frozen=True)
class Abuse:
    """One call.

    Attributes:
        name: the call as one would write it.
        kind: of abuse, for the table.
        prepare: makes arguments and hands on what runs them, and what must not change.
        python: whether Python itself refuses it, with a TypeError.
        process: whether it stands for a process, whose random state is its own.
    """

    name: str
    kind: str
    prepare: Callable[[], tuple[Callable[[], Any], list[Any]]]
    python: bool = False
    process: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of an abuse.

    Attributes:
        verdict: works, refused as promised, or violation.
        text: the error, or what is wrong.
    """

    abuse: Abuse
    verdict: Verdict
    text: str
    seconds: float


class Stopped(BaseException):
    """It took too long."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Stops what runs longer, where the system can."""

    def stop(*_: Any) -> None:
        raise Stopped

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def state_of(things: list[Any]) -> list[Any]:
    """What must not change: random state and settings, and the models' tensors, modes and hooks."""
    numpy_state: Any = np.random.get_state()
    held: list[Any] = [
        torch.random.get_rng_state().numpy().tobytes(),
        (numpy_state[1].tobytes(), *numpy_state[2:]),
        random.getstate(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
    ]
    for model in things:
        if isinstance(model, nn.Module):
            held += [_tensors(model), _layers(model)]
    return held


PARTS = (
    *("random state", "NumPy's random state", "Python's random state", "threads"),
    *("default dtype", "gradient mode"),
)


def _tensors(model: nn.Module) -> list[Any]:
    found: list[Any] = []
    with suppress(Exception):
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            found.append((name, id(tensor), tensor.requires_grad, tensor.dtype, tensor._version))
            found += [_bytes(tensor), None if tensor.grad is None else _bytes(tensor.grad)]
    return found


def _bytes(tensor: Tensor) -> Any:
    try:
        return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()
    except Exception:
        return str(type(tensor))


def _layers(model: nn.Module) -> list[Any]:
    return [
        (name, id(m), m.training, [len(v) for k, v in vars(m).items() if k.endswith("_hooks")])
        for name, m in model.named_modules()
    ]


def judge(abuse: Abuse) -> Outcome:
    """Run it quietly, and say what came of it."""
    with (
        warnings.catch_warnings(),
        redirect_stdout(StringIO()),
        redirect_stderr(StringIO()),
        torch.random.fork_rng(),
    ):
        warnings.simplefilter("ignore")
        run, watched = abuse.prepare()
        before = state_of(watched)
        start = time.monotonic()
        verdict: Verdict = "works"
        text = ""
        try:
            with limited(LIMIT):
                run()
        except FxpruneError as error:
            verdict, text = _refused(error)
        except Stopped:
            verdict, text = "violation", f"stopped after {LIMIT} s"
        except TypeError as error:
            verdict, text = _raised(error)
            if abuse.python and "unexpected keyword argument" in str(error):
                verdict, text = "refused", str(error)
        except BaseException as error:
            verdict, text = _raised(error)
        seconds = time.monotonic() - start
        changed = "" if abuse.process else _changed(before, state_of(watched))
    if changed:
        return Outcome(abuse, "violation", f"{changed} changed ({text or verdict})", seconds)
    # Whether a budget can be reached is found by trying.
    if verdict == "refused" and seconds > PATIENCE and "reach" not in text:
        return Outcome(abuse, "violation", f"refused after {seconds:.0f} s: {text}", seconds)
    return Outcome(abuse, verdict, text, seconds)


def _refused(error: FxpruneError) -> tuple[Verdict, str]:
    text = " ".join(str(error).split())
    if len(text) < 15:
        return "violation", f"an error that says nothing: {text!r}"
    return "refused", f"{type(error).__name__}: {text}"


def _raised(error: BaseException) -> tuple[Verdict, str]:
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        inside = "fxprune" in at.tb_next.tb_frame.f_code.co_filename
        if not inside and "fxprune" in at.tb_frame.f_code.co_filename:
            break
        at = at.tb_next
    where = "" if at is None else f" ({at.tb_frame.f_code.co_name}:{at.tb_lineno})"
    return "violation", f"{type(error).__name__}: {' '.join(str(error).split())[:160]}{where}"


def _changed(before: list[Any], after: list[Any]) -> str:
    """What is not as it was."""
    for at, (old, new) in enumerate(zip(before, after, strict=True)):
        if old != new:
            return PARTS[at] if at < len(PARTS) else "the model"
    return ""
