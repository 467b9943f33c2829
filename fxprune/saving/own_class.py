"""Which channels the caller's own class takes in other numbers, tried out before any work.

A copy of the model gets smaller tensors, and must give what the graph gives with as many channels.
Where its forward holds a size as a number that is an attribute of a module (the size of a head, the
outputs of a layer of its own), that attribute is set; channels that it takes in no other number
stay.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule

from fxprune.capture.copying import copy_model
from fxprune.errors import FxpruneError, UnsupportedError
from fxprune.graph.tensors import set_attribute
from fxprune.label.groups import Analysis, ChannelGroup, Pinned
from fxprune.label.keep import keep_all, keep_first
from fxprune.label.ties import tie
from fxprune.passes import ReduceChannels
from fxprune.plans.plan import make_plan
from fxprune.saving.configured import build_of, changes_of, find_config, has_config
from fxprune.saving.own_sizes import Size, Sizes, candidates, options, pattern
from fxprune.saving.resize import place_into
from fxprune.session import Session
from fxprune.verify.outputs import floating, squared_error

BY_CONFIG = "config"
"""The value of `keep_class` that keeps to what a configuration can say."""
CLOSE = 1e-6
"""Relative squared error up to which two runs in float32 give the same."""


@dataclass(frozen=True)
class Suited:
    """A session whose groups the caller's class takes in any number.

    Attributes:
        session: with those groups, some of them tied.
        sizes: attributes that count channels.
        by_config: whether a configuration of the class says the widths.
    """

    session: Session
    sizes: Sizes
    by_config: bool = False

    def attributes(self, keep_mask: np.ndarray) -> dict[str, dict[str, int]]:
        """The attributes' values, by module and name."""
        found: dict[str, dict[str, int]] = {}
        for size in self.sizes:
            found.setdefault(size.path, {})[size.name] = size.value(keep_mask)
        return found


def suit(session: Session) -> Suited:
    """Find which groups the caller's class takes in other numbers; the others stay, and are listed
    with what it says.

    Raises:
        UnsupportedError: it takes none; says why and what to do.
    """
    if session.options.keep_class == BY_CONFIG and not has_config(session.model):
        raise UnsupportedError(
            f'keep_class="config": a {type(session.model).__name__} is no model of transformers, '
            "which is built of its config. keep_class=True takes any class."
        )
    with session.journal.station("label"), torch.no_grad():
        suited, reasons = _Trials(session).run()
    if not suited.session.analysis.groups:
        told = "; ".join(dict.fromkeys(reasons.values()))
        raise UnsupportedError(
            f"keep_class=True: {type(session.model).__name__} takes no layer of fewer channels: "
            f"{told}. Leave keep_class out: the graph that comes back then has no such sizes."
        )
    return suited


