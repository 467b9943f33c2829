"""Run a captured graph where its inputs are: what lies elsewhere, as the weights of a model that is
larger than a device do, is brought there one call at a time, and let go after it.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_aggregate

from fxprune.capture.batch import device_of

Brought = dict[int, tuple[Tensor, Tensor]]
"""What was brought for one call: tensors as they are at home, and there; by the first one's id."""


@dataclass(frozen=True)
class Workplace:
    """The device on which the calls of a graph are made, whose weights are not there.

    Attributes:
        home: where the weights are, and what the trace made (`arange`) says it is.
        device: where the inputs are.
    """

    home: torch.device
    device: torch.device

    def gather(self, arguments: Any, brought: Brought) -> Any:
        """A call's arguments, all of them on the device where one is there.

        What follows from weights and numbers alone is made at home: as a rule that is another view
        of a weight, and the weight is brought when it is read.

        Args:
            arguments: a nest of what the call takes.
            brought: takes down what was brought.
        """
        found: list[Any] = []
        map_aggregate(arguments, found.append)
        if not any(isinstance(v, Tensor) and v.device == self.device for v in found):
            return arguments
        return map_aggregate(arguments, lambda value: self._place(value, brought))

    def _place(self, value: Any, brought: Brought) -> Any:
        if isinstance(value, torch.device):
            return self.device if value.type == self.home.type else value
        if not isinstance(value, Tensor) or value.device != self.home:
            return value
        known = brought.get(id(value))
        if known is None:
            known = brought[id(value)] = value, bring(value, self.device)
        return known[1]


def bring(value: Tensor, device: torch.device) -> Tensor:
    """A copy of a tensor on another device, laid out alike."""
    return value.to(device, non_blocking=True)


def workplace(module: GraphModule, inputs: Iterable[Any]) -> Workplace | None:
    """Where a graph is to run; None where its weights are already where its inputs are, or lie on
    several devices themselves.

    Args:
        module: any graph.
        inputs: that it is given; the first tensor among them tells.
    """
    device = next((x.device for x in inputs if isinstance(x, Tensor)), None)
    first = next(module.parameters(), None)
    if device is None or (first is not None and first.device == device):
        return None  # the usual case, told without a look at every tensor of the model
    home = device_of(module)
    return None if home is None or home == device else Workplace(home, device)


class Runner(Interpreter):
    """Runs a graph where its inputs are; values die after their last use, and weights that lie
    elsewhere after each.

    Where gradients are wanted, a weight that the backward pass reads is let go as well, and brought
    again.

    Args:
        module: the graph; functional, so that nothing is written to what was brought.
    """

    def __init__(self, module: GraphModule):
        super().__init__(module)
        self._work: Workplace | None = None
        self._brought: Brought = {}

    def run(
        self,
        *args: Any,
        initial_env: dict[Node, Any] | None = None,
        enable_io_processing: bool = True,
    ) -> Any:
        self._work = workplace(cast(GraphModule, self.module), args)
        try:
            with self._left_at_home():
                return super().run(
                    *args, initial_env=initial_env, enable_io_processing=enable_io_processing
                )
        finally:
            self._brought = {}

    def fetch_args_kwargs_from_env(self, n: Node) -> Any:
        own = super().fetch_args_kwargs_from_env(n)
        self._brought = {}
        return own if self._work is None else self._work.gather(own, self._brought)

    def here(self, value: Tensor) -> Tensor:
        """A weight as the current call reads it."""
        return self._brought.get(id(value), (value, value))[1]

    def _left_at_home(self) -> AbstractContextManager[Any]:
        """Within, what autograd keeps of weights that were brought is what is at home."""
        if self._work is None or not torch.is_grad_enabled():
            return nullcontext()
        device = self._work.device

        def pack(saved: Tensor) -> Any:
            for own, there in self._brought.values():
                if _same_memory(saved, there):
                    return _Left(
                        own.detach(), saved.shape, saved.stride(), int(saved.storage_offset())
                    )
            return saved

        def unpack(kept: Any) -> Tensor:
            return kept.brought_to(device) if isinstance(kept, _Left) else kept

        return saved_tensors_hooks(pack, unpack)


def _same_memory(one: Tensor, other: Tensor) -> bool:
    first, second = (tensor.untyped_storage().data_ptr() for tensor in (one, other))
    return first == second != 0


@dataclass(frozen=True)
class _Left:
    """A tensor that autograd keeps, as a view of one that is at home.

    Attributes:
        own: at home.
        size, stride, offset: of the view, in the memory of what is brought.
    """

    own: Tensor
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def brought_to(self, device: torch.device) -> Tensor:
        return bring(self.own, device).as_strided(self.size, self.stride, self.offset)
