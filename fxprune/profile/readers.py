"""The consumers of a channel group as the selection takes them: Gram matrices and metrics."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.moments import InputMoments, Site
from fxprune.calibrate.strata import Stratum
from fxprune.graph.nodes import attribute
from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.linalg.selection import Reader


def metric(
    weight: Tensor, axis: int, stratum: Stratum, groups: int, sensitivity: Tensor | None = None
) -> np.ndarray:
    """W^T G W over a stratum's channels, summed over kernel and flattened positions.

    Args:
        weight: W.
        axis: of W that is consumed.
        stratum: whose channels.
        groups: of the convolution.
        sensitivity: G, what output errors cost, (outputs, outputs) or (1, 1) for a multiple of I;
            I by default.

    Returns:
        (n, n) float64.
    """
    moved = weight.detach().double().movedim(axis, -1)
    per_group = moved.shape[-1]
    if groups > 1:
        outputs = moved.shape[0] // groups
        own = slice(stratum.group * outputs, (stratum.group + 1) * outputs)
        moved = moved[own]
        if sensitivity is not None and len(sensitivity) > 1:
            sensitivity = sensitivity[own, own]
    outputs = len(moved)
    columns = torch.from_numpy((stratum.columns - stratum.group * per_group).reshape(-1))
    n, p = stratum.columns.shape
    flat = moved.reshape(-1, per_group)[:, columns].view(-1, n, p).transpose(1, 2).reshape(-1, n)
    if sensitivity is None:
        weighed = flat
    elif len(sensitivity) == 1:
        weighed = flat * sensitivity.to(flat)
    else:
        weighed = (sensitivity.to(flat) @ flat.reshape(outputs, -1)).view(flat.shape)
    return (flat.T @ weighed).cpu().numpy()


def readers(
    module: GraphModule,
    analysis: Analysis,
    group: ChannelGroup,
    moments: Mapping[Site, InputMoments],
    sensitivities: Mapping[Site, Tensor] | None = None,
) -> list[Reader]:
    """The consumers of a group; channels are numbered as in `group.blocks`, flattened.

    Args:
        module: the captured graph.
        analysis: of that graph.
        group: whose consumers.
        moments: of what they read; a consumer without is left out.
        sensitivities: to the consumers' outputs; without, each consumer's error counts relative to
            its own output.
    """
    channels = group.blocks.reshape(-1).tolist()
    result = []
    for site in dict.fromkeys((c.parameter, c.axis) for c in group.consumers):
        if site not in moments:
            continue
        own, ids = moments[site], analysis.axes[site]
        weight, groups = attribute(module, site[0]), len(ids) if ids.ndim == 2 else 1
        sensitivity = None
        if sensitivities is not None:
            # A consumer that no gradient reached does not change the output.
            nothing = torch.zeros(1, 1, dtype=torch.float64)
            sensitivity = sensitivities.get(site, nothing)
        for stratum, gram, seen in zip(own.strata, own.grams, own.rows, strict=True):
            place = {key: i for i, key in enumerate(stratum.keys.tolist())}
            columns = np.array([place.get(channel, -1) for channel in channels])
            if (columns >= 0).any():
                scale = None if sensitivity is None else 1 / max(seen, 1)
                weigh = partial(metric, weight, site[1], stratum, groups, sensitivity)
                result.append(Reader(gram, weigh, columns, scale))
    return result