class _Trials:
    """Tries families of groups, which differ in numbers in their names only."""

    def __init__(self, session: Session):
        self._session, self._graph = session, _lively(session)
        self._by_config = session.options.keep_class == BY_CONFIG

    def run(self) -> tuple[Suited, dict[str, str]]:
        """What can be narrowed, and reasons of what cannot."""
        analysis, sizes = self._session.analysis, list[Size]()
        if self._by_config:
            analysis = tie(analysis, _alike(analysis))
        reasons, failing = dict[str, str](), list[list[ChannelGroup]]()
        for family in _families(analysis.groups):
            found, reason = self._search(analysis, family)
            if found is None:
                failing.append(family)
                reasons |= {group.name: reason for group in family}
            sizes += found or ()
        for first, second in _pairs([] if self._by_config else failing):
            sets = _side_by_side(first, second)
            if not sets or any(group.name not in reasons for group in (*first, *second)):
                continue
            tied = tie(analysis, sets)
            own = [group for group in tied.groups if group.name in {names[0] for names in sets}]
            found, _ = self._search(tied, own)
            if found is not None:
                analysis = tied
                sizes += found
                for names in sets:
                    for name in names:
                        del reasons[name]
        return self._without(analysis, sizes, reasons)

    def _plain_layers(self) -> frozenset[str]:
        """Weights of torch's own linear and convolution layers, where two may stand for one."""
        own, found = copy_model(self._session.model).eval(), list[str]()
        for path, module in list(own.named_modules()):
            if type(module) is nn.Linear or isinstance(module, nn.modules.conv._ConvNd):
                parent, _, leaf = path.rpartition(".")
                setattr(own.get_submodule(parent), leaf, nn.Sequential(module, nn.Identity()))
                found.append(f"{path}.weight")
        batch = self._session.captured.example
        try:
            own(*batch.args, **batch.kwargs)
        except Exception:  # a forward that looks into its layers
            return frozenset()
        return frozenset(found)

    def _without(
        self, analysis: Analysis, sizes: list[Size], reasons: dict[str, str]
    ) -> tuple[Suited, dict[str, str]]:
        """Leave out what cannot be narrowed, and try all of the rest together."""
        left = tuple(group for group in analysis.groups if group.name not in reasons)
        pins = _pins(self._session, analysis, reasons)
        final = replace(analysis, groups=left, pinned=(*analysis.pinned, *pins))
        problem = self._problem(analysis, left, sizes) if left else ""
        if problem:
            raise UnsupportedError(
                f"keep_class=True: {type(self._session.model).__name__} takes fewer channels in "
                f"one kind of layer, but not in all of them together: {problem}. Leave keep_class "
                "out."
            )
        layers = frozenset() if self._by_config else self._plain_layers()
        before = self._session.ignored
        session = self._session.with_analysis(
            final, lambda name: before(name) or name not in layers
        )
        return Suited(session, tuple(sizes), self._by_config), reasons

    def _search(
        self, analysis: Analysis, family: Sequence[ChannelGroup]
    ) -> tuple[Sizes | None, str]:
        """Attributes to set so that the class takes fewer channels in a family; None where there
        are none, and why.
        """
        reason = ""
        model, whole = self._session.model, self._session.analysis
        offers = [] if self._by_config else list(candidates(model, whole, analysis, family))
        for sizes in options(offers):
            problem = self._problem(analysis, family, sizes)
            if not problem:
                return sizes, ""
            reason = reason or problem
        return None, reason

    def _problem(
        self, analysis: Analysis, groups: Iterable[ChannelGroup], sizes: Iterable[Size]
    ) -> str:
        """Why the class does not take fewer channels in these groups; empty where it does."""
        chosen, sizes = {group.name for group in groups}, tuple(sizes)
        # One less, which other sizes seldom divide, and clearly fewer.
        for part in (0.0, 0.25):
            widths = [
                _fewer(g.width, part) if g.name in chosen else g.width for g in analysis.groups
            ]
            problem = self._try(analysis, keep_first(analysis, widths), sizes)
            if problem:
                return problem
        return ""

    def _try(self, analysis: Analysis, keep_mask: np.ndarray, sizes: Sizes) -> str:
        """Compare the class with the graph, both with these channels."""
        session, graph = self._session, self._graph
        small = ReduceChannels(analysis, keep_mask).call(graph).graph_module
        state = dict(graph.named_parameters()) | dict(graph.named_buffers())
        plan = make_plan(analysis, keep_mask, state, "trial", {})
        attributes = Suited(session, sizes).attributes(keep_mask)
        try:
            if self._by_config:
                config = find_config(session.model, small, changes_of(plan))
                own = build_of(session.model, config, small)
            else:
                notes = session.captured.notes
                own = place_into(session.model, small, plan, notes, None, attributes)
            return compare_runs(small, own.eval(), session)
        except FxpruneError as error:
            return str(error)
        except Exception as error:  # whatever a forward raises
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"


