"""Fourier transforms and complex numbers: channels pass along the axes that are not transformed."""

from dataclasses import replace
from typing import Any

from fxprune.rules.labels import Value, squash, varying
from fxprune.rules.pointwise import pointwise
from fxprune.rules.reduction import along
from fxprune.rules.registry import Call, register_rule

register_rule(
    "aten.real",
    "aten.imag",
    "aten.angle",
    "aten.complex",
    "aten.polar",
    "aten.conj",
    "aten.conj_physical",
    "aten._conj",
    "aten._conj_physical",
    "aten.resolve_conj",
    "aten.resolve_neg",
)(pointwise)


@register_rule("aten._fft_r2c", "aten._fft_c2r", "aten._fft_c2c")
def fourier(call: Call) -> Any:
    """Linear along the transformed axes, which may change their size; all other axes stay."""
    source: Value = call.args[0]
    dims = frozenset(d % source.rank for d in call.args[1])
    axes = along(call, source, dims, "every channel takes part in a Fourier transform")
    for dim in dims:
        axes = tuple(labels.narrow(dim, 0, 1) for labels in axes)
    return replace(call.out, axes=tuple(squash(labels.expand(call.out.shape)) for labels in axes))


@register_rule("aten.view_as_real")
def view_as_real(call: Call) -> Any:
    """The real and the imaginary part of a channel stand beside each other on a new last axis."""
    axes = (labels.unsqueeze(-1).expand(call.out.shape) for labels in call.args[0].axes)
    return replace(call.out, axes=tuple(axes))


@register_rule("aten.view_as_complex")
def view_as_complex(call: Call) -> Any:
    """Two elements of the last axis become one, and go together."""
    source: Value = call.args[0]
    last = source.rank - 1
    axes = []
    for labels in source.axes:
        if varying(labels) == {last}:
            call.record.pin(labels, "is one part of a complex number")
        else:
            axes.append(squash(call.record.tie(labels, frozenset({last})).select(last, 0)))
    return replace(call.out, axes=tuple(axes))
