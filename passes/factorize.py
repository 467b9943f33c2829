"""Factorize: replace a linear layer or convolution by two with few channels between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxprune.errors import PlanError
from fxprune.graph.convolution import groups, setting
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import drop_unread
from fxprune.plans.factoring import names


@dataclass(frozen=True)
class Factorize:
    """Place factors that were computed before.

    Requires a graph of ATen calls in which each named weight is read by one convolution or linear
    call; ensures the same graph around them. `conv2` becomes `conv2.0`, without a bias, and
    `conv2.1`, with the bias there was.

    Attributes:
        factors: by the weight's name the weights of the first and of the second layer, as
            `Factoring.weights` makes them. A kernel axis, with its stride, padding and dilation,
            goes to the layer whose weight has it.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]

    def __call__(self, module: GraphModule) -> GraphModule:
        """Replace in place and return the module.

        Raises:
            PlanError: a named weight is not one layer's own.
        """
        for name, weights in self.factors.items():
            users, (path, _, leaf) = _readers(module, name), name.rpartition(".")
            owner = module.get_submodule(path)
            if (
                len(users) != 1
                or leaf != "weight"
                or owner._modules
                or set(owner._parameters) - {"weight", "bias"}
            ):
                raise PlanError(
                    f"{name} is not the weight of one layer of its own, which could be replaced "
                    "by two."
                )
            _replace(module, users[0], owner, name, weights)
        drop_unread(module)
        return module


def _readers(module: GraphModule, name: str) -> list[Node]:
    return [
        user
        for node in module.graph.nodes
        if node.op == "get_attr" and node.target == name
        for user in node.users
    ]


def _replace(
    module: GraphModule, node: Node, owner: nn.Module, name: str, weights: tuple[Tensor, Tensor]
) -> None:
    old = owner.weight
    grad = bool(old.requires_grad)
    for part, tensor in zip("01", weights, strict=True):
        layer = nn.Module()
        layer.register_parameter(
            "weight", nn.Parameter(tensor.to(old.device, old.dtype), requires_grad=grad)
        )  # type: ignore[arg-type]
        owner.add_module(part, layer)
    settings = _settings(node, tuple(old.shape), weights)  # type: ignore[arg-type]
    bias, own = node.args[2] if len(node.args) > 2 else None, name.removesuffix("weight") + "bias"
    with module.graph.inserting_before(node):
        if isinstance(bias, Node) and bias.target == own and len(_readers(module, own)) == 1:
            owner.get_submodule("1").register_parameter("bias", owner._parameters.pop("bias"))
            bias = module.graph.get_attr(f"{name.removesuffix('weight')}1.bias")
        first, second = (module.graph.get_attr(n) for n in names(name))
        hidden = module.graph.call_function(node.target, (node.args[0], first, None, *settings[0]))  # type: ignore[arg-type]
        result = module.graph.call_function(node.target, (hidden, second, bias, *settings[1]))  # type: ignore[arg-type]
    result.meta = dict(node.meta)
    hidden.meta = {k: v for k, v in node.meta.items() if k != "val"}
    node.replace_all_uses_with(result)
    module.graph.erase_node(node)
    del owner._parameters["weight"]


def _settings(
    node: Node, shape: tuple[int, ...], weights: tuple[Tensor, Tensor]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Stride, padding, dilation and groups of the two calls."""
    if operator_name(node.target) == "aten.linear":
        return (), ()
    first, second = weights
    rank = len(shape) - 2
    behind = [size > 1 for size in second.shape[2:]]
    text = node.args[4] if len(node.args) > 4 and isinstance(node.args[4], str) else None
    stride, dilation = (setting(node, i, 1, rank) for i in (3, 5))
    padding = setting(node, 4, 0, rank) if text is None else [0] * rank

    def part(mine: list[bool], count: int) -> tuple[Any, ...]:
        chosen = [
            [v if own else neutral for v, own in zip(values, mine, strict=True)]
            for values, neutral in ((stride, 1), (padding, 0), (dilation, 1))
        ]
        return (chosen[0], chosen[1] if text is None else text, chosen[2], count)

    return part([not b for b in behind], shape[1] * groups(node) // first.shape[1]), part(
        behind, first.shape[0] // second.shape[1]
    )
