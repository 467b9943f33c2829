"""Next-token decisions of causal language models: which outputs they are, how often two models
predict the same token, and how much more the text surprises one than the other.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxprune.calibrate.observe import at_inputs
from fxprune.capture.batch import Batch
from fxprune.distributed.group import Group
from fxprune.graph.nodes import argument
from fxprune.graph.operators import operator_name
from fxprune.rules.movement import MOVEMENT
from fxprune.verify.decisions import next_token
from fxprune.verify.outputs import floating

ROUNDING = 1e-3
"""Relative change of earlier outputs that is no change."""


@torch.no_grad()
def find_next_tokens(graph: GraphModule, batch: Batch, output: Any) -> dict[str, next_token]:
    """The outputs that score the next token: three axes, the last as long as the table of the
    tokens that the model reads, and none before a token changes with it.

    Args:
        graph: captured.
        batch: a few examples.
        output: of the graph on them.

    Returns:
        rules by the names of outputs; usually one or none.
    """
    found = dict[str, next_token]()
    for name, vocabulary in _tokens_read(graph):
        ids = token_ids(batch, name)
        if ids is None or ids.dim() != 2 or ids.shape[1] < 2:
            continue
        likely = {
            key: value
            for key, value in floating(output).items()
            if value.dim() == 3
            and tuple(value.shape) == (*ids.shape, vocabulary)
            and key not in found
        }
        if not likely:
            continue
        after = floating(_with_another_last_token(graph, batch, ids, vocabulary))
        for key, value in likely.items():
            if _same(value[:, :-1], after[key][:, :-1]) and not _same(value, after[key]):
                found[key] = next_token(dim=2, ids=name)
    return found


def token_ids(batch: Batch, name: str | int | None) -> Tensor | None:
    """The tokens of a batch, (examples, length), by the keyword or place of the argument."""
    value = batch.kwargs.get(name) if isinstance(name, str) else None
    if isinstance(name, int) and name < len(batch.args):
        value = batch.args[name]
    return value if isinstance(value, Tensor) else None


def _tokens_read(graph: GraphModule) -> Iterator[tuple[str | int, int]]:
    """Arguments that an embedding table is read by, and the rows of these."""
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node in graph.graph.nodes:
        if operator_name(node.target) != "aten.embedding":
            continue
        table, source = argument(node, 0), argument(node, 1)
        while isinstance(source, Node) and operator_name(source.target) in MOVEMENT:
            source = source.all_input_nodes[0]
        rows = table.meta["val"].shape[0] if isinstance(table, Node) else None
        if source in inputs and isinstance(rows, int):
            yield _argument_of(graph, inputs.index(source)), rows


def _argument_of(graph: GraphModule, place: int) -> str | int:
    """The keyword of a flat input, or the number of the positional argument."""
    spec = getattr(graph.graph._codegen, "pytree_info", None)
    if spec is None:
        return place
    args, kwargs = spec.in_spec.children()
    names: list[str | int] = [
        i for i, child in enumerate(args.children()) for _ in range(child.num_leaves)
    ]
    keys = [
        key
        for key, child in zip(kwargs.context, kwargs.children(), strict=True)
        for _ in range(child.num_leaves)
    ]
    found: str | int = [*names, *keys][place]
    return found


def _with_another_last_token(graph: GraphModule, batch: Batch, ids: Tensor, vocabulary: int) -> Any:
    """The output for other last tokens."""
    other = ids.clone()
    other[:, -1] = (ids[:, -1] + 1) % vocabulary
    changed = batch.map(lambda t: other if t is ids else t)
    return at_inputs(graph)(*changed.args, **changed.kwargs)


def _same(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= ROUNDING * a.abs().max())


@dataclass(frozen=True)
class TokenAgreement:
    """Next tokens of some examples.

    Attributes:
        same: (examples,) positions with the same most likely token.
        positions: (examples,) positions compared, those that are no padding.
        surprise: mean negative log-likelihood of the tokens that came, in nats, by the original
            and by the compressed model; None where the text is not known.
    """

    same: np.ndarray
    positions: np.ndarray
    surprise: tuple[float, float] | None

    @property
    def independent(self) -> float:
        """For how many independent positions they count: those of one example depend on each other
        in whatever way (Kish 1965).
        """
        return float(self.positions.sum() ** 2 / np.square(self.positions).sum())

    @property
    def perplexity(self) -> tuple[float, float] | None:
        """Of both models on the text."""
        if self.surprise is None:
            return None
        before, after = (math.exp(min(s, 700.0)) for s in self.surprise)
        return before, after


class TokenCounts:
    """Adds up next-token decisions, batch after batch.

    Args:
        name: of the output.
        rule: that judges it.
    """

    def __init__(self, name: str, rule: next_token):
        self._name, self._rule = name, rule
        self._same, self._positions = list[Tensor](), list[Tensor]()
        self._surprise, self._scored = list[Tensor](), 0

    def add(self, batch: Batch, reference: Any, output: Any, real: Tensor | None) -> None:
        """Take a batch.

        Args:
            batch: without copies counted, as `reference` and `output` are.
            reference, output: of both models.
            real: (examples, length) bool, which tokens are no padding; None for all.
        """
        a, b = (floating(found)[self._name] for found in (reference, output))
        inside = torch.ones(a.shape[:2], dtype=torch.bool, device=a.device)
        inside = inside if real is None else real[: len(a)].to(a.device)
        equal = (a.argmax(2) == b.argmax(2)) & ~b.isnan().any(2) & inside
        self._same.append(equal.sum(1).cpu())
        self._positions.append(inside.sum(1).cpu())
        ids = token_ids(batch, self._rule.ids)
        if ids is not None and tuple(ids[: len(a)].shape) == tuple(a.shape[:2]):
            self._score((a, b), ids[: len(a)].to(a.device), inside)

    def _score(self, both: tuple[Tensor, Tensor], ids: Tensor, inside: Tensor) -> None:
        """Add the surprise of the tokens that came next, where these are no padding."""
        scored = inside[:, :-1] & inside[:, 1:]
        self._scored += int(scored.sum())
        surprise = torch.zeros(2, dtype=torch.float64)
        for i, scores in enumerate(both):
            likely = scores[:, :-1][scored].float().log_softmax(1)
            came = likely.gather(1, ids[:, 1:][scored][:, None].long())
            surprise[i] = -came.sum(dtype=torch.float64).cpu()
        self._surprise.append(surprise)

    def gather(self, group: Group) -> None:
        """Take what all ranks have seen, each of a run of batches."""
        own = self._same, self._positions, self._surprise, self._scored
        self._same, self._positions, self._surprise, self._scored = [], [], [], 0
        for same, positions, surprise, scored in group.gather(own, "tokens"):
            self._same += same
            self._positions += positions
            self._surprise += surprise
            self._scored += scored

    def result(self) -> TokenAgreement:
        """Of all batches so far."""
        surprise = None
        if self._scored:
            # Batch by batch, so that it does not depend on how many ranks share these.
            total = functools.reduce(torch.add, self._surprise)
            before, after = (total / self._scored).tolist()
            surprise = (before, after)
        same, positions = (torch.cat(parts).numpy() for parts in (self._same, self._positions))
        return TokenAgreement(same, positions, surprise)
