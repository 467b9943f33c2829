"""Station 4: for every channel group a nested removal order and the error at every width."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.moments import Moments, Site
from fxprune.calibrate.strata import Stratum
from fxprune.graph.nodes import attribute
from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.linalg.selection import Reader, Removal, dependent, output_aware, pivoted_removal

SELECTORS = ("output-aware", "pivoted-qr", "magnitude")
PRECISION = {torch.float64: 1e-13, torch.float32: 1e-7}
"""Relative error of second moments, by the precision of the activations."""
SHRINKAGE = 0.05
"""Ridge per (channels / observations): the noise of moments estimated from few rows."""


def ridge_for(channels: int, observations: int, dtype: torch.dtype) -> float:
    """Relative Tikhonov weight for interpolating that many channels from that many rows."""
    return max(PRECISION.get(dtype, 1e-5), SHRINKAGE * channels / max(observations, 1))


@dataclass(frozen=True)
class Profile:
    """What removing channels of one group costs.

    Attributes:
        order: (blocks, width) channel ids, first removed first.
        errors: (width,) predicted relative squared error of the model's output (of the consumers'
            outputs where that has no derivative) after removing 0, 1, ... per block and
            interpolating.
        scores: (width,) |r_kk / r_11| of the reference method, or the errors where the selector
            has none.
        free: how many can be removed per block at no cost (numerically dependent or dead channels).
    """

    order: np.ndarray
    errors: np.ndarray
    scores: np.ndarray
    free: int


def metric(
    weight: Tensor, axis: int, stratum: Stratum, groups: int, worth: Tensor | None = None
) -> np.ndarray:
    """W^T G W over the columns' channels, summed over kernel and flattened positions; (n, n)
    float64.

    Args:
        worth: G, what output errors cost, (outputs, outputs) or (1, 1) for a multiple of I; I by
            default.
    """
    moved = weight.detach().double().movedim(axis, -1)
    per_group = moved.shape[-1]
    if groups > 1:
        per = moved.shape[0] // groups
        own = slice(stratum.group * per, (stratum.group + 1) * per)
        moved = moved[own]
        worth = worth[own, own] if worth is not None and len(worth) > 1 else worth
    outputs = len(moved)
    flat = moved.reshape(-1, per_group)[
        :, torch.from_numpy((stratum.columns - stratum.group * per_group).reshape(-1))
    ]
    n, p = stratum.columns.shape
    flat = flat.view(-1, n, p).transpose(1, 2).reshape(-1, n)
    if worth is None:
        weighed = flat
    elif len(worth) == 1:
        weighed = flat * worth
    else:
        weighed = (worth.to(flat) @ flat.reshape(outputs, -1)).view(flat.shape)
    return (flat.T @ weighed).cpu().numpy()


def readers(
    module: GraphModule,
    analysis: Analysis,
    group: ChannelGroup,
    moments: dict[Site, Moments],
    worth: dict[str, Tensor] | None = None,
) -> list[Reader]:
    """The consumers of a group as the selectors take them; channels are numbered as in
    `group.blocks`, flattened.

    Args:
        worth: from `sensitivities`; without it each consumer's error counts relative to its own
            output.
    """
    flat = group.blocks.reshape(-1)
    result = []
    for site in dict.fromkeys((c.parameter, c.axis) for c in group.consumers):
        if site not in moments:
            continue
        held = moments[site]
        weight = attribute(module, site[0])
        ids = analysis.axes[site]
        groups = len(ids) if ids.ndim == 2 else 1
        # A consumer that no gradient reached does not change the output.
        own = None if worth is None else worth.get(site[0], torch.zeros(1, 1, dtype=torch.float64))
        for stratum, gram, seen in zip(held.strata, held.grams, held.rows, strict=True):
            place = {key: i for i, key in enumerate(stratum.keys.tolist())}
            columns = np.array([place.get(key, -1) for key in flat.tolist()])
            if (columns >= 0).any():
                scale = None if own is None else 1 / max(seen, 1)
                result.append(
                    Reader(gram, metric(weight, site[1], stratum, groups, own), columns, scale)
                )
    return result


def weight_norms(module: GraphModule, analysis: Analysis, group: ChannelGroup) -> np.ndarray:
    """Squared norm of each channel's producing weights, (channels,): the magnitude criterion."""
    flat = group.blocks.reshape(-1)
    place = {key: i for i, key in enumerate(flat.tolist())}
    norms = np.zeros(len(flat))
    for name, axis in group.members:
        tensor = attribute(module, name)
        ids = analysis.axes[(name, axis)]
        if tensor.dim() < 2 or ids.ndim != 1:
            continue
        energy = (
            tensor.detach()
            .double()
            .movedim(axis, 0)
            .reshape(tensor.shape[axis], -1)
            .square()
            .sum(1)
            .tolist()
        )
        for key, value in zip(ids.tolist(), energy, strict=True):
            if key in place:
                norms[place[key]] += value
    return norms


