"""A probe of a model's outputs: one random number that errors anywhere in them move."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from fxprune.calibrate.observe import arguments
from fxprune.calibrate.padding import Padding
from fxprune.calibrate.running import Runner
from fxprune.capture.batch import Batch
from fxprune.capture.returned import state_leaves
from fxprune.verify.outputs import squared_error

Judged = tuple[Tensor, Tensor | None]
"""An output, and which of its positions are no padding."""


class Draws:
    """Standard normal numbers for a batch's outputs, example by example: the same ones in however
    many parts it is run.

    Args:
        seed: of the batch.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._generators: dict[int, torch.Generator] = {}

    def states(self) -> dict[int, Tensor]:
        """What has been drawn so far."""
        return {number: own.get_state() for number, own in self._generators.items()}

    def restore(self, states: Mapping[int, Tensor]) -> None:
        """Draw once more what was drawn since."""
        self._generators = {number: torch.Generator() for number in states}
        for number, state in states.items():
            self._generators[number].set_state(state)

    def like(self, output: Tensor, number: int) -> Tensor:
        """For the next examples of an output (N, ...) by its number."""
        own = self._generators.setdefault(
            number, torch.Generator().manual_seed((self._seed + number) % 2**63)
        )
        drawn = torch.zeros(output.shape)
        for row in drawn:
            row.copy_(torch.randn(row.shape, generator=own))
        return drawn.to(output)


def judged(module: GraphModule, outputs: Any, batch: Batch, padding: Padding) -> Iterator[Judged]:
    """The tensors that a model answers with, without state for later calls.

    Args:
        module: the captured graph.
        outputs: flat, on the batch.
        batch: what was run.
        padding: whose positions do not count.
    """
    state = state_leaves(module.graph)
    nodes = module.graph.output_node().args[0]
    for place, leaf in enumerate(pytree.tree_leaves(outputs)):
        if place not in state and isinstance(leaf, Tensor):
            node = nodes[place] if isinstance(nodes, (tuple, list)) else nodes
            name = node.name if isinstance(node, Node) else ""
            yield leaf, padding.within(name, leaf, batch.real)


@torch.no_grad()
def energies_of(module: GraphModule, parts: Iterable[Batch], padding: Padding) -> list[float]:
    """Squared norms of the outputs of a batch that memory has room for only in parts: what comes
    out of it must not depend on how many these are.
    """
    found = []
    for part in parts:
        outputs = Runner(module).run(*arguments(module, part), enable_io_processing=False)
        answers = judged(module, outputs, part, padding)
        found.append([squared_error(leaf, leaf, real)[1] for leaf, real in answers])
    return [sum(own) for own in zip(*found, strict=True)]


def probe(
    outputs: Iterable[Judged], draws: Draws, energies: Sequence[float] | None = None
) -> Tensor:
    """v^T f, summed over the outputs that have a derivative, each relative to its norm.

    Args:
        outputs: of the model.
        draws: gives v.
        energies: squared norms of the outputs; by default of these.

    Raises:
        RuntimeError: none has a derivative.
    """
    parts = []
    for number, (leaf, real) in enumerate(outputs):
        if leaf.requires_grad and leaf.dim():
            energy = squared_error(leaf, leaf, real)[1] if energies is None else energies[number]
            drawn = draws.like(leaf, number)
            drawn = drawn if real is None else drawn * real
            parts.append((leaf * drawn).sum() / max(energy, torch.finfo(torch.float32).tiny) ** 0.5)
    if not parts:
        raise RuntimeError("no output depends on a layer through differentiable operators")
    return torch.stack(parts).sum()
