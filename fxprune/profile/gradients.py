"""Derivatives of a probe of the model's output by what weights give, call by call, and the errors
that the weights' own would make there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from fxprune.calibrate.moments import Site
from fxprune.calibrate.observe import Observer, arguments
from fxprune.calibrate.padding import Padding
from fxprune.capture.batch import Batch
from fxprune.graph.convolution import OUTPUTS_FIRST
from fxprune.graph.nodes import attribute
from fxprune.graph.operators import operator_name
from fxprune.graph.recurrent import read_recurrent, recurrent_of
from fxprune.profile.probe import Draws, judged, probe
from fxprune.profile.steps import run_steps


@dataclass(frozen=True)
class Given:
    """What a weight gave in one call.

    Attributes:
        site: the weight.
        operator: that read it.
        value: the result.
        error: makes the result's error for that of the weight; None where none is known.
    """

    site: Site
    operator: str
    value: Tensor
    error: Callable[[], Tensor] | None = None


class Outputs(Observer):
    """Runs the graph and keeps what watched weights give, to be differentiated by.

    Recurrent layers run step by step: the errors of their weights are made inside.

    Args:
        module: the captured graph.
        watched: weights by the names of the calls that read them.
        errors: of weights, by name.
        finite: whether derivatives by a call's result that are not finite count as zero: what a
            `where` throws away has no say in the output, but zero times infinity is NaN.

    Attributes:
        kept: what the weights gave.
    """

    def __init__(
        self,
        module: GraphModule,
        watched: Mapping[str, Sequence[Site]],
        errors: Mapping[str, Tensor],
        finite: bool = False,
    ):
        super().__init__(module)
        self._watched, self._errors, self._finite = watched, errors, finite
        self.kept: list[Given] = []

    def run_node(self, n: Node) -> Any:
        result = self._run_watched(n)
        if self._finite:
            for value in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(value, Tensor) and value.requires_grad:
                    value.register_hook(_finite_part)
        return result

    def _run_watched(self, n: Node) -> Any:
        sites = self._watched.get(n.name)
        if sites is None:
            return super().run_node(n)
        name = operator_name(n.target)
        if recurrent_of(n) is not None:
            how = read_recurrent(name, self.fetch_args_kwargs_from_env(n)[0])
            if how is not None and len(how.layers) == 1:
                result, given = run_steps(how)
                own = {id(self.here(attribute(self.module, site[0]))): site for site in sites}
                for weight, value in given:
                    if id(weight) in own:
                        self._keep(own[id(weight)], "aten.linear", value)
                return result
        result = super().run_node(n)
        self._keep(sites[0], name, result, self._error(n, name, sites[0]))
        return result

    def _error(self, n: Node, operator: str, site: Site) -> Callable[[], Tensor] | None:
        """What gives the error of a call's result for that of its weight, where one is known."""
        change = self._errors.get(site[0]) if site[1] == 1 else None
        if change is None or operator not in OUTPUTS_FIRST:
            return None
        x, weight, *how = Interpreter.fetch_args_kwargs_from_env(self, n)[0]
        if weight.shape != change.shape:
            return None
        return partial(_output_error, n.target, x, change, how[1:])

    def _keep(
        self,
        site: Site,
        operator: str,
        value: Tensor,
        error: Callable[[], Tensor] | None = None,
    ) -> None:
        if not value.requires_grad:
            value.requires_grad_()
        self.kept.append(Given(site, operator, value, error))


@torch.no_grad()
def _output_error(call: Any, x: Tensor, change: Tensor, how: Sequence[Any]) -> Tensor:
    """What a layer gives for the change of its weight alone.

    Args:
        call: of a layer.
        x: what it reads.
        change: of the weight.
        how: its arguments behind the bias.
    """
    error: Tensor = call(x.detach(), change.to(x), None, *how)
    return error


def gradients(
    module: GraphModule,
    batch: Batch,
    observe: Callable[..., Outputs],
    draws: Draws,
    padding: Padding,
    energies: Sequence[float] | None,
) -> Iterator[tuple[Given, Tensor]]:
    """Derivatives of one probe of the model's output by what weights give, where there are any."""
    before = draws.states()
    for finite in (False, True):
        draws.restore(before)
        with torch.enable_grad():
            observer = observe(finite)
            outputs = observer.run(*arguments(module, batch), enable_io_processing=False)
            probed = probe(judged(module, outputs, batch, padding), draws, energies)
            found = torch.autograd.grad(
                probed, [given.value for given in observer.kept], allow_unused=True
            )
        if all(bool(torch.isfinite(g).all()) for g in found if g is not None):
            break
    for given, gradient in zip(observer.kept, found, strict=True):
        if gradient is not None:
            yield given, gradient


def _finite_part(gradient: Tensor) -> Tensor:
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