def magnitude_removal(norms: np.ndarray, blocks: np.ndarray) -> Removal:
    """Smallest weights first; the error is their share of the squared norm."""
    table = np.argsort(norms[blocks], axis=1, kind="stable")
    order = np.take_along_axis(blocks, table, 1)
    spent = norms[order].sum(0)
    errors = np.concatenate([[0.0], np.cumsum(spent)[:-1]]) / max(
        float(norms.sum()), np.finfo(float).tiny
    )
    return Removal(order, errors)


def profile(
    module: GraphModule,
    analysis: Analysis,
    moments: dict[Site, Moments],
    selector: str,
    dtype: torch.dtype,
    worth: dict[str, Tensor] | None = None,
    advance: Callable[[int], object] = lambda groups: None,
) -> list[Profile]:
    """Profile every group.

    Args:
        module: the captured graph.
        analysis: of that graph.
        moments: from `calibrate`.
        selector: `output-aware`, `pivoted-qr` or `magnitude`.
        dtype: of the activations; decides what counts as dependent.
        worth: of output errors, from `sensitivities`.
        advance: told after every group.
    """
    precision = PRECISION.get(dtype, 1e-5)
    result = []
    for group in analysis.groups:
        local = np.arange(group.channels).reshape(group.blocks.shape)
        found = readers(module, analysis, group, moments) if selector != "magnitude" else []
        scores, free = None, 0
        if not found:
            removal = magnitude_removal(weight_norms(module, analysis, group), local)
        elif selector == "pivoted-qr":
            full = [r for r in found if (r.columns >= 0).all()]
            if full:
                gram = sum((r.gram[np.ix_(r.columns, r.columns)] for r in full), np.zeros(()))
            else:
                gram = np.diag(
                    sum((_scattered(r, group.channels) for r in found), np.zeros(group.channels))
                )
            removal, scores = pivoted_removal(np.asarray(gram), np.arange(group.channels), local)
        else:
            observed = min(
                sum(moments[s].rows)
                for s in {(c.parameter, c.axis) for c in group.consumers} & set(moments)
            )
            channels = max(len(r.gram) for r in found)
            # From fewer rows than columns every channel looks like a combination of the others.
            enough = observed >= 2 * channels
            first = dependent(found, local, precision, 3 * precision) if enough else local[:, :0]
            ridge = ridge_for(channels, observed, dtype)
            weighed = found if worth is None else readers(module, analysis, group, moments, worth)
            removal = output_aware(weighed, local, ridge, max(1, group.width // 64), first)
            free = first.shape[1]
        flat = group.blocks.reshape(-1)
        result.append(
            Profile(
                flat[removal.order],
                removal.errors,
                removal.errors if scores is None else scores,
                free,
            )
        )
        advance(1)
    return result


def _scattered(reader: Reader, count: int) -> np.ndarray:
    energy = np.zeros(count)
    seen = reader.columns >= 0
    energy[seen] = np.diag(reader.gram)[reader.columns[seen]]
    return energy
