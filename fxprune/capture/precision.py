"""Full single precision: what is summed, solved and compared is not rounded to TF32 or bfloat16.

torch computes convolutions on GPUs in TF32 unless it is told otherwise, and products where the
caller asks for it. Eleven bits of mantissa are enough to run a network, and too few for the sums
that it is compressed by and for the checks that two networks are the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import torch


@dataclass(frozen=True)
class _Switches:
    """How float32 is computed.

    Attributes:
        products: as torch.get_float32_matmul_precision says.
        cudnn: whether cuDNN's convolutions and recurrent layers may use TF32.
        each: of `_operators`, where the caller set them one by one, which the two others cannot
            express; empty otherwise.
    """

    products: str = "highest"
    cudnn: bool = False
    each: tuple[str, ...] = ()


_CALLERS: ContextVar[_Switches | None] = ContextVar("callers", default=None)


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in full single precision; the caller's switches come back."""
    before = _read()
    token = _CALLERS.set(before)
    _write(_Switches(each=("ieee",) * len(before.each)))
    try:
        yield
    finally:
        _CALLERS.reset(token)
        _write(before)


@contextmanager
def callers_precision() -> Iterator[None]:
    """Within `full_precision`, compute as the caller does: where time is measured, or trained."""
    callers = _CALLERS.get()
    if callers is None:
        yield
        return
    before = _read()
    _write(callers)
    try:
        yield
    finally:
        _write(before)


def _read() -> _Switches:
    try:
        return _Switches(torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    except RuntimeError:  # set one by one, which torch refuses to sum up
        return _Switches(each=tuple(operator.fp32_precision for operator in _operators()))


def _write(switches: _Switches) -> None:
    # As torch.backends.cudnn.flags does, where somebody froze the switches, as torch.testing does.
    with getattr(torch.backends, "__allow_nonbracketed_mutation", nullcontext)():
        if not switches.each:
            torch.set_float32_matmul_precision(switches.products)
            torch.backends.cudnn.allow_tf32 = switches.cudnn
            return
        for operator, precision in zip(_operators(), switches.each, strict=True):
            operator.fp32_precision = precision


def _operators() -> tuple[Any, ...]:
    """What has a switch of its own, in versions of torch that know them."""
    cudnn, onednn = cast(Any, torch.backends.cudnn), cast(Any, torch.backends.mkldnn)
    return (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, onednn.matmul, onednn.conv)
