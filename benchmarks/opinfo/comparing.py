"""Every result of a graph under other weights, and where two runs differ."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from fxprune.rules.labels import Value

Weights = dict[str, Tensor]


class Running(Interpreter):
    """Runs a graph with other weights and keeps every result."""

    def __init__(self, module: GraphModule, weights: Weights):
        super().__init__(module, garbage_collect_values=False)
        self.weights = weights

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The weight given in its place."""
        return self.weights.get(str(target), super().get_attr(target, args, kwargs))

    def values(self, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        """Every node's result."""
        with torch.no_grad():
            output = self.run(*inputs)
        found: dict[str, Any] = {
            node.name: value for node, value in self.env.items() if isinstance(node, Node)
        }
        found["output"] = tensors(output)
        return found


def tensors(output: Any) -> list[Tensor]:
    """The tensors that a net returns."""
    return [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]


def items(value: Any) -> tuple[Any, ...]:
    """What a node returns, one or several, as several."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def removed(value: Value, tensor: Tensor, keep_mask: np.ndarray) -> Tensor:
    """Which elements carry the label of a removed channel."""
    gone = torch.zeros(tensor.shape, dtype=torch.bool)
    for labels in value.axes:
        gone |= torch.from_numpy(~keep_mask[labels.numpy()])
    return gone


def jumps(old: Tensor, new: Tensor, tolerance: float) -> Tensor:
    """Where two results of one node differ."""
    if not old.is_floating_point():
        return old != new
    finite = old[old.isfinite()]
    scale = max(float(finite.abs().max()) if len(finite) else 1.0, 1e-30)
    return ~torch.isclose(old, new, rtol=0, atol=tolerance * scale, equal_nan=True)


def worst(left: list[Tensor], right: list[Tensor]) -> float:
    """The largest difference of two lists of outputs, of the largest value; infinity where their
    shapes differ.
    """
    most = 0.0
    for a, b in zip(left, right, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if not a.numel():
            continue
        finite = a[a.isfinite()]
        scale = max(float(finite.abs().max()) if len(finite) else 1.0, 1e-30)
        equal = (a == b) | (a.isnan() & b.isnan())
        off = torch.where(equal, 0.0, (a - b).abs()).double()
        most = max(most, float(off.nan_to_num(nan=float("inf")).max()) / scale)
    return most


def stays_finite(base: dict[str, Any], values: dict[str, Any]) -> bool:
    """Whether every result is finite where it was."""
    for name, old in base.items():
        for a, b in zip(items(old), items(values[name]), strict=True):
            checked = isinstance(a, Tensor) and a.is_floating_point()
            if checked and bool((a.isfinite() & ~b.isfinite()).any()):
                return False
    return True


def layers_of(node: Node) -> set[str]:
    """Names of the layers on which a node depends."""
    seen, left = {node}, [node]
    while left:
        new = [n for n in left.pop().all_input_nodes if n not in seen]
        seen.update(new)
        left += new
    return {str(n.target).rpartition(".")[0] for n in seen if n.op == "get_attr"}
