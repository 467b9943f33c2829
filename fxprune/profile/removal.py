"""For every channel group a nested removal order and the error at every width."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.moments import InputMoments, Site
from fxprune.distributed.group import ALONE, Group
from fxprune.distributed.rounds import Rounds
from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.profile.selectors import ROUNDS, SELECTORS, GroupStatistics, magnitude

ROUND = 4e5
"""What a consumer's part in one round of removal takes besides what goes by the cube of the group's
channels, on that scale: 0.1 ms (2-core AMD EPYC, 2026-11-26).
"""


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


def profile_groups(
    module: GraphModule,
    analysis: Analysis,
    moments: Mapping[Site, InputMoments],
    selector: str,
    dtype: torch.dtype,
    sensitivities: Mapping[Site, Tensor] | None = None,
    advance: Callable[[int], object] = lambda groups: None,
    step: Callable[[str, Callable[[], Profile]], Profile] | None = None,
    group: Group = ALONE,
) -> list[Profile]:
    """Profile every group.

    Groups of whose consumers nothing is known are ordered by magnitude.

    Args:
        module: the captured graph.
        analysis: of that graph.
        moments: from `collect_moments`, where the selector reads them.
        selector: a name in `SELECTORS`.
        dtype: of the activations; decides what counts as dependent.
        sensitivities: from `sensitivities`, where the selector reads them and there are any.
        advance: told after every group.
        step: takes the name of a group and what profiles it, and gives the profile, which may
            have been kept; by default none is.
        group: of the ranks, among which the channel groups are shared out by what they cost.
    """

    def profile(own: ChannelGroup) -> Profile:
        statistics = GroupStatistics(module, analysis, own, moments, sensitivities, dtype)
        return _profile(statistics, selector)

    groups, found = analysis.groups, dict[int, Profile]()
    costs = [_cost(own) for own in groups]
    tasks = [partial(profile, own) for own in groups]
    rounds = Rounds(group, tasks, costs, "profiles", at_once=step is None)
    for number in rounds.order:
        compute = partial(rounds.result, number)
        found[number] = compute() if step is None else step(groups[number].name, compute)
        advance(1)
    return [found[number] for number in range(len(groups))]


def _cost(group: ChannelGroup) -> float:
    """What a group's profile takes, on the scale of a cube of channels."""
    consumers = {(consumer.parameter, consumer.axis) for consumer in group.consumers}
    rounds = min(group.width, ROUNDS)
    return len(consumers) * (float(group.channels) ** 3 + ROUND * rounds)


def _profile(statistics: GroupStatistics, selector: str) -> Profile:
    rank = SELECTORS[selector].rank if statistics.readers else magnitude
    ranking = rank(statistics)
    errors, scores = ranking.removal.errors, ranking.scores
    order = statistics.group.blocks.reshape(-1)[ranking.removal.order]
    return Profile(order, errors, errors if scores is None else scores, ranking.free)
