r"""Channel groups of which the channels may be mixed, not only selected.

Where no channel of a group meets a nonlinearity, an invertible change of basis in each of its
blocks (a head, a convolution group) leaves the function unchanged, if all weights that write and
read them change along: W_out <- P W_out, W_in <- W_in P^{-1}. *Where a channel axis meets no
elementwise nonlinearity, rotate; where it does, select.*

Whether a group is so is read off the calls that carry its channels: each must be an operator that
`fxprune.rules.linear` names, and what it gives for rotated operands must be the rotated result. The
second is tried out with numbers drawn at random, call by call, as labels do not see what an
operator does along the other axes (channels shifted each its own way).
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxprune.errors import PlanError
from fxprune.graph.nodes import where
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import is_made
from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.label.propagation import Remembered
from fxprune.label.tried import digest, form_of, run_call
from fxprune.label.turning import turn_value
from fxprune.rules.labels import Value, distinct, narrow_constant
from fxprune.rules.linear import LINEAR, NORMS

UNTRIED = "could not be tried out"
_KNOWN = Remembered[str]()
WIDEST = 2048
"""Channels of a block for which a basis is looked for: the work grows with their cube."""
ONE_CHANNEL = "one channel per block: nothing to mix"
NOT_ORTHONORMAL = "normalized, and multiplied with another activation: no basis is right for both"


def mark_rotatable(module: GraphModule, analysis: Analysis, norms: bool = False) -> Analysis:
    """The analysis with what may be mixed, and why the rest may not.

    Args:
        module: the captured graph.
        analysis: of that graph.
        norms: whether channels may be normalized together by what has no weights of its own, of
            which the basis must then be orthonormal.
    """
    found, reasons = [], {}
    carriers, allowed = _carriers(module, analysis), LINEAR | NORMS if norms else LINEAR
    for i, group in enumerate(analysis.groups):
        reason = _reason(analysis, group, carriers[i], allowed)
        if reason:
            reasons[group.name] = reason
        else:
            found.append(group.name)
    return replace(analysis, rotatable=tuple(found), unmixed=reasons)


def _carriers(module: GraphModule, analysis: Analysis) -> list[list[Node]]:
    """Per group the nodes that carry its channels, in order."""
    owner = analysis.group_of()
    found: list[list[Node]] = [[] for _ in analysis.groups]
    for node in module.graph.nodes:
        values = _flat(analysis.values.get(node.name))
        ids = [distinct(labels) for value in values for labels in value.axes]
        if ids:
            for i in np.unique(owner[np.concatenate(ids)]).tolist():
                if i >= 0:
                    found[i].append(node)
    return found


def _flat(value: Any) -> list[Value]:
    items = value if isinstance(value, (tuple, list)) else (value,)
    return [item for item in items if isinstance(item, Value)]


def _reason(
    analysis: Analysis, group: ChannelGroup, carriers: list[Node], allowed: frozenset[str]
) -> str:
    """Why a group's channels may not be mixed; empty where they may.

    Args:
        allowed: names of operators.
    """
    if group.width < 2:
        return ONE_CHANNEL
    if group.width > WIDEST:
        return f"blocks of more than {WIDEST} channels, whose basis takes long to find"
    calls = _calls(carriers)
    for call in calls:
        if operator_name(call.target) not in allowed:
            return f"{operator_name(call.target)} is not known to be linear ({where(call)})"
    made = next((n for n in carriers if n.op == "get_attr" and is_made(str(n.target))), None)
    if made is not None:
        return f"meets a constant that the forward makes ({made.name})"
    if not _sided(analysis, group):
        return "read neither by a weight nor by a product whose two factors can be told apart"
    normed = any(operator_name(call.target) in NORMS for call in calls)
    if normed and not _read(analysis, group):
        return NOT_ORTHONORMAL
    rotations = cache(partial(_random_rotations, group))
    for call in calls:
        trial = partial(_try_call, call, analysis, group, rotations)
        reason = _KNOWN.get(call.target, _form(call, analysis, group), {}, trial)
        if reason:
            return f"{reason} ({where(call)})"
    return ""


def _calls(carriers: Iterable[Node]) -> list[Node]:
    """Calls that make or read what these nodes give, each once."""
    found = dict[Node, None]()
    for node in carriers:
        for call in (node, *node.users):
            if call.op == "call_function":
                found[call] = None
    return list(found)


def _sided(analysis: Analysis, group: ChannelGroup) -> bool:
    """Whether the two sides of products are told apart wherever the group's channels are, and every
    block that no weight reads has channels on the second.
    """
    read = np.concatenate(
        [group.blocks[:, :0].reshape(-1)]
        + [analysis.axes[c.parameter, c.axis].reshape(-1) for c in group.consumers]
    )
    second = [group.blocks[:, :0].reshape(-1)]
    for key, side in analysis.sides.items():
        ids = analysis.axes[key]
        if (np.isin(ids, group.blocks) & (side < 0)).any():
            return False
        second.append(ids[side == 1])
    known = np.isin(group.blocks, np.concatenate([read, *second]))
    return bool(known.any(1).all())


def _read(analysis: Analysis, group: ChannelGroup) -> bool:
    """Whether weights read every block, so that its basis is orthonormal."""
    read = [analysis.axes[c.parameter, c.axis].reshape(-1) for c in group.consumers]
    return bool(read) and bool(np.isin(group.blocks, np.concatenate(read)).any(1).all())


def _random_rotations(group: ChannelGroup) -> list[np.ndarray]:
    """One orthonormal matrix per block, always the same ones."""
    draw = np.random.default_rng(0)
    shape = (group.width, group.width)
    return [np.linalg.qr(draw.standard_normal(shape))[0] for _ in group.blocks]


def _form(call: Node, analysis: Analysis, group: ChannelGroup) -> Hashable:
    """Equal where all is that a trial of an operator depends on: what it is called on, and where
    the channels of the group are there, each by its place in the group.
    """
    channels = group.blocks.reshape(-1)
    order = np.argsort(channels, kind="stable")

    def places(labels: Tensor) -> Hashable:
        ids = narrow_constant(labels).numpy()
        at = np.searchsorted(channels[order], ids).clip(max=len(channels) - 1)
        found = np.where(channels[order[at]] == ids, order[at] + 1, 0)
        return tuple(labels.shape), found.shape, digest(found.tobytes())

    def known(node: Node) -> Hashable:
        values = _flat(analysis.values[node.name])
        return tuple(tuple(map(places, value.axes)) for value in values)

    return group.blocks.shape, *form_of(call, analysis.values, known)


def _try_call(
    call: Node, analysis: Analysis, group: ChannelGroup, rotations: Callable[[], list[np.ndarray]]
) -> str:
    """What is wrong with f(R x) = R f(x) at one call; empty where it holds to rounding."""
    draw, values = torch.Generator().manual_seed(0), analysis.values
    rotation, plain, turned = rotations(), dict[Node, Any](), dict[Node, Any]()
    try:
        for source in call.all_input_nodes:
            own = values[source.name]
            parts = [_made_up(value, draw) for value in _flat(own)]
            mixed = [
                turn_value(part, value, group.blocks, rotation)
                for part, value in zip(parts, _flat(own), strict=True)
            ]
            one = isinstance(own, Value)
            plain[source] = parts[0] if one else parts or own
            turned[source] = mixed[0] if one else mixed or own
        given, found = (run_call(call, operands) for operands in (plain, turned))
        for before, after, value in zip(given, found, _flat(values[call.name]), strict=True):
            wanted = turn_value(before, value, group.blocks, rotation)
            if not _close(after, wanted):
                return f"{operator_name(call.target)} does not treat channels alike"
    except PlanError as error:
        return f"{operator_name(call.target)} {error}"
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError):
        return f"{operator_name(call.target)} {UNTRIED}"
    return ""


def _made_up(value: Value, draw: torch.Generator) -> Tensor:
    """A tensor of a value's shape: what it is where that is known, else drawn at random; float32
    where that is less precise.
    """
    single = value.dtype in (torch.float16, torch.bfloat16)
    if value.const is not None:
        return value.const.cpu().float() if single else value.const.cpu()
    if value.dtype == torch.bool:
        return torch.rand(value.shape, generator=draw) < 0.5
    if not value.dtype.is_floating_point:
        return torch.zeros(value.shape, dtype=value.dtype)
    numbers = torch.randn(value.shape, generator=draw)
    return numbers if single else numbers.to(value.dtype)


def _close(found: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors are equal to rounding; what is masked out everywhere is not compared."""
    if not wanted.dtype.is_floating_point:
        return torch.equal(found, wanted)
    tolerance = torch.finfo(found.dtype).eps ** 0.5
    found, wanted = torch.nan_to_num(found.double()), torch.nan_to_num(wanted.double())
    return bool((found - wanted).norm() <= tolerance * wanted.norm())