def compare_runs(graph: GraphModule, own: nn.Module, session: Session) -> str:
    """What a model of the caller's class gives else than a graph on the example; empty where
    nothing.
    """
    batch = session.captured.example
    wanted = floating(graph.forward(*batch.args, **batch.kwargs))
    found = floating(own(*batch.args, **batch.kwargs))
    return difference(wanted, found)


def difference(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Which of the outputs differ by more than rounding; empty where none."""
    for name, value in wanted.items():
        if name not in found or found[name].shape != value.shape:
            return f"its output {name} has another shape or is missing"
        error, norm = squared_error(value, found[name])
        rounding = CLOSE * torch.finfo(value.dtype).eps / torch.finfo(torch.float32).eps
        if not error <= rounding * norm:
            return f"its output {name} differs by {(error / max(norm, 1e-30)) ** 0.5:.1e}"
    return ""


def _fewer(width: int, part: float) -> int:
    return max(1, width - max(1, int(part * width)))


def _lively(session: Session) -> GraphModule:
    """The captured graph with weights drawn at random, so that no size goes unnoticed where the
    model's own say little (attention that looks everywhere alike); with its own weights where that
    gives no numbers.
    """
    whole = keep_all(session.analysis)
    drawn = ReduceChannels(session.analysis, whole).call(session.graph).graph_module
    generator, made = torch.Generator().manual_seed(0), dict[int, nn.Parameter]()
    for name, parameter in list(drawn.named_parameters(remove_duplicate=False)):
        if id(parameter) not in made:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            scale = 1 / math.sqrt(parameter[0].numel()) if parameter.dim() > 1 else 0.1
            value = scale * noise + (parameter.detach() if parameter.dim() == 1 else 0)
            made[id(parameter)] = nn.Parameter(value, parameter.requires_grad)
        set_attribute(drawn, name, made[id(parameter)])
    batch = session.captured.example
    outputs = floating(drawn.forward(*batch.args, **batch.kwargs))
    usable = all(bool(value.isfinite().all()) for value in outputs.values())
    return drawn if usable else session.graph


def _families(groups: Iterable[ChannelGroup]) -> list[list[ChannelGroup]]:
    found: dict[Any, list[ChannelGroup]] = {}
    for group in groups:
        found.setdefault((pattern(group.name), group.blocks.shape), []).append(group)
    return list(found.values())


def _pairs(
    families: Sequence[list[ChannelGroup]],
) -> Iterator[tuple[list[ChannelGroup], list[ChannelGroup]]]:
    for i, first in enumerate(families):
        for second in families[i + 1 :]:
            if len(first) == len(second) and first[0].width == second[0].width:
                yield first, second


def _side_by_side(first: Sequence[ChannelGroup], second: Sequence[ChannelGroup]) -> list[list[str]]:
    """Groups of two families that lie in the same modules, two by two; none where they do not."""
    homes = {_home(group): group.name for group in second}
    sets = [[g.name, homes[_home(g)]] for g in first if _home(g) in homes]
    return sets if len(sets) == len(first) and len(homes) == len(second) else []


def _home(group: ChannelGroup) -> str:
    """The module around the layer that a group's first channels come from."""
    owner = group.members[0][0].rpartition(".")[0]
    return owner.rpartition(".")[0]


def _pins(session: Session, analysis: Analysis, reasons: Mapping[str, str]) -> list[Pinned]:
    kind = type(session.model).__name__
    return [
        Pinned(
            parameter,
            axis,
            int(analysis.axes[parameter, axis].size),
            f"the forward of {kind} takes no fewer: {reasons[group.name]}",
        )
        for group in analysis.groups
        if group.name in reasons
        for parameter, axis in group.members[:1]
    ]


def _alike(analysis: Analysis) -> list[list[str]]:
    """Groups to tie so that one number says their width: those of a family."""
    families = _families(analysis.groups)
    return [[group.name for group in family] for family in families if len(family) > 1]
